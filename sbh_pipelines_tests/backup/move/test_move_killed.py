"""Moves that die at any write: nobody loses anything, and the same call goes on until the tenant is there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from sbh_pipelines.backup.move.move import Mover
from sbh_pipelines.errors import MoveUnproven, TenantMoved
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.backup.move.two_sites import TwoSites
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.effort import either


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_move_killed_at_each_of_its_writes(sites: TwoSites, when: str) -> None:
    """One run after the other dies at a later write of its own, on what those before it left."""
    clock = sites.clock = Clock()
    clock.now = datetime.now(UTC)
    first = sites.source.create_backup(ACME, ADMIN)["id"]
    state, others = sites.here.state(ACME), sites.others()
    moved = None
    for nth in range(1, 400, either(3, 1)):
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
        went = ACME not in [tenant.id for tenant in sites.source.tenants.all()]
        if went:
            assert sites.there.state(ACME) == state, "it went, so all of it is there"
    assert moved is not None
    assert nth > 20
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
    sites.move()
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
