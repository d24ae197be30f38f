"""Progress and figures as people see them."""

import pytest

from sbh_pipelines.cli import progress
from sbh_pipelines.cli.output import count, plural, printable, utc
from sbh_pipelines.cli.progress import _Bars, _drawn, bars, in_words
from sbh_pipelines.concurrency import Meter
from sbh_pipelines.model import Progress


def test_lines_are_few_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bars() as sink:
        sink(Progress("snapshot_tables", "tenant-1", 1, 10, "tables"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with bars() as sink:
        sink(Progress("snapshot_tables", "tenant-1", 1, 10, "tables"))
    assert capsys.readouterr().err == "snapshot tables: tenant-1: 1 of 10 tables\n"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with bars(quiet=True) as sink:
        sink(Progress("snapshot_tables", "tenant-1", 1, 10, "tables"))
    assert capsys.readouterr().err == ""


def test_bars_are_drawn_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with bars() as sink:
        for done in (1, 5):
            sink(Progress("enumerate_files", "tenant-1", done, 10, "files"))
        sink(Progress("enumerate_files", "tenant-2", 5, 0, "files"))
        sink(Progress("validate", "[red]", 1, 1, "packs"))
    shown = capsys.readouterr().err
    assert "enumerate files" in shown
    assert "[red]" in shown


def test_a_step_of_a_restore_ends_where_the_next_begins() -> None:
    """What is one thing has no number, and a step that is over does not go on moving."""
    drawing = _drawn()
    sink = _Bars(drawing)
    for step, done, total in (("check", 0, 1), ("compare", 3, 11), ("merge", 1, 4)):
        sink(Progress(f"restore: {step}", "tenant-1", done, total, "tables"))
    sink(Progress("validate", "tenant-1", 5, 0, "packs"))
    check, compare, merge, validate = drawing.tasks
    assert (check.finished, check.fields["counted"]) == (True, "")
    assert (compare.finished, compare.fields["counted"]) == (True, "")
    assert (merge.finished, merge.fields["counted"]) == (False, "1 of 4 tables")
    assert (validate.total, validate.fields["counted"]) == (None, "5 packs")


def test_figures_have_units() -> None:
    assert in_words(Progress("a_b", "t", 3, 0, "files")) == "a b: t: 3 files"
    assert in_words(Progress("restore: commit", "t", 0, 1, "tables")) == "restore: commit: t"
    assert count(1234567) == "1,234,567"
    assert (plural(1, "error"), plural(0, "error")) == ("1 error", "0 errors")
    assert utc("2024-01-15T12:00:00Z") == "2024-01-15 12:00:00 UTC"
    assert utc("2024-01-15T13:00:00+01:00") == "2024-01-15 12:00:00 UTC"
    assert utc("whenever") == "whenever"


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31m\0b\u202e") == "a\\x1b[31m\\x00b\\u202e"


def test_a_rate_and_the_time_left_are_told_of_a_big_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes move the bar although no table is done; a step that has only begun says neither."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    drawing = _drawn()
    drawn, lines = _Bars(drawing), progress._Lines()
    for seconds, moved, share in ((0, 1 << 20, 0.01), (10, 100 << 20, 0.25)):
        now[0] += seconds
        notice = Progress("snapshot_tables", "tenant-1", 0, 3, "tables", moved, share)
        drawn(notice)
        lines(notice)
    (task,) = drawing.tasks
    assert task.percentage == pytest.approx(25)
    told = "0 of 3 tables, 100 MiB at 10 MiB/s, 30 s left"
    assert task.fields["counted"] == told
    assert capsys.readouterr().err.splitlines() == [
        "snapshot tables: tenant-1: 0 of 3 tables",
        f"snapshot tables: tenant-1: {told}",
    ]


def test_a_meter_tells_units_at_once_and_bytes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[Progress]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter(told.append, "read", "acme", "tables", 2, expected=100)
    meter.moved(10)
    now[0] = 0.6
    meter.moved(30)
    meter.moved(1)
    meter.done(1)
    meter.moved(200)
    meter.done(2)
    assert [(one.done, one.moved, one.share) for one in told] == [(0, 40, 0.4), (1, 41, 0.41), (2, 241, 0.99)]
