"""Obligation 1 in a directory: what was written is on disk, with the folders that lead to it, before the call returns."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store

WRITES: dict[str, Callable[[Store, str], object]] = {
    "put": lambda store, key: store.put(key, b"x"),
    "put of several parts": lambda store, key: store.put(key, bytes(9 << 20)),
    "create": lambda store, key: store.create(key, b"x"),
    "replace": lambda store, key: store.replace(key, b"y", store.put(key, b"x")),
    "put_stream of one piece": lambda store, key: store.put_stream(key, [b"x"], {}),
    "put_stream": lambda store, key: store.put_stream(key, [bytes(5 << 20)] * 3, {}),
    "put_stream of an odd name": lambda store, key: store.put_stream(key + "#1", [b"x", b"y"], {}),
}


@pytest.mark.parametrize("way", WRITES)
def test_a_write_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    store = open_local(tmp_path / "bucket")
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    WRITES[way](store, "files/acme/new/folder/object")
    (written,) = [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    found = written.stat()
    assert (found.st_ino, found.st_size) in synced, "the content"
    folders = [path for path in written.parents if path.is_relative_to(tmp_path / "bucket")]
    assert {folder.stat().st_ino for folder in folders} <= {inode for inode, _ in synced}, "the folders"
