"""The folder of an export: names that nobody chose for a file system, folders that are taken, disks that are full."""

import errno
import gc
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.reader import OpenBackup
from sbh_pipelines.backup.export.folder import ExportFolder, new_folder, table_file, usable_path
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import ExportFailed, RequestError
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.effort import examples

HOSTILE = (
    "../escape", "../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", "a/", "a", "a/b", "a/b/c", ".", "..", "./a", "", "/", "//",
    "nul\0byte", "line\nbreak", "\x1b[31m", "x" * 256, "ü" * 128, "d/" * 2000 + "e", "surrogate\udcff", "space ", "con", "a\\b", "~", "-rf",
    "manifest.json", "../manifest.json", "files-renamed/00000001", "photo.JPG", "bad\n.pdf", "no\n.ending of its own",
)  # fmt: skip


def test_hostile_keys_stay_below_the_folder(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is written, with its own content, and `files.jsonl` says which is which."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    with service.open_backup("latest", ACME, ADMIN) as backup:
        entries = list(backup.files())
    listed = [replace(entries[n % len(entries)], path=path) for n, path in enumerate(sorted(HOSTILE, key=ascii))]
    monkeypatch.setattr(OpenBackup, "files", lambda self: iter(listed))
    out = tmp_path / "below" / "out"
    report = as_document(service.exports.export("latest", ACME, ADMIN, out))
    lines = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [entry.path for entry in listed]
    places = [Path(os.path.realpath(out / line["file"])) for line in lines]
    assert len(set(places)) == len(HOSTILE)
    assert all(place.is_file() and place.is_relative_to(out) for place in places)
    bodies = application.state(ACME).files
    for line, place, entry in zip(lines, places, listed, strict=True):
        assert place.read_bytes() == next(bodies[e.path] for e in entries if e.sha256 == entry.sha256)
        assert line["file"].startswith(("files/", "files-renamed/"))
        assert line["file"] == f"files/{line['path']}" or line["file"].startswith("files-renamed/")
    as_they_are = {line["path"] for line in lines if line["file"] == f"files/{line['path']}"}
    assert as_they_are == {
        "a", "space ", "con", "a\\b", "~", "-rf", "manifest.json", "files-renamed/00000001", "photo.JPG",
    }  # fmt: skip
    assert report["files"]["renamed"] == len(HOSTILE) - len(as_they_are)
    renamed = {line["path"]: line["file"] for line in lines}
    assert renamed["bad\n.pdf"].endswith(".pdf")
    assert not renamed["no\n.ending of its own"].endswith("own")
    assert [p.name for p in (tmp_path / "below").iterdir()] == ["out"]


_keys = st.lists(st.text("ab./\\\0\n ü\udcff", max_size=6), unique=True, max_size=12)


@settings(max_examples=examples(60))
@given(keys=_keys)
def test_no_key_leads_out_or_into_another_file(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("keys")
    with new_folder(place / "out") as target:
        names = {}
        for number, key in enumerate(keys):
            written, names[key] = target.create_tenant_file(key, number)
            with written:
                written.write(ascii(key).encode())
    assert [p.name for p in place.iterdir()] == ["out"]
    assert {key: (place / "out" / name).read_text() for key, name in names.items()} == {key: ascii(key) for key in keys}
    for key, name in names.items():
        assert (name == f"files/{key}") <= usable_path(key)


def test_files_of_tables_have_names_of_their_own() -> None:
    """Two tables never share one, and no name is a path."""
    pairs = [("a", "b"), ("a.b", "c"), ("a", "b.c"), ("a", "../b"), ("a", "/"), ("a", "x" * 63), ("ü" * 31, "表" * 21), ("a", "b c"), ("a", "b/c"),
             ("a", "b\nc"), ("a", "\udcff"), ("", ""), ("", "."), ("a b", "c")]  # fmt: skip
    names = [table_file(schema, name, "csv") for schema, name in pairs]
    assert len(set(names)) == len(pairs)
    assert names[0] == "a.b.csv"
    for name in names:
        assert "/" not in name
        assert name.isprintable()
        assert not name.startswith(".")
        assert len(name.encode()) < 200


@pytest.mark.parametrize("taken", ["file in it", "folder in it", "is a file", "hidden file in it"])
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, taken: str) -> None:
    folder = tmp_path / "out"
    if taken == "is a file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        inside = folder / (".hidden" if "hidden" in taken else "mine")
        inside.mkdir() if "folder" in taken else inside.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match="not empty"), new_folder(folder):
        raise AssertionError
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_a_link_to_one_are_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with new_folder(tmp_path / "link") as target:
        target.create("one").close()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["one"]
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]


def test_a_folder_that_was_filled_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "mine").write_text("mine")

    with pytest.raises(RequestError, match="not empty"), new_folder(tmp_path / "out"):
        fill(tmp_path / "out")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["out", "out/mine"]


@pytest.mark.parametrize(("code", "format"), [(errno.ENOSPC, "csv"), (errno.EDQUOT, "parquet")])
def test_a_disk_that_fails_is_an_error_and_leaves_nothing(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, format: str
) -> None:
    """At the third write: in the middle of the tables. Nothing is written later, when a file's number is another's."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    write, left = os.write, [3]

    def full(fd: int, body: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        return write(fd, body)

    monkeypatch.setattr("sbh_pipelines.backup.export.folder.os.write", full)
    with pytest.raises(ExportFailed) as caught:
        service.exports.export("latest", ACME, ADMIN, tmp_path / "exports" / "out", format=format)
    monkeypatch.undo()
    assert os.strerror(code) in str(caught.value)
    assert caught.value.remedy
    others = [open(tmp_path / f"other {n}", "wb", buffering=0) for n in range(50)]
    del caught
    gc.collect()
    assert [os.fstat(other.fileno()).st_size for other in others] == [0] * 50
    for other in others:
        other.close()
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", Path("/proc/sbh-export/out")):
        with pytest.raises(ExportFailed), new_folder(place):
            raise AssertionError


def test_a_closed_file_writes_no_more(tmp_path: Path) -> None:
    """Closing twice is harmless; writing would go to whatever has the descriptor's number by then."""
    with ExportFolder(tmp_path).create("one") as written:
        written.write(b"1")
    with open(tmp_path / "two", "wb") as two:
        written.close()
        with pytest.raises(ValueError, match="closed"):
            written.write(b"2")
        two.write(b"3")
    assert (tmp_path / "two").read_bytes() == b"3"


def test_short_writes_are_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may take a part of what it is given."""
    write = os.write
    monkeypatch.setattr("sbh_pipelines.backup.export.folder.os.write", lambda fd, body: write(fd, bytes(body)[:3]))
    with ExportFolder(tmp_path).create("one") as written:
        written.write(b"0123456789")
    assert (tmp_path / "one").read_bytes() == b"0123456789"
    assert written.size == 10
