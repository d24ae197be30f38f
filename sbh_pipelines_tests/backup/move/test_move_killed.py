"""Moves that die at any write: nobody loses anything, and the same call goes on until the tenant is there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from sbh_pipelines.backup.move.move import Mover
from sbh_pipelines.errors import MoveRefused, MoveUnproven, TenantMoved, UnknownTenant
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.backup.move.two_sites import WITHOUT_ACME, TwoSites
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT
from sbh_pipelines_tests.support.effort import either


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_move_killed_at_each_of_its_writes(sites: TwoSites, when: str) -> None:
    """One run after the other dies at a later write of its own, on what those before it left."""
    clock = sites.clock = Clock()
    clock.now = datetime.now(UTC)
    first = sites.source.create_backup(ACME, ADMIN)["id"]
    state, others = sites.here.state(ACME), sites.others()
    moved, nth, whole = None, 1, False
    while nth < 400:
        clock.move()
        death = Death(nth, when)
        try:
            with struck(death):
                moved = sites.move()
        except (Killed, RuntimeError):
            assert death.dead
        assert sites.others() == others
        assert sites.here.state(ACME) == state
        assert first in {backup["id"] for backup in sites.source.list_backups(ACME, ADMIN)}
        if not death.dead:
            break
        moved = None
        clock.move()
        arrived = sites.there.state(ACME) == state
        if ACME not in [tenant.id for tenant in sites.source.tenants.all()]:
            assert arrived, "it went, so all of it is there"
            at_target = [tenant.id for tenant in sites.target.tenants.all()]
            assert ACME in at_target or _unfinished(sites), "nobody backs it up, and nobody is told"
        # Once all of it is there, one death at each write that is left: from there on one site after the other lets it go, or has it.
        whole, nth = (True, 1) if arrived and not whole else (whole, nth + (1 if whole else either(3, 1)))
    assert moved is not None
    assert whole
    assert nth > 8
    clock.move()
    assert sites.there.state(ACME) == state
    there = sites.target
    assert ACME in [tenant.id for tenant in there.tenants.all()]
    assert ACME not in [tenant.id for tenant in sites.source.tenants.all()]
    listed = {backup["id"] for backup in there.list_backups(ACME, ADMIN)}
    assert {backup["id"] for backup in sites.source.list_backups(ACME, ADMIN)} < listed
    for backup in listed:
        assert there.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
    for service in (sites.source, there):
        assert service.audit.verify(ADMIN, ACME).valid
    with pytest.raises(TenantMoved):
        sites.source.create_backup(ACME, ADMIN)


def _unfinished(sites: TwoSites) -> list[str]:
    """Whose moves the target's health says are not finished."""
    return [one.subject for one in sites.target.health.examine(ADMIN).findings if one.kind == "move_unfinished"]


@contextmanager
def _before_the_proof(work: Callable[[], object]) -> Iterator[None]:
    """`work` is done when all was brought and restored, and nothing is proved yet."""
    leave = Mover.leave

    def late(mover: Mover, *rest: Any) -> Any:
        work()
        return leave(mover, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mover, "leave", late)
        yield


def test_what_was_written_meanwhile_keeps_it_from_being_finished(sites: TwoSites) -> None:
    """The error names the table; backups go on at the first site; the same call then brings the difference."""
    clock = sites.clock = Clock()
    clock.now = datetime.now(UTC)
    sites.source.create_backup(ACME, ADMIN)

    def write() -> None:
        sites.here.database.run("INSERT INTO notes VALUES (1, 'late')")
        sites.here.write_file(ACME, "late.txt", b"late as well")

    with _before_the_proof(write), pytest.raises(MoveUnproven, match=r"public\.notes: .*1 files") as unproven:
        sites.move()
    assert unproven.value.on == "acme at eu_1"
    assert "same command again" in unproven.value.remedy
    assert ACME in [tenant.id for tenant in sites.source.tenants.all()]
    sites.source.create_backup(ACME, ADMIN, "incremental")
    moved = sites.move()
    assert sites.there.state(ACME) == sites.here.state(ACME)
    assert b"late\n" in sites.there.state(ACME).rows["notes"]
    assert moved.proof is not None


@pytest.mark.parametrize("what", ["rows", "files"])
def test_what_was_written_at_the_other_site_is_found_out_and_made_good(sites: TwoSites, what: str) -> None:
    clock = sites.clock = Clock()
    clock.now = datetime.now(UTC)
    sites.source.create_backup(ACME, ADMIN)

    def write() -> None:
        if what == "rows":
            sites.there.database.run("UPDATE projects SET body = 'early' WHERE tenant_id = 1")
        else:
            sites.there.write_file(ACME, "docs/0 of acme.txt", b"early")

    with (
        _before_the_proof(write),
        pytest.raises(MoveUnproven, match="projects" if what == "rows" else "files") as unproven,
    ):
        sites.move()
    assert unproven.value.on == "acme at eu_2"
    clock.move()
    there = sites.there.state(ACME)
    with pytest.raises(MoveRefused, match="what did not come with the move"):  # it may be in use there
        sites.move()
    assert sites.there.state(ACME) == there
    assert sites.plan().others
    sites.move(overwrite=True)
    assert sites.there.state(ACME) == sites.here.state(ACME)


def test_a_backup_made_meanwhile_is_brought_by_the_next_call(sites: TwoSites) -> None:
    """Also one of the very minute: no backup is made at the other site that could have its id."""
    sites.clock = Clock()
    sites.clock.now = datetime.now(UTC)
    sites.source.create_backup(ACME, ADMIN)
    made: list[str] = []
    with (
        _before_the_proof(lambda: made.append(sites.source.create_backup(ACME, ADMIN)["id"])),
        pytest.raises(MoveUnproven, match="were not brought"),
    ):
        sites.move()
    sites.move()
    assert made[0] in {backup["id"] for backup in sites.target.list_backups(ACME, ADMIN)}


def _cut_short(sites: TwoSites, after: str) -> None:
    """A move that dies after this step."""
    step = getattr(Mover, after)

    def last(mover: Mover, *rest: Any) -> None:
        step(mover, *rest)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mover, after, last)
        with pytest.raises(Killed):
            sites.move()


def test_one_that_went_and_did_not_arrive_is_ended_where_it_is(sites: TwoSites) -> None:
    """Its rows are gone from the first site already, so the move cannot go on; the other site tells of it, and then has it."""
    sites.source.create_backup(ACME, ADMIN)
    state = sites.here.state(ACME)
    _cut_short(sites, "leave")
    sites.here.database.run(WITHOUT_ACME)
    assert [(one.tenant_id, one.state, one.site) for one in sites.target.tenants.moved(ADMIN)] == [
        (ACME, "on_its_way", "eu_1")
    ]
    assert _unfinished(sites) == [ACME]
    with pytest.raises(UnknownTenant):
        sites.move()
    made = sites.target.moves.arrived(ACME, ADMIN)
    assert sites.target.list_backups(ACME, ADMIN)[0]["id"] == made
    assert sites.there.state(ACME) == state
    assert _unfinished(sites) == []
    assert [one.id for one in sites.target.tenants.all()] == [ACME, BOLT]
    with pytest.raises(MoveRefused, match="nothing is said"):
        sites.target.moves.arrived(ACME, ADMIN)


def test_what_works_at_the_other_site_is_not_made_what_it_was(sites: TwoSites) -> None:
    """A move was cut short, and the customer went live there all the same: said to be there, it is backed up as it is."""
    sites.source.create_backup(ACME, ADMIN)
    _cut_short(sites, "restore")
    sites.there.database.run("INSERT INTO notes VALUES (1, 'new there')")
    now = sites.there.state(ACME)
    with pytest.raises(MoveRefused, match=r"public\.notes: 0 rows changed, 1 more"):
        sites.move()
    sites.target.moves.arrived(ACME, ADMIN)
    assert sites.there.state(ACME) == now
    with pytest.raises(MoveRefused, match="has a tenant of this slug"):
        sites.move()


def test_one_that_is_given_up_may_go_elsewhere_or_begin_again(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    _cut_short(sites, "bring")
    with pytest.raises(UnknownTenant):
        sites.target.moves.arrived(ACME, ADMIN)
    sites.target.moves.give_up(ACME, ADMIN)
    assert sites.plan().stage == "new"
    with pytest.raises(MoveRefused, match="not on its way"):
        sites.target.moves.give_up(ACME, ADMIN)
    _cut_short(sites, "restore")
    with pytest.raises(MoveRefused, match="has rows here"):
        sites.target.moves.give_up(ACME, ADMIN)
    sites.move()
    assert sites.there.state(ACME) == sites.here.state(ACME)
