"""A tenant that moves between sites: its rows, its files and its history arrive, and nobody else notices."""

import shutil

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.errors import MoveRefused, SbhError, StoreDenied, TenantMoved
from sbh_pipelines_tests.backup.create.test_crash import struck
from sbh_pipelines_tests.backup.move.two_sites import WITHOUT_ACME, TwoSites
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application


def test_a_tenant_arrives_with_all_it_has_and_had(sites: TwoSites) -> None:
    first = sites.source.create_backup(ACME, ADMIN)["id"]
    before = sites.here.state(ACME)
    sites.here.wreck(ACME)
    now, others = sites.here.state(ACME), sites.others()
    moved = sites.move()
    assert sites.there.state(ACME) == now == sites.here.state(ACME)
    assert sites.others() == others
    assert moved.proof is not None
    assert moved.proof.files == len(now.files)
    there = sites.target
    listed = [backup["id"] for backup in there.list_backups(ACME, ADMIN)]
    assert listed == [moved.arrival_id, moved.backup_id, first]
    for backup in listed:
        assert there.validate_backup(backup, ACME, ADMIN, deep=True)["issues"] == []
    there.restore_backup(first, ACME, ADMIN)
    assert sites.there.state(ACME) == before
    assert sites.others() == others


def test_the_history_goes_on_where_it_came(sites: TwoSites) -> None:
    """Holds come along; the next incremental backup builds on what came; the trail says where the former one ended."""
    first = sites.source.create_backup(ACME, ADMIN)["id"]
    sites.source.retention.hold(ACME, ADMIN, backup_id=first, reason="litigation")
    sites.source.keys.rotate([ACME], ADMIN)
    moved = sites.move()
    there = sites.target
    arrival = there.get_backup(moved.arrival_id, ACME, ADMIN)
    assert (arrival["type"], arrival["parent"]) == ("incremental", moved.backup_id)
    assert first in [hold.backup_id for hold in there.retention.holds(ACME, ADMIN)]
    sites.there.database.run("UPDATE projects SET body = 'changed there' WHERE tenant_id = 1 AND id % 5 = 0")
    made = there.create_backup(ACME, ADMIN, "incremental")
    assert made["type"] == "incremental"
    assert made["parent"] == moved.arrival_id
    (arrived,) = [one for one in there.audit.events(ADMIN, ACME).events if one.event == "tenant.arrived"]
    left = sites.source.audit.events(ADMIN, ACME).events
    assert arrived.props["trail_before"]["hash"] in [one.hash for one in left]
    assert arrived.props["proof"]["rows"] > 0
    assert {"tenant.move_started", "tenant.moved"} <= {one.event for one in left}


def test_nothing_at_the_first_site_asks_for_backups_any_more(sites: TwoSites) -> None:
    for tenant in (ACME, BOLT):
        sites.source.create_backup(tenant, ADMIN)
    sites.move()
    here = sites.source
    assert [tenant.id for tenant in here.tenants.all()] == [BOLT]
    assert [(one.tenant_id, one.state, one.site) for one in here.tenants.moved(ADMIN)] == [(ACME, "went", "eu_2")]
    assert [tenant.id for tenant in here.health.examine(ADMIN).tenants] == [BOLT]
    assert here.drills.candidates(ADMIN, 5) == [BOLT]
    assert here.drills.report(ADMIN).tenants == 1
    assert [point.tenant_id for point in here.backups.recovery_points([], ADMIN).recovery_points] == [BOLT]
    for kind in ("full", "incremental"):
        with pytest.raises(TenantMoved, match="moved to eu_2"):
            here.create_backup(ACME, ADMIN, kind)
    (backup, *_) = here.list_backups(ACME, ADMIN)
    before = sites.here.state(ACME)
    sites.here.wreck(ACME)
    with pytest.raises(TenantMoved, match="moved to eu_2"):
        here.restore_backup(backup["id"], ACME, ADMIN, request=RestoreRequest(safety_backup=True))
    here.restore_backup(backup["id"], ACME, ADMIN, request=RestoreRequest(safety_backup=False))
    assert sites.here.state(ACME) == before


def test_what_is_left_is_erased_and_the_tenant_comes_back(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    sites.move()
    state = sites.there.state(ACME)
    sites.source.keys.erase(ACME, ADMIN, confirm=ACME, reason="moved")
    assert sites.there.state(ACME) == state
    assert sites.target.list_backups(ACME, ADMIN)
    _remove(sites.here)
    sites.source.keys.readmit(ACME, ADMIN)
    back = sites.target.moves.run(ACME, ADMIN, sites.source.moves, ADMIN)
    assert sites.here.state(ACME) == state
    assert back.to_site == "eu_1"
    assert [tenant.id for tenant in sites.source.tenants.all()] == [ACME, BOLT]
    assert [one.site for one in sites.target.tenants.moved(ADMIN)] == ["eu_1"]
    sites.source.create_backup(ACME, ADMIN, "incremental")


def _remove(site: Application) -> None:
    """As the application deletes a tenant."""
    site.database.run(WITHOUT_ACME)
    shutil.rmtree(site.bucket / "files" / ACME / "docs")
    (site.bucket / "files" / ACME / "empty").unlink()


def test_it_comes_back_to_the_backups_that_it_left(sites: TwoSites) -> None:
    """And goes again: each site's mark is overwritten by the next."""
    first = sites.source.create_backup(ACME, ADMIN)["id"]
    sites.move()
    _remove(sites.here)
    sites.there.database.run("UPDATE projects SET body = 'changed there' WHERE tenant_id = 1 AND id % 5 = 0")
    back = sites.target.moves.run(ACME, ADMIN, sites.source.moves, ADMIN)
    assert sites.here.state(ACME) == sites.there.state(ACME)
    listed = [backup["id"] for backup in sites.source.list_backups(ACME, ADMIN)]
    assert (listed[0], listed[-1]) == (back.arrival_id, first)
    _remove(sites.there)
    sites.move()
    assert sites.there.state(ACME) == sites.here.state(ACME)
    assert [tenant.id for tenant in sites.target.tenants.all()] == [ACME, BOLT]
    assert [tenant.id for tenant in sites.source.tenants.all()] == [BOLT]


def test_people_are_told_where_an_older_mark_keeps_it_from_being_backed_up(sites: TwoSites) -> None:
    """As where the catalog is put back from an older copy: the mark is genuine, and of before the tenant came back."""
    sites.source.create_backup(ACME, ADMIN)
    sites.move()
    assert _made_after(sites) == []
    mark = sites.here.bucket / "_sbh-catalog" / "eu-west-1" / "moves" / f"{ACME}.json"
    older = mark.read_bytes()
    _remove(sites.here)
    back = sites.target.moves.run(ACME, ADMIN, sites.source.moves, ADMIN)
    assert _made_after(sites) == []
    mark.write_bytes(older)
    assert [tenant.id for tenant in sites.source.tenants.all()] == [BOLT]
    (error,) = _made_after(sites)
    assert back.arrival_id in error.why
    assert f"`sbh tenants move {ACME} --to SETTINGS --arrived`" in error.remedy
    sites.source.moves.arrived(ACME, ADMIN)
    assert _made_after(sites) == []
    assert [tenant.id for tenant in sites.source.tenants.all()] == [ACME, BOLT]


def _made_after(sites: TwoSites) -> list[SbhError]:
    """What the first site's health says of marks that are older than backups."""
    return [one.error for one in sites.source.health.examine(ADMIN).findings if one.kind == "made_after_it_went"]


def test_old_backups_with_a_key_of_their_own_go_before_it_comes_back(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    sites.move()
    _remove(sites.here)
    for service in (sites.source, sites.target):
        service.keys.rotate([ACME], ADMIN, new_data_key=True)
    with pytest.raises(MoveRefused, match="of epoch 2, that was made there after it went") as refused:
        sites.target.moves.plan(ACME, ADMIN, sites.source.moves, ADMIN)
    assert "sbh tenants erase acme" in refused.value.remedy
    sites.source.keys.erase(ACME, ADMIN, confirm=ACME, reason="moved")
    sites.source.keys.readmit(ACME, ADMIN)
    sites.target.moves.run(ACME, ADMIN, sites.source.moves, ADMIN)
    assert sites.here.state(ACME) == sites.there.state(ACME)


def test_a_plan_writes_nothing_and_says_how_far_a_move_is(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    plan = sites.plan()
    assert (plan.stage, plan.from_site, plan.to_site, plan.problems) == ("new", "eu_1", "eu_2", [])
    assert plan.files == 4
    assert plan.rows == sum(text.count(b"\n") for text in sites.here.state(ACME).rows.values())
    assert plan.objects > 5
    assert sites.there.state(ACME).rows["tenants"] == b""
    sites.move()
    assert sites.plan().stage == "done"


def test_nobody_has_to_delete_anything(sites: TwoSites) -> None:
    """As the roles of `deploy/policies` that restore may delete neither below a catalog nor of a backup."""
    sites.source.create_backup(ACME, ADMIN)

    def refuse(verb: str, key: str, body: bytes) -> tuple[BaseException, str]:
        return StoreDenied("may not delete", on=key), "before"

    with struck(refuse, ("delete",)):
        sites.move()
    assert [tenant.id for tenant in sites.target.tenants.all()] == [ACME, BOLT]
    assert [tenant.id for tenant in sites.source.tenants.all()] == [BOLT]


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_a_process_that_has_not_heard_of_it_makes_no_backup_either(sites: TwoSites, kind: str) -> None:
    """What it knows of moves is of a moment ago: under the tenant's lease it looks again."""
    sites.source.create_backup(ACME, ADMIN)
    late = sites.source
    assert [tenant.id for tenant in late.tenants.all()] == [ACME, BOLT]
    moved = sites.move()
    sites.here.database.run("INSERT INTO notes VALUES (1, 'late')")
    with pytest.raises(TenantMoved, match="moved to eu_2"):
        late.create_backup(ACME, ADMIN, kind)
    assert late.list_backups(ACME, ADMIN)[0]["id"] == moved.backup_id
    sites.target.create_backup(ACME, ADMIN, kind)
