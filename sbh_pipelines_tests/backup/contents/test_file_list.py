"""The list of a backup's files: complete, cheap to change, quick to read, and readable around a hole."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.contents.file_list import FileListWriter, list_chunks, list_lines
from sbh_pipelines.backup.contents.manifest import Component
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.files.file import FileEntry
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.pack import PackPipeline
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import Sealer
from sbh_pipelines.stores.local import open_local


def entry(number: int, generation: int = 0) -> FileEntry:
    digest = hashlib.sha256(b"%d %d" % (number, generation)).hexdigest()
    return FileEntry(
        f"documents/{number:07}.pdf", number, f'"{digest[:32]}"', None, "2026-03-01T12:00:00Z", digest, {}, (digest,)
    )


class Lists:
    """A repository in a directory, and file lists written into it."""

    def __init__(self, directory: Path) -> None:
        self.store = open_local(directory / "bucket")
        self.directory = directory / "bucket" / "p"
        self.repository = self._opened()

    def _opened(self) -> Repository:
        return Repository(self.store, "p/", TenantId("acme"), Sealer(bytes(range(32)), "acme"))

    def reopen(self) -> Repository:
        self.repository = self._opened()
        self.repository.load_index()
        self.store.requests.clear()
        return self.repository

    def write(self, entries: Iterable[FileEntry]) -> tuple[Component, int, int]:
        """(the component, bytes stored, chunks stored)."""
        with PackPipeline(64 << 20, 16 << 20, 2, 2) as packs:
            writer = self.repository.writer(packs)
            lines = FileListWriter(writer)
            for one in entries:
                lines.add(one.path, one.to_line())
            listed = _component(lines.finish())
            writer.finish()
            self.repository.write_index("backup_20260301_1200", "files", writer)
        return listed, writer.bytes_stored, writer.chunks_new

    def read(self, listed: Component, lost: Callable[[CorruptObject], None] | None = None) -> list[str]:
        return [fields["path"] for fields, _ in list_lines(self.repository, listed, lost)]


def _component(facts: dict[str, Any]) -> Component:
    return Component("file_list", "", 0, "", facts)


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path)


@pytest.mark.parametrize(("files", "depth"), [(0, 0), (1, 0), (17, 0), (1000, 0), (20_000, 1), (50_000, 2)])
def test_a_list_comes_back(lists: Lists, files: int, depth: int) -> None:
    """Line for line; the document stays short, and every chunk stored is found by a walk."""
    entries = [entry(n) for n in range(files)]
    listed, _, stored = lists.write(entries)
    assert (listed.detail_depth, len(listed.detail) <= 64) == (depth, True)
    repository = lists.reopen()
    assert [line for _, line in list_lines(repository, listed)] == [one.to_line() for one in entries]
    chunks = list(list_chunks(repository, listed))
    assert len(set(chunks)) == len(chunks) == stored


def test_ten_changes_store_about_ten_changes(lists: Lists) -> None:
    """Not ten parts of the list of a thousand entries; and nothing for no change."""
    _, whole, _ = lists.write(entry(n) for n in range(30_000))
    _, again, none = lists.write(entry(n) for n in range(30_000))
    assert (again, none) == (0, 0)
    changed = range(1111, 30_000, 2900)
    _, stored, chunks = lists.write(entry(n, n in changed) for n in range(30_000))
    assert len(changed) == 10
    assert (stored < 60_000, stored < whole / 40, chunks < 40) == (True, True, True)


def test_a_file_more_or_less_moves_little(lists: Lists) -> None:
    """Where the list is cut depends on the paths near by, not on how many came before."""
    entries = [entry(2 * n) for n in range(20_000)]
    lists.write(entries)
    _, _, chunks = lists.write([*entries[:5000], entry(10_001), *entries[5000:]])
    assert chunks < 10
    _, _, chunks = lists.write([*entries[:9000], *entries[9001:]])
    assert chunks < 10


def test_a_list_is_read_with_few_requests_and_little_memory(lists: Lists) -> None:
    """Leaves lie side by side and are fetched some MiB at once, and are let go of afterwards."""
    listed, _, stored = lists.write(entry(n) for n in range(40_000))
    repository = lists.reopen()
    assert len(lists.read(listed)) == 40_000
    assert stored > 1000
    assert lists.store.requests["get"] < 20
    assert sum(map(len, repository._recent.values())) < 5 << 20


def test_a_list_of_the_first_release_is_read(lists: Lists) -> None:
    """Its document names the chunks of lines themselves, however many."""
    with PackPipeline(64 << 20, 16 << 20, 2, 2) as packs:
        writer = lists.repository.writer(packs)
        names = [writer.put(b"".join(entry(n).to_line() for n in range(at, at + 10))) for at in range(0, 1000, 10)]
        listed = _component({"detail": [name.result().hex() for name in names]})
        writer.finish()
    lists.reopen()
    assert lists.read(listed) == [entry(n).path for n in range(1000)]
    assert [chunk.hex() for chunk in list_chunks(lists.repository, listed)] == listed.detail


def test_what_is_lost_of_a_list_is_told(lists: Lists) -> None:
    """It raises; whoever can do without gets the rest, in order."""
    entries = [entry(n) for n in range(5000)]
    listed, _, _ = lists.write(entries[:2500])
    whole, _, _ = lists.write(entries)
    location = lists.repository.index.find(bytes.fromhex(listed.detail[0]))
    assert location is not None
    (lists.directory / "packs" / location.pack.hex()).unlink()
    lists.reopen()
    with pytest.raises(CorruptObject, match="missing"):
        lists.read(whole)
    with pytest.raises(CorruptObject, match="missing"):
        list(list_chunks(lists.repository, whole)) and lists.read(whole)
    told: list[CorruptObject] = []
    left = lists.read(whole, told.append)
    assert told
    assert left == [one.path for one in entries[-len(left) :]]
    assert 2000 < len(left) < 2600
