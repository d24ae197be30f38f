"""Folders of moments: private, gone afterwards, and where a process was killed removed by the next one."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.moment.references import References
from sbh_pipelines.errors import NoRoom
from sbh_pipelines.repository.journal.segments.room import moment_folder

_KILLED = """
import os, signal
from sbh_pipelines.repository.journal.segments.room import moment_folder
with moment_folder() as folder:
    (folder / "rows").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(folder: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(folder, (long_ago, long_ago))


def test_what_a_killed_process_left_is_removed_by_the_next(parent: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], env={**os.environ, "TMPDIR": str(parent)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = parent.iterdir()
    assert (left / "rows").exists()
    with moment_folder() as young:
        assert left.exists()  # its process may only just have made it
        age(left)
        age(young)
        with moment_folder() as other:
            assert set(parent.iterdir()) == {young, other}  # what is held stays, however old it is
    assert list(parent.iterdir()) == []


def test_it_is_for_this_user_alone_and_links_are_not_followed(parent: Path) -> None:
    kept = parent / "kept"
    kept.mkdir()
    (kept / "x").touch()
    link = parent / "sbh-moment-link"
    link.symlink_to(kept)
    age(kept)
    os.utime(link, (0, 0), follow_symlinks=False)
    with moment_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with References(folder) as references:
            assert references is not None
            assert (folder / "references").exists()
    assert set(parent.iterdir()) == {kept, link}
    assert (kept / "x").exists()


def test_without_room_it_is_refused_before_anything_is_made(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1000))
    with pytest.raises(NoRoom, match="1,000 bytes are free"), moment_folder():
        pass
    assert list(parent.iterdir()) == []
