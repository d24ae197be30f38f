"""`sbh journal` against the real stack: set up, drained, looked into, given up; and the loop, which stops when it is told to."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sbh_pipelines.cli.commands.upkeep.journal import _asked_to_stop, _loop
from sbh_pipelines.cli.show.journal import drain_line
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import PrivilegeMissing, SourceUnavailable
from sbh_pipelines.model import utc_now
from sbh_pipelines_tests.cli.conftest import Sbh, sql

TENANT = "tenant-2"


@pytest.fixture
def journal(sbh: Sbh, settings_file: Path) -> Iterator[Sbh]:
    """A journal that was just set up; given up afterwards, so that no slot stays."""
    yield sbh
    assert sbh("journal", "drop", "--confirm", "sbh_journal", "--json").status == 0


def test_the_bad_transaction_is_found_and_the_moment_before_it_is_in_a_window(
    journal: Sbh, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_RESTORE__SENSITIVE", '["users.name"]')
    assert journal("backup", "create", TENANT, "--quiet").status == 0
    done = journal("journal", "setup", "--json")
    assert done.status == 0, done.out
    assert "public.attachments" in done.document["drained"]["covered"]
    assert done.document["registered"]["new"] + done.document["registered"]["known"] >= 1
    assert journal("backup", "create", TENANT, "--quiet").status == 0
    assert journal("journal", "drain", "--quiet").status == 0
    since = utc_now().isoformat()  # the server's is this machine's clock
    with sql(
        sample_stack,
        "UPDATE users SET email = email || '.x', name = 'Nobody' WHERE tenant_id = 2",
        "INSERT INTO tenant_settings VALUES (2, 'added', '1')",
        after="DELETE FROM tenant_settings WHERE key = 'added'",
    ):
        assert journal("journal", "drain", "-q").status == 0
        found = journal("journal", "show", TENANT, "--since", since, "--samples", "1", "--json")
        assert found.status == 0
        (changed,) = [one for one in found.document["transactions"] if "public.users" in one["tables"]]
        assert changed["tables"]["public.users"]["updated"] > 0
        assert changed["samples"][0]["columns"]["name"] == "***"
        assert found.document["suspect"]["xid"] == changed["xid"]
        assert found.document["suspect"]["command"] == f"sbh restore diff @{changed['before']} -t {TENANT}"
        shown = journal("journal", "show", TENANT, "--since", since, "--table", "users")
        assert f"sbh restore diff @{changed['before']} -t {TENANT}" in shown.out
        windows = journal("tenants", "recovery-points", TENANT, "--pitr", "--json").document["tenants"][0]
        assert any(one["start"] < changed["before"] < one["end"] for one in windows["windows"]), windows
        assert windows["not_journaled"] == []
        assert TENANT in journal("tenants", "recovery-points", TENANT, "--pitr").out
        status = journal("journal", "status", "--json")
        assert status.status == 0
        assert status.document["slot"]["lost"] is False
        assert [gap for gap in status.document["gaps"] if gap["time"] > since] == []  # others have given a slot up
        assert "drained until" in journal("journal", "status").out


def test_it_is_given_up_only_when_it_is_named_and_leaves_a_gap(journal: Sbh, sample_stack: Stack) -> None:
    assert journal("journal", "drain", "-q").status == 0
    refused = journal("journal", "drop", "--json")
    assert (refused.status, refused.code) == (2, "SBH-205")
    assert journal("journal", "drop", "--confirm", "sbh_journal").status == 0
    status = journal("journal", "status", "--json")
    assert (status.status, status.document["slot"]) == (8, None)
    gaps = journal("journal", "gaps", "--json").document["gaps"]
    assert {gap["kind"] for gap in gaps} >= {"dropped"}
    assert "on purpose" in journal("journal", "gaps").out


def test_what_is_wrong_is_said(sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sbh("journal", "show", TENANT, "--since", "yesterday", "--json").code == "SBH-200"
    assert sbh("journal", "show", "nobody", "--json").code == "SBH-202"
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "false")
    off = sbh("journal", "drain", "--json")
    assert (off.status, off.code) == (3, "SBH-100")
    assert sbh("journal", "show", TENANT, "--json").code == "SBH-624"


def drained(changes: int) -> Any:
    return SimpleNamespace(
        changes=changes,
        fence_time=0,
        transactions=1,
        events=0,
        covered=("public.a",),
        held_bytes=1 << 20,
        seconds=0.5,
        gap=None,
    )


def looped(outcomes: list[Any], said: list[str]) -> Any:
    """A loop over drains with these outcomes, which is told to stop when they are used up."""
    stop = threading.Event()
    waiting = iter(outcomes)

    def work() -> Any:
        outcome = next(waiting)
        if outcome is outcomes[-1]:
            stop.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return _loop(work, stop, 0.0, said.append)


def test_the_loop_goes_on_after_what_may_pass_and_says_a_line_for_each() -> None:
    said: list[str] = []
    done = looped([drained(3), SourceUnavailable("Cannot connect"), drained(4)], said)
    assert (done.drains, done.failures, done.changes) == (2, 1, 7)
    assert said[0] == drain_line(drained(3))
    assert said[0].startswith("1970-01-01T00:00:00Z  1 transaction, 3 changes, 0 events, 1 table covered, 1 MiB")
    assert "SBH-301" in said[1]
    assert len(said) == 3


def test_the_loop_ends_with_what_does_not_pass() -> None:
    with pytest.raises(PrivilegeMissing):
        looped([PrivilegeMissing("May not"), drained(1)], [])


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_drain_at_work_end(kind: signal.Signals) -> None:
    before: Callable[..., Any] | int | None = signal.getsignal(kind)

    def work() -> Any:
        os.kill(os.getpid(), kind)
        return drained(1)

    with _asked_to_stop() as stop:
        done = _loop(work, stop, 3600.0, lambda _: None)
    assert done.drains == 1
    assert signal.getsignal(kind) is before
