"""Drains beside others: which fence proves what, and a drain that is not alone with its slot or whose lease was taken."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.journal.drain import drain, drain_until
from sbh_pipelines.backup.journal.giving_up import give_up
from sbh_pipelines.backup.journal.survey import take_survey
from sbh_pipelines.backup.journal.view.status import journal_status
from sbh_pipelines.backup.journal.window.snapshot import Snapshot
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.session.snapshot import exported_snapshot
from sbh_pipelines.errors import LeaseHeld, LeaseLost, SlotTrouble
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.lease import acquire
from sbh_pipelines_tests.backup.journal.test_drain import CHANGES, Killed, told_exactly
from sbh_pipelines_tests.support.journal import Journaled, journal_of, logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

REGIONS = ("eu-west-1", "us-east-1")


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        yield made


@pytest.fixture
def journaled(server: OwnServer, tmp_path: Path) -> Iterator[Journaled]:
    """Drained once: the chain has begun."""
    with journal_of(server, tmp_path) as made:
        yield made


def ahead() -> Any:
    """The clock of a machine to which every lease of a drain is over."""
    return utc_now() + timedelta(minutes=4)


def hold_lease(journaled: Journaled) -> None:
    """As another drain, whatever else holds it."""
    journal = journaled.site().journal("eu-west-1")
    acquire(journal.store, journal.prefix, "other", "drain", 100, ahead)


def test_drain_until_ends_with_a_fence_that_began_after_the_snapshot(journaled: Journaled) -> None:
    """Whatever fence there was before."""
    with exported_snapshot(journaled.settings.database) as (_, point, _):
        known = journaled.drain().fence
        fence = drain_until(journaled.site(), point)
    assert fence > known >= Snapshot.parse(point.snapshot).xmax
    assert journaled.directories("eu-west-1")[-1].facts.fences[-1].xid == fence


@pytest.mark.parametrize("written", [False, True])
def test_drain_until_believes_drains_of_others(
    journaled: Journaled, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """One that was stored while it waited and began after the snapshot, as the log says or one that was stored before it."""
    fences: list[int] = []

    def others(site: Site, **_: Any) -> None:
        if times := next(rounds):
            if written:
                journaled.run("INSERT INTO projects VALUES (300, 1, 'a', NULL)")
            fences.append(drain(site).fence)
            assert times <= 2
        raise LeaseHeld("Another drain works on it")

    rounds = count()
    monkeypatch.setattr("sbh_pipelines.backup.journal.drain.drain", others)
    with exported_snapshot(journaled.settings.database) as (_, point, _):
        # Where the server does not say how far its log is written, it is the second.
        fence = drain_until(journaled.site(), point if written else replace(point, lsn="0/0"))
    assert (fence, len(fences)) == (fences[-1], 1 if written else 2)


def test_a_drain_whose_slot_another_one_advanced_stores_nothing(
    journaled: Journaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease was taken by a machine whose clock is ahead: what that one told would be missing in what it tells."""
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    journaled.run(CHANGES[0])
    target = "sbh_pipelines.backup.journal.drain.take_survey"

    def survey(*arguments: Any) -> Any:
        monkeypatch.setattr(target, take_survey)
        drain(Site(journaled.settings, ahead))
        journaled.run("INSERT INTO projects VALUES (300, 1, 'a', NULL)")
        return take_survey(*arguments)

    monkeypatch.setattr(target, survey)
    with pytest.raises(LeaseLost, match="Another drain"):
        journaled.drain()
    journaled.forget_lease()
    assert journaled.drain().changes == 1
    told_exactly(journaled, start)


def test_a_drain_whose_lease_was_taken_stores_nothing(journaled: Journaled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the other one has not come as far as to advance the slot."""
    journaled.run(CHANGES[0])
    before = journaled.directories("eu-west-1")[-1].name
    monkeypatch.setattr("sbh_pipelines.backup.journal.drain._Drain._settle", lambda *_: hold_lease(journaled))
    with pytest.raises(LeaseLost):
        journaled.drain()
    assert journaled.directories("eu-west-1")[-1].name == before


def test_a_chain_whose_end_is_damaged_is_not_gone_on_with(journaled: Journaled) -> None:
    """Nothing says then that the log is still the one that was told; another region's end is as good."""
    before = journaled.drain().incarnation
    _damage(journaled, "eu-west-1")
    result = journaled.drain()
    assert (result.gap, result.incarnation) == (None, before)
    for region in REGIONS:
        _damage(journaled, region)
    result = journaled.drain()
    assert "damaged" in str(result.gap)
    assert result.incarnation > before
    assert {gap.kind for region in REGIONS for gap in journaled.site().journal(region).gaps()} == {"chain_damaged"}


def _damage(journaled: Journaled, region: str) -> None:
    """The newest segment's directory."""
    journal = journaled.site().journal(region)
    incarnation = journal.incarnations()[-1]
    newest = max(journal.segments(incarnation), key=lambda name: name.end).below.rpartition("/")[2]
    (key,) = [one.key for one in journal.store.list(journal.prefix) if one.key.endswith(newest)]
    data = bytearray(journal.store.get(key, 1 << 24))
    for at in range(len(data)):
        data[at] ^= 1
    journal.store.put(key, bytes(data))


PLANTED = "-ffffffffffffffff-1-ffffffff/0/0000000000000001-0000000000000002-0123456789abcdef"


@pytest.mark.parametrize("stamp", ["99991231T235959Z", "20270101T000000Z", "99999999T999999Z"])
def test_an_object_that_somebody_put_among_the_segments_changes_nothing(journaled: Journaled, stamp: str) -> None:
    """Also before a chain begins: its name does not say when that was."""
    before = journaled.drain().incarnation
    journal = journaled.site().journal("us-east-1")
    journal.store.put(journal.prefix + stamp + PLANTED, b"x")
    result = journaled.drain()
    assert (result.gap, result.incarnation) == (None, before)
    status = journal_status(journaled.site())
    assert {one.incarnation for one in status.regions} == {before}
    assert [one.what for one in status.issues if stamp in one.on] == (
        [] if stamp == "99999999T999999Z" else ["An incarnation of the journal is not believed"]
    )
    journaled.run("SELECT pg_drop_replication_slot('sbh_journal')")
    result = journaled.drain()
    assert before < result.incarnation < "2999"
    start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
    journaled.run(CHANGES[0])
    assert journaled.drain().gap is None
    told_exactly(journaled, start)


def test_a_chain_of_one_damaged_segment_is_a_gap(server: OwnServer, tmp_path: Path) -> None:
    """Nothing of it opens, but its mark does."""
    with journal_of(server, tmp_path) as journaled:
        before = journaled.site().journal("eu-west-1").incarnations()[-1]
        for region in REGIONS:
            _damage(journaled, region)
        result = journaled.drain()
        assert "damaged" in str(result.gap)
        assert result.incarnation > before
        assert {gap.kind for gap in journaled.site().journal("us-east-1").gaps()} == {"chain_damaged"}


@pytest.mark.parametrize("held", ["0", "10"])
def test_a_slot_that_the_journal_does_not_know_is_left_alone(server: OwnServer, tmp_path: Path, held: str) -> None:
    """Another installation's, or another program's; also where it holds more than ours may."""
    with journal_of(server, tmp_path, drained=False) as journaled:
        journaled.sections = {
            "journal": {"enabled": True, "dsn": "user=sbh_admin", "max_lag_gib": 0.0001 if held == "0" else 1}
        }
        journaled.settings = journaled.configured()
        journaled.run("SELECT pg_create_logical_replication_slot('sbh_journal', 'pgoutput')", *CHANGES)
        journaled.run("CREATE TABLE bulk AS SELECT repeat('x', 500) FROM generate_series(1, 6000)")
        before = journaled.database.ask("SELECT confirmed_flush_lsn, restart_lsn FROM pg_replication_slots")
        with pytest.raises(SlotTrouble, match="not known") as raised:
            journaled.drain()
        assert "sbh journal drop --confirm sbh_journal" in raised.value.remedy
        assert journaled.database.ask("SELECT confirmed_flush_lsn, restart_lsn FROM pg_replication_slots") == before
        assert journaled.database.ask("SELECT count(*) FROM pg_publication") == [(0,)]
        give_up(journaled.site())
        assert journaled.drain().gap is None


def test_a_slot_of_this_name_on_another_server_is_left_alone(journaled: Journaled, tmp_path: Path) -> None:
    """The chain that there is says nothing of it."""
    with logical_server() as other, journal_of(other, tmp_path, drained=False) as elsewhere:
        elsewhere.directory = journaled.directory
        elsewhere.settings = elsewhere.configured()
        elsewhere.run("SELECT pg_create_logical_replication_slot('sbh_journal', 'pgoutput')")
        with pytest.raises(SlotTrouble, match="not known"):
            elsewhere.drain()
        assert elsewhere.database.ask("SELECT count(*) FROM pg_replication_slots") == [(1,)]
        assert journaled.site().journal("eu-west-1").gaps() == []


def test_a_first_drain_killed_after_it_made_the_slot_heals(
    server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot has a mark."""
    with journal_of(server, tmp_path, drained=False) as journaled:
        with monkeypatch.context() as patched:
            patched.setattr("sbh_pipelines.backup.journal.drain.place_fence", _killed)
            with pytest.raises(Killed):
                journaled.drain()
        assert journaled.database.ask("SELECT slot_name FROM pg_replication_slots") == [("sbh_journal",)]
        journaled.forget_lease()
        start = {tenant: journaled.rows(tenant) for tenant in (1, 2, 3)}
        assert journaled.drain().gap is None
        journaled.run(CHANGES[0])
        journaled.drain()
        told_exactly(journaled, start)


def _killed(*_: object) -> None:
    raise Killed
