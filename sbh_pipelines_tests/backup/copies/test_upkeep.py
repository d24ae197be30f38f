"""The upkeep of a copy: relative to what a verification of the copy found there, tenant by tenant."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sbh_pipelines.backup.copies.retention import CopyKept, enforce
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.copies.upkeep import keep_copy
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, CopyUnverified, StoreDenied
from sbh_pipelines.model import BackupId
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.copied import COPY, DAY, REGION, Copied
from sbh_pipelines_tests.support.store_time import store_time

__all__ = ["application", "database"]

FEW = {"full_backups": {"keep_daily": 2, "keep_weekly": 0, "keep_monthly": 0}, "keep_within_hours": 0}


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with store_time(made):
        yield made


@pytest.fixture
def copied(application: Application, embedded_stack: Stack, clock: Clock) -> Copied:
    return Copied(application, embedded_stack, clock, copy={"retention": FEW})


def some_days(copied: Copied, clock: Clock) -> list[str]:
    """Four backups of four days and one of twenty days later, all copied; their ids."""
    made = []
    for _ in range(4):
        made.append(copied.back_up())
        copied.bring()
        clock.now += DAY
    clock.now += 20 * DAY
    made.append(copied.back_up())
    copied.bring()
    return made


def test_what_was_verified_is_what_counts(copied: Copied, clock: Clock) -> None:
    """Nothing is forgotten before a verification, nor where the last one failed; after a good one the policy is applied."""
    made = some_days(copied, clock)
    done = copied.service().copies.prune(ADMIN, "dr", [ACME])
    assert [type(issue) for one in done.tenants for issue in one.issues] == [CopyUnverified]
    assert not done.good
    _, there, prefix = copied.ends()
    newest = f"{prefix}manifests/{made[-1]}.json"
    body = there.get(newest)
    there.put(newest, b"{}")
    assert not copied.service().copies.verify(ADMIN, "dr", [ACME]).valid
    assert not copied.service().copies.prune(ADMIN, "dr", [ACME]).good
    assert copied.there() == made
    there.put(newest, body)
    clock.now += DAY / 24
    assert copied.service().copies.verify(ADMIN, "dr", [ACME]).valid
    done = copied.service().copies.prune(ADMIN, "dr", [ACME])
    assert (done.good, [list(one.forgotten) for one in done.tenants]) == (True, [made[:2]])
    assert copied.there() == made[2:]
    events = copied.service().audit.events(ADMIN, event="copy.pruned").events
    assert [(event.props["copy"], event.props["forgotten"]) for event in events] == [("dr", 2)]


def test_a_tenant_that_is_not_copied_is_named(application: Application, embedded_stack: Stack, clock: Clock) -> None:
    copied = Copied(application, embedded_stack, clock, copy={"tiers": ["critical"]})
    done = copied.service().copies.prune(ADMIN, "dr")
    assert list(done.left_out) == ["bolt"]
    assert [one.tenant_id for one in done.tenants] == [ACME]


def test_it_is_the_platforms(copied: Copied) -> None:
    for user in (UserContext("a", ACME, Role.ADMIN), UserContext("b", "*", Role.OPERATOR)):
        with pytest.raises(AccessDenied):
            copied.service().copies.prune(user, "dr", [ACME])


def test_credentials_that_may_not_delete_are_told_of_once(copied: Copied, clock: Clock) -> None:
    """Day after day: no event, one message, holds and all else as ever; the status says it until somebody with the right ran."""
    made = some_days(copied, clock)
    assert copied.service().copies.verify(ADMIN, "dr", [ACME]).valid
    hold = copied.service().retention.hold(ACME, ADMIN, reason="case 1", backup_id=made[1])
    denied = StoreDenied("The store refused", on="s3://copy", why="AccessDenied", remedy="none")
    with struck(lambda verb, key, _: (denied, "before"), ("delete",)):
        for _ in range(2):
            done = copied.service().copies.prune(ADMIN, "dr", [ACME])
            assert isinstance(done.undeleted, StoreDenied)
            assert "copy-upkeep.json" in done.undeleted.remedy
            assert (done.good, [list(one.issues) for one in done.tenants], list(done.issues)) == (False, [[]], [])
            clock.now += DAY / 24
    assert copied.there() == made
    _, there, prefix = copied.ends()
    assert there.head(f"{prefix}holds/{hold.id}.json").size > 0
    (status,) = copied.service().copies.status(ADMIN, "dr")
    assert isinstance(status.undeleted, StoreDenied)
    assert [line.standing for line in status.tenants if line.tenant_id == ACME] == ["current"]
    assert copied.service().audit.events(ADMIN, ACME, event="copy.*").events == []
    done = copied.service().copies.prune(ADMIN, "dr", [ACME])
    assert (done.good, [list(one.forgotten) for one in done.tenants]) == (True, [made[:1]])
    assert copied.service().copies.status(ADMIN, "dr")[0].undeleted is None
    events = copied.service().audit.events(ADMIN, ACME, event="copy.*").events
    assert [(event.event, event.props["backup_id"]) for event in events] == [("copy.backup_deleted", made[0])]


def test_a_region_that_denies_deletes_holds_up_no_other(
    application: Application, embedded_stack: Stack, clock: Clock
) -> None:
    copied = Copied(application, embedded_stack, clock, copy={"retention": FEW}, beside=["us-east-1"])
    application.database.run("UPDATE tenants SET region = 'us-east-1' WHERE slug = 'bolt'")
    service, made = copied.service(), list[str]()
    for _ in range(4):
        made.append(service.create_backup("bolt", ADMIN, backup_type="full")["id"])
        service.copies.run(ADMIN, "dr")
        clock.now += DAY
    clock.now += 20 * DAY
    made.append(service.create_backup("bolt", ADMIN, backup_type="full")["id"])
    service.copies.run(ADMIN, "dr")
    denied = StoreDenied("The store refused", on="s3://copy", why="AccessDenied", remedy="none")
    with struck(lambda verb, key, _: (denied, "before") if "/eu-west-1/delete-probe" in key else None, ("delete",)):
        done = service.copies.prune(ADMIN, "dr")
    assert isinstance(done.undeleted, StoreDenied)
    assert [list(one.forgotten) for one in done.tenants if one.tenant_id == "bolt"] == [made[:2]]


def test_what_a_killed_run_deleted_is_told_by_the_next(copied: Copied, clock: Clock) -> None:
    made = some_days(copied, clock)
    death = Death(1, "after")
    with (
        pytest.raises(Killed),
        struck(lambda *asked: death(*asked) if asked[0] == "delete" or death.dead else None),
    ):
        copied.enforce()
    assert copied.there() == made[2:]
    assert copied.service().audit.events(ADMIN, ACME, event="copy.*").events == []
    clock.now += DAY
    copied.enforce()
    events = copied.service().audit.events(ADMIN, ACME, event="copy.*").events
    assert sorted(event.props["backup_id"] for event in events) == made[:2]
    copied.bring()
    assert copied.there() == made[2:]  # nor is it copied again


def test_a_pack_that_was_put_again_counts_where_its_mark_cannot_be_deleted(copied: Copied, clock: Clock) -> None:
    backup = copied.back_up()
    copied.bring()
    _, there, prefix = copied.ends()
    packs = [info.key for info in there.list(f"{prefix}packs/")]
    key = max(packs, key=lambda one: there.head(one).size)
    body = there.get(key)
    there.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    alone = BackupService(copied.place().target.settings, clock=clock)
    assert alone.validate_backup(backup, ACME, ADMIN, deep=True)["issues"]
    there.put(key, body)
    mark = f"{prefix}index/damaged-{key.rsplit('/', 1)[1]}"
    assert there.head(mark).size > 0
    denied = StoreDenied("The store refused", on="s3://copy", why="AccessDenied", remedy="none")
    with struck(lambda verb, key, _: (denied, "before"), ("delete",)):
        copied.check(backup)
    assert there.head(mark).size > 0
    with copied.place().target.repository(copied.tenant) as repository:
        repository.load_index()
        assert (repository.marked_damaged, repository.doubted, repository.damages, repository.lost) == (
            set(),
            set(),
            [],
            set(),
        )
    # What is said without the tenant's key is not believed; another pack's word for it neither.
    said = there.get(mark)
    there.put(mark, said.replace(b'"whole-pack"', b'"damaged-pack"'))
    with copied.place().target.repository(copied.tenant) as repository:
        repository.load_index()
        assert repository.marked_damaged == set()
        assert [damage.key for damage in repository.damages] == [mark[len(prefix) :]]
    # Damaged again it is marked again, over what was said.
    there.put(mark, said)
    there.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    assert alone.validate_backup(backup, ACME, ADMIN, deep=True)["issues"]
    with copied.place().target.repository(copied.tenant) as repository:
        repository.load_index()
        assert {pack.hex() for pack in repository.marked_damaged} == {key.rsplit("/", 1)[1]}
    # A prune by who may delete takes such a word away.
    there.put(key, body)
    there.put(mark, said)
    clock.now += 3 * DAY
    assert list(copied.enforce().issues) == []
    assert mark not in {info.key for info in there.list(f"{prefix}index/")}


def test_how_long_what_came_stays_can_be_set(application: Application, embedded_stack: Stack, clock: Clock) -> None:
    copied = Copied(application, embedded_stack, clock, copy={"retention": FEW, "keep_new_days": 2})
    made = []
    for _ in range(6):
        made.append(copied.back_up())
        copied.bring()
        clock.now += DAY
    assert list(copied.enforce().forgotten) == made[:3]


def aged(copied: Copied, clock: Clock) -> list[str]:
    """Backups of which the policy would keep two, the newest of them verified just now."""
    made = some_days(copied, clock)
    assert copied.service().copies.verify(ADMIN, COPY, [ACME]).valid
    clock.now += DAY / 24
    return made


def gone(copied: Copied, **known: str) -> CopyKept:
    """What the upkeep does where the application has the tenant no more, and these fields of its state are others."""
    states = CopyStates(copied.place())
    state = replace(states.read(REGION)[ACME], seen_at=copied.clock(), **known)
    states.record(REGION, [state])
    (kept,) = [one for one in keep_copy(copied.site(), COPY, [], everyone=True).tenants if one.tenant_id == ACME]
    assert list(kept.issues) == []
    return kept


def test_of_who_is_gone_the_policy_of_its_tier_counts(
    application: Application, embedded_stack: Stack, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its backups tell; where nothing tells it, nothing is forgotten."""
    tier = application.tenant().tier
    more = {"tiers": {tier: {"full_backups": {"keep_daily": 30}}}}
    copied = Copied(application, embedded_stack, clock, copy={"retention": {**FEW, **more}})
    made = aged(copied, clock)
    kept = gone(copied, tier="")
    assert (list(kept.forgotten), kept.all_stays) == ([], "")
    copied.copy = {"retention": {**FEW, "tiers": {"another": more["tiers"][tier]}}}
    with monkeypatch.context() as patch:
        patch.setattr("sbh_pipelines.backup.copies.worklist.described_tenant", lambda *_: None)
        kept = gone(copied, tier="")
        assert (list(kept.forgotten), list(kept.kept)) == ([], made)
        assert "tier is not known" in kept.all_stays
    assert list(gone(copied, tier="").forgotten) == made[:2]


def test_of_a_repository_of_which_nothing_says_whose_it_is_nothing_is_forgotten(copied: Copied, clock: Clock) -> None:
    made = aged(copied, clock)
    for bucket in (copied.bucket, copied.copy_bucket):
        for key in copied.objects(bucket, f"_sbh-catalog/{REGION}/records/"):
            copied.client.delete_object(Bucket=bucket, Key=key)
    kept = gone(copied, tenant_key="")
    assert (list(kept.forgotten), list(kept.kept), kept.objects) == ([], made, 0)
    assert kept.all_stays == "nothing says whose it is"
    clock.now += DAY / 24  # of two states of one moment either may be the newer
    assert list(gone(copied, tenant_key=copied.tenant.key).forgotten) == made[:2]


def test_what_the_policy_says_of_a_slug_is_of_who_has_it_now(
    application: Application, embedded_stack: Stack, clock: Clock
) -> None:
    longer = {"tenants": {ACME: {"full_backups": {"keep_daily": 30}}}}
    copied = Copied(application, embedded_stack, clock, copy={"retention": {**FEW, **longer}})
    made = aged(copied, clock)
    verified = BackupId(made[-1])
    for aside, forgotten in ((False, []), (True, made[:2])):
        kept = enforce(copied.place(), copied.tenant, clock(), verified, aside=aside)
        assert (list(kept.issues), list(kept.forgotten)) == ([], forgotten)
