"""A tenant's list of files from one backup to the next: what ten changes among many entries add to a repository, and what
comparing, reading and fingerprinting the list costs. No object is read: entries are made up, the repository is a directory.

Names, hashes and ETags are random, so that nothing compresses better than in a real list.
"""

import hashlib
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time
from typing import Any

import _common as common

from sbh_pipelines.backup.contents.file_list import FileListWriter, list_lines
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.backup.create.parent import ParentFiles
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.files.listing import listing_fingerprint
from sbh_pipelines.model import TenantId, parse_timestamp
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.stores.base import ObjectInfo
from sbh_pipelines.stores.local import open_local

_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    args = common.arguments(__doc__, repeat=1, files=200_000, changes=10)
    count = 20_000 if args.small else args.files
    changed = frozenset(random.Random(5).sample(range(count), args.changes))
    with tempfile.TemporaryDirectory() as directory:
        store = open_local(Path(directory) / "bucket")
        repository = Repository(store, "p/", TenantId("bench"), Sealer(bytes(range(32)), "bench"))
        first = _write(repository, count, frozenset())
        unchanged = _write(repository, count, frozenset())
        second = _write(repository, count, changed)
        store.requests.clear()
        begun = process_time()
        lines = sum(len(line) for _, line in list_lines(repository, second["list"]))
        read_s, requests = process_time() - begun, store.requests["get"]
        some = min(count, 200_000)  # of a longer list only so many are held for these two
        same_s = _merge(repository, second["list"], some, changed)
        print_s = _fingerprint(some)
    figures = {
        "files": count,
        "changes": args.changes,
        "list_bytes": lines,
        "stored_first": first["stored"],
        "stored_unchanged": unchanged["stored"],
        "stored_changed": second["stored"],
        "chunks_first": first["chunks"],
        "chunks_changed": second["chunks"],
        "levels_above_the_leaves": second["list"].detail_depth,
        "requests_to_read": requests,
        "write_us_per_file": round(first["cpu_s"] / count * 1e6, 1),
        "read_us_per_file": round(read_s / count * 1e6, 1),
        "compare_us_per_file": round(same_s / some * 1e6, 1),
        "fingerprint_us_per_file": round(print_s / some * 1e6, 2),
    }
    common.show(f"{count:,} files, {args.changes} changes", ["", "figure"], [[k, f"{v:,}"] for k, v in figures.items()])
    per_change = second["stored"] / args.changes
    common.finish(
        "incremental_files",
        figures,
        {
            "stored_vs_whole_list": common.ratio(second["stored"], first["stored"]),
            "stored_per_change_vs_entry": common.ratio(per_change, first["stored"] / count),
        },
    )


def _hash(number: int, generation: int) -> str:
    return hashlib.sha256(b"%d %d" % (number, generation)).hexdigest()


def _info(number: int, generation: int) -> ObjectInfo:
    modified = _BEGUN + timedelta(seconds=number * 37 % 31_000_000)
    etag = f'"{_hash(number, generation)[:32]}"'
    return ObjectInfo(f"documents/{number // 1000:04}/{number:07}-report.pdf", 1000 + number % 65_521, etag, modified)


def _entry(number: int, generation: int) -> FileEntry:
    info, digest = _info(number, generation), _hash(number, generation + 10)
    modified = info.modified.strftime("%Y-%m-%dT%H:%M:%SZ")
    attributes = {"Content-Type": "application/pdf"}
    chunk = _hash(number, generation + 20)
    return FileEntry(info.key, info.size, info.etag, None, modified, digest, attributes, (chunk,))


def _write(repository: Repository, count: int, changed: frozenset[int]) -> dict[str, Any]:
    spent = 0.0
    with PackPipeline(64 << 20, 16 << 20, 2, 4) as packs:
        writer = repository.writer(packs)
        lines = FileListWriter(writer)
        for start in range(0, count, 10_000):
            made = [_entry(n, n in changed) for n in range(start, min(start + 10_000, count))]
            begun = process_time()
            for entry in made:
                lines.add(entry.path, entry.to_line())
            spent += process_time() - begun
        begun = process_time()
        listed = Component("file_list", "", 0, "", lines.finish())
        writer.finish()
        spent += process_time() - begun
    return {"list": listed, "stored": writer.bytes_stored, "chunks": writer.chunks_new, "cpu_s": spent}


def _merge(repository: Repository, component: Component, count: int, changed: frozenset[int]) -> float:
    listed = [_info(n, n in changed) for n in range(count)]
    parent = ParentFiles(repository, component, parse_timestamp("2027-01-01T00:00:00Z"), in_directory=False)
    begun = process_time()
    for _ in parent.same(iter(listed), ""):  # the files' chunks are looked for; there are none, which costs the same
        pass
    return process_time() - begun


def _fingerprint(count: int) -> float:
    class Listed:
        lists_all = True

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return iter(listed)

    listed = [_info(n, 0) for n in range(count)]
    store: Any = Listed()
    begun = process_time()
    listing_fingerprint(store, "", ("backups/",))
    return process_time() - begun


if __name__ == "__main__":
    main()
