"""A full disk of temporary files is an error of its own, which passes: it names the folder, and what there has to be room for."""

import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sbh_pipelines.backup.journal.key_states import KeyState, KeyStates
from sbh_pipelines.backup.journal.routing.spool import Spool
from sbh_pipelines.backup.journal.routing.states import State, States
from sbh_pipelines.cli.commands.upkeep.journal import _loop
from sbh_pipelines.errors import NoRoom
from sbh_pipelines.repository.journal.segments import segment
from sbh_pipelines.repository.journal.segments.directory import BlockRef
from sbh_pipelines.repository.journal.segments.segment import SegmentWriter
from sbh_pipelines_tests.support.full_disk import full_disk


def _spool() -> None:
    with Spool(frame_bytes=1000) as spool:
        for number in range(1000):
            spool.append((number, bytes(500)), 500)


def _states(folder: Path | None = None) -> None:
    with States(10, folder) as states:
        for number in range(5000):
            states.put(0, (b"%d" % number,), State(True, None, number))  # type: ignore[arg-type]


def _key_states() -> None:
    with closing(KeyStates(1 << 20)) as states:  # sqlite itself holds 8 MiB back
        for number in range(500):
            states.put("t", b"%d" % number, KeyState(True, True, bytes(50_000), b""))


def _segment() -> None:
    with SegmentWriter("eu", "i", 1, 2) as writer:
        ref = BlockRef("home", 1, 0, 1000, bytes(32), None, None, 1)  # type: ignore[arg-type]
        for _ in range(200):
            writer.copy_block("1", ref, bytes(1000))


@pytest.mark.parametrize("work", [_spool, _states, _key_states, _segment])
def test_it_is_told_as_what_passes(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(BlockRef, "as_text", lambda ref: "")
    work()
    with pytest.raises(NoRoom) as caught, full_disk():
        work()
    assert caught.value.transient
    assert (caught.value.on, caught.value.code) == (tempfile.gettempdir(), "SBH-625")
    assert "bytes" in caught.value.why
    assert "TMPDIR" in (caught.value.remedy or "")


def test_a_folder_of_its_own_is_the_one_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRoom) as caught, full_disk():
        _states(tmp_path)
    assert caught.value.on == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_loop_of_drains_goes_on() -> None:
    stop, said = threading.Event(), list[str]()

    def drain() -> None:
        if said:
            stop.set()
        with full_disk():
            _spool()

    assert _loop(drain, stop, 0.0, said.append).failures == 2  # type: ignore[arg-type]
    assert "SBH-625" in said[0]
