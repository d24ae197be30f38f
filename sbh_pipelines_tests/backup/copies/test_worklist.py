"""Whose backups a copy is of: of whom the application knows no more, of whom it cannot be asked, of whom it leaves out by now."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sbh_pipelines.backup.copies.run import run_copy
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.copies.status import copy_status
from sbh_pipelines.backup.copies.upkeep import keep_copy
from sbh_pipelines.backup.copies.verification import verify_copy
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, CopyUnverified, NotConfirmed, SourceError, StoreUnavailable
from sbh_pipelines.model import Tenant, utc_now
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import StorageSettings
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_store
from sbh_pipelines_tests.backup.create.test_crash import struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, Copied
from sbh_pipelines_tests.support.restore.platform import PROGRAMS

BOTH = [Application.tenant(ACME), Application.tenant(BOLT)]
GONE = SourceError("The database does not answer", on="app")


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack, copy={"objective_minutes": 60})


def back_up(copied: Copied) -> dict[str, str]:
    service = copied.service()
    return {tenant: service.create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}


def standings(copied: Copied, tenants: list[Tenant], **asked: Any) -> dict[str, str]:
    found = copy_status(copied.site(), COPY, tenants, utc_now(), everyone=True, **asked)
    assert [str(issue) for issue in found.issues] == []
    return {str(line.tenant_id): line.standing for line in found.tenants}


def without_source(copied: Copied) -> Site:
    """Nothing answers where the backups are made; the copy does."""

    def opened(storage: StorageSettings, place: Place) -> Store:
        nowhere = storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
        return open_store(storage if place.bucket == copied.copy_bucket else nowhere, place)

    return Site(copied.settings(), utc_now, opener=opened)


def test_a_tenant_whose_row_is_gone_is_brought_verified_and_kept(copied: Copied) -> None:
    back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    made = copied.service().create_backup(ACME, ADMIN)["id"]
    copied.service(platform=PROGRAMS).platform.create(ADMIN)
    done = run_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert [str(error) for error in done.issues] == []
    told = {str(one.tenant_id): (one.backup_id, bool(one.ended), one.error) for one in done.tenants}
    assert told[ACME] == (made, True, None)
    assert standings(copied, BOTH[1:]) == {ACME: "ended", BOLT: "current", "_platform": "current"}
    again = run_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert (again.objects, [one.error for one in again.tenants]) == (0, [None, None])
    kept = keep_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert {str(one.tenant_id): len(one.kept) for one in kept.tenants} == {ACME: 2, BOLT: 1, "_platform": 1}
    assert kept.good
    verified = verify_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert {str(one.tenant_id) for one in verified.tenants} == {ACME, BOLT, "_platform"}
    assert verified.valid


def test_without_the_database_the_catalogs_say_whose_backups_there_are(copied: Copied) -> None:
    made = back_up(copied)
    done = run_copy(copied.site(), COPY, [], everyone=True, unlisted=GONE)
    assert {str(one.tenant_id): one.backup_id for one in done.tenants} == made
    assert (done.unlisted, [one.ended for one in done.tenants]) == (GONE, ["", ""])
    assert standings(copied, [], unlisted=GONE) == {ACME: "current", BOLT: "current"}
    service = copied.service(database={"dsn": "postgresql://nobody@127.0.0.1:9/none"})
    (status,) = service.copies.status(ADMIN)
    assert {str(line.tenant_id): line.standing for line in status.tenants} == {ACME: "current", BOLT: "current"}
    assert isinstance(status.unlisted, SourceError)


def test_when_the_source_is_gone_the_copy_says_each_recovery_point(copied: Copied) -> None:
    made = back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    status = copy_status(without_source(copied), COPY, [], utc_now(), everyone=True, unlisted=GONE)
    assert {str(line.tenant_id): line.backup_id for line in status.tenants} == made
    assert all(line.recovery_point is not None and line.standing == "current" for line in status.tenants)
    assert (list(status.by_copy), {type(issue) for issue in status.issues}) == ([REGION], {StoreUnavailable})
    settings = copied.settings()
    storage = settings.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    copies = [copy.model_copy(update={"endpoint_url": settings.storage.endpoint_url}) for copy in settings.copies]
    lost = BackupService(settings.model_copy(update={"storage": storage, "copies": copies}))
    (status,) = lost.copies.status(ADMIN)
    assert {str(line.tenant_id): line.backup_id for line in status.tenants} == made
    assert {line.met for line in lost.drills.report(ADMIN).copies} == {True}


def test_the_erased_stay_out(copied: Copied) -> None:
    back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    copied.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="the customer left")
    done = run_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert [str(one.tenant_id) for one in done.tenants] == [BOLT]
    assert standings(copied, BOTH[1:]) == {BOLT: "current"}
    late = f"files/{ACME}/backups/packs/{'0' * 64}"
    copied.client.put_object(Bucket=copied.copy_bucket, Key=late, Body=b"of a copier that had lost its lease")
    kept = keep_copy(copied.site(), COPY, BOTH[1:], everyone=True)
    assert (list(kept.erased), kept.good) == ([ACME], True)
    assert late not in copied.versions(copied.copy_bucket)


def test_who_is_left_out_from_now_on_is_told_of_and_can_be_removed(copied: Copied) -> None:
    back_up(copied)
    copied.service().copies.run(ADMIN, COPY)
    copied.copy = {**copied.copy, "tiers": ["critical"]}
    done = copied.service().copies.run(ADMIN, COPY)
    (out,) = [one for one in done.tenants if one.left_out is not None]
    assert (str(out.tenant_id), out.kept_backups, out.kept_since is not None) == (BOLT, 1, True)
    (line,) = [line for line in copied.service().copies.status(ADMIN)[0].tenants if line.standing == "left_out"]
    assert "1 of its backups lie there, and are not continued since" in line.why
    assert (line.kept_since, line.misplaced) == (out.kept_since, False)
    assert [len(one.kept) for one in copied.service().copies.prune(ADMIN, COPY).tenants] == [1, 1]
    found = {finding.kind for finding in copied.service().health.examine(ADMIN).findings}
    assert "copy_left" in found
    copied.sections = {"residency": {"tenants": {BOLT: [REGION]}}}
    wrong = {one.kind: one.error for one in copied.service().health.examine(ADMIN).findings}
    assert wrong["copy_misplaced"].remedy == f"sbh copies forget {COPY} --tenant {BOLT} --confirm"
    assert copied.service().copies.run(ADMIN, COPY).issues == ()
    rotated = copied.service().keys.rotate([BOLT], ADMIN)
    assert "copies forget" in (rotated.rotated[0].copies or ())[0].note
    copies = copied.service().copies
    with pytest.raises(NotConfirmed):
        copies.forget(ADMIN, COPY, BOLT)
    with pytest.raises(CopyError, match="not removed"):
        copies.forget(ADMIN, COPY, ACME, confirm=True)
    gone = copies.forget(ADMIN, COPY, BOLT, confirm=True)
    assert (list(gone.repositories), gone.left, gone.objects > 0) == ([BOLT], 0, True)
    assert copied.versions(copied.copy_bucket, f"files/{BOLT}/") == []
    assert "copy_misplaced" not in {finding.kind for finding in copied.service().health.examine(ADMIN).findings}
    assert copied.objects(copied.copy_bucket, f"files/{ACME}/")
    copied.copy, copied.sections = {**copied.copy, "tiers": []}, {}
    back = {str(one.tenant_id): one for one in copied.service().copies.run(ADMIN, COPY).tenants}
    assert (back[BOLT].left_out, back[BOLT].error, back[BOLT].objects > 0) == (None, None, True)


def test_what_fails_of_a_whole_region_is_known_until_it_is_over(copied: Copied) -> None:
    back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        ours = verb in ("list", "get") and "/audit/" in key and key.endswith(("events/", "head.json"))
        return (StoreUnavailable("503", on=key), "before") if ours else None

    with struck(strike, ("get", "list")):
        failed = run_copy(copied.site(), COPY, BOTH, everyone=True)
    assert failed.issues
    (status,) = copied.service().copies.status(ADMIN)
    assert [(step.region, step.step) for step in status.steps] == [(REGION, "audit")]
    service = copied.service(health={"refresh_s": 0})
    assert "copy_incomplete" in {finding.kind for finding in service.health.examine(ADMIN).findings}
    assert 'sbh_copy_steps_failed{copy="dr"} 1.0' in service.health.prometheus_text(ADMIN)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    assert list(copied.service().copies.status(ADMIN)[0].steps) == []
    assert "copy_incomplete" not in {finding.kind for finding in service.health.examine(ADMIN).findings}


def test_a_copy_that_something_else_makes_and_never_began_is_not_valid(
    application: Application, embedded_stack: Stack
) -> None:
    copied = Copied(application, embedded_stack, copy={"kind": "external"})
    copied.service().create_backup(ACME, ADMIN)
    found = verify_copy(copied.site(), COPY, BOTH, everyone=True)
    assert not found.valid
    assert {str(one.tenant_id): type(one.error) for one in found.tenants} == {ACME: CopyUnverified, BOLT: type(None)}


def test_a_state_of_the_future_is_said_and_wins_for_no_longer_than_it_is_there(copied: Copied) -> None:
    made = back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    states = CopyStates(copied.place())
    known = states.read(REGION)[ACME]
    states.record(REGION, [replace(known, backup_id="backup_20990101_0000", seen_at=utc_now() + timedelta(days=400))])
    assert states.read(REGION)[ACME].backup_id == made[ACME]
    assert "yet to come" in states.damages[0].why
    assert states.keep_at_source(REGION) > 0
    assert states.read(REGION)[ACME].backup_id == made[ACME]
    assert states.damages == []


def test_a_merge_under_way_never_shows_fewer_tenants(copied: Copied) -> None:
    """Between the listing and the reading another process merges what was listed."""
    back_up(copied)
    run_copy(copied.site(), COPY, BOTH, everyone=True)
    reader, other = CopyStates(copied.place()), CopyStates(copied.place())
    known, merged = dict(reader.read(REGION)), list[str]()
    other.record(REGION, [replace(known[ACME], seen_at=utc_now() + timedelta(days=400))])  # so that a merge is worth it

    def strike(verb: str, key: str, body: bytes) -> None:
        if verb == "get" and "/states/" in key and not merged:
            merged.append(key)
            assert other.keep_at_source(REGION) > 0

    with struck(strike, ("get",)):
        found = reader.read(REGION)
    assert merged
    assert found.keys() == known.keys()
