"""The fence of a place that a copy took over from: who is refused, what is believed, what it costs, and a promotion that is killed."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.backup.copies.copier.kinds import catalog_kind, trail_kind
from sbh_pipelines.backup.copies.promotion import handover, promotion
from sbh_pipelines.backup.copies.promotion.promotion import promote
from sbh_pipelines.backup.copies.retention import enforce
from sbh_pipelines.backup.copies.run import run_copy, upkeep_lease
from sbh_pipelines.backup.copies.upkeep import keep_copy
from sbh_pipelines.backup.keys.forgotten_copies import forget_at_copy, forgettable
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.fence import PROMOTED, SUPERSEDED, Promoted, mark_name, place_name
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyError, CorruptObject, LeaseHeld, NotPromoted, PrimaryFenced, SbhError, TenantErased
from sbh_pipelines.model import utc_now
from sbh_pipelines.placement import Place
from sbh_pipelines.settings import Settings, StorageSettings
from sbh_pipelines.settings.places.copies import with_primary
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.open_store import open_store
from sbh_pipelines_tests.backup.create.test_crash import Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.copied import COPY, REGION, THERE, Copied
from sbh_pipelines_tests.support.effort import either

TENANTS = [Application.tenant(name) for name in (ACME, BOLT)]
CATALOG = f"_sbh-catalog/{REGION}/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work here who would go for a minute by what they saw."""
    monkeypatch.setattr(handover, "SETTLE_S", 0.0)


def at_source(copied: Copied, kind: str = SUPERSEDED) -> str:
    """The key of the source's own mark; at the copy, too, where it was replicated to it."""
    return CATALOG + mark_name(kind, place_name(copied.site(), REGION))


def at_copy(copied: Copied, kind: str = PROMOTED) -> str:
    return CATALOG + mark_name(kind, place_name(copied.site().copy(COPY), REGION))


def told(copied: Copied) -> Settings:
    """The settings with the one line more."""
    return with_primary(copied.settings().model_copy(update={"primary": COPY}))


def backed_up(copied: Copied) -> dict[str, str]:
    made = copied.service()
    return {str(tenant): str(made.create_backup(tenant, ADMIN)["id"]) for tenant in (ACME, BOLT)}


def refusal(settings: Settings) -> type[SbhError] | None:
    """What a new process is refused writing with."""
    try:
        Site(settings, utc_now).fence.check()
    except SbhError as error:
        return type(error)
    return None


# What is there after a write is what is there before the next one: in one of the two walks each state is met.
@pytest.mark.parametrize(
    ("lost", "when"), [(False, "before"), (True, "after"), *either([], [(False, "after"), (True, "before")])]
)
def test_killed_at_any_write_the_same_command_goes_on(copied: Copied, when: str, lost: bool) -> None:
    """And at no moment may both places be written to."""
    backed_up(copied)
    if lost:
        run_copy(copied.site(), COPY, TENANTS)
    known = backed_up(copied)  # what the copy has not, and has in the end unless the source is lost
    for nth in range(1, 200):
        now = datetime.now(UTC) + nth * timedelta(minutes=10)  # the lease of one that was killed is over
        death = Death(nth, when)
        try:
            with struck(death):
                promote(copied.site(lambda now=now: now), COPY, TENANTS, "alice", source_lost=lost)
        except Killed:
            assert death.dead
        assert refusal(copied.settings()) is PrimaryFenced or refusal(told(copied)) is NotPromoted
        if not death.dead:
            break
    else:
        pytest.fail("it never came to its end")
    assert refusal(told(copied)) is None
    assert refusal(copied.settings()) is PrimaryFenced
    there = BackupService(told(copied))
    for tenant, backup_id in known.items():
        assert (there.backups.get("latest", tenant, ADMIN).id == backup_id) is not lost
        assert there.backups.validate("latest", tenant, ADMIN, deep=True).valid
        there.create_backup(tenant, ADMIN, "incremental")


def test_marks_are_not_copied(copied: Copied) -> None:
    keys = [at_source(copied, kind) for kind in (PROMOTED, SUPERSEDED)]
    for key in keys:
        assert catalog_kind(key.removeprefix(CATALOG)) is None
        assert trail_kind(key.removeprefix(CATALOG)) is None
    backed_up(copied)
    for key in keys:
        copied.client.put_object(Bucket=copied.bucket, Key=key, Body=b"{}")
    place = copied.site()
    done = run_copy(place, COPY, TENANTS, closing=[REGION])
    assert not done.issues
    assert not copied.objects(copied.copy_bucket, f"{CATALOG}primary/")


def test_a_copy_that_does_not_answer_is_in_no_backups_way(copied: Copied) -> None:
    backed_up(copied)
    assert BackupService(copied.settings(), site=copied.silent()).create_backup(ACME, ADMIN)["id"]


def test_who_writes_to_the_copys_bucket_stops_no_backup(copied: Copied) -> None:
    """A mark that nobody signed is none; but nothing is copied over it, and the command that promotes says what it is."""
    backed_up(copied)
    run_copy(copied.site(), COPY, TENANTS)
    for body in (b"no mark", b'{"mark": "primary/promoted.json", "signature": "00"}'):
        copied.client.put_object(Bucket=copied.copy_bucket, Key=at_copy(copied), Body=body)
        assert copied.service().create_backup(ACME, ADMIN)["id"]
        with pytest.raises(CopyError, match="was promoted"):
            copied.service().copies.run(ADMIN, COPY)
        with pytest.raises(CorruptObject):
            copied.service().copies.promote(ADMIN, COPY, confirm=True)


def test_who_writes_to_the_places_own_bucket_can_stop_it(copied: Copied) -> None:
    """A mark there that is not genuine may stand where a genuine one stood: that is said, and nothing is written."""
    backed_up(copied)
    copied.client.put_object(Bucket=copied.bucket, Key=at_source(copied), Body=b'{"mark": "primary/superseded.json"}')
    with pytest.raises(CorruptObject, match="not genuine") as refused:
        copied.service().create_backup(ACME, ADMIN)
    assert at_source(copied) in refused.value.on
    assert copied.service().backups.of(ACME, ADMIN)


def test_a_mark_of_another_region_or_name_is_none(copied: Copied) -> None:
    """The name is signed with it: what says that a place was superseded cannot be made of what says that it was promoted."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")
    body = copied.objects(copied.copy_bucket, at_copy(copied))[at_copy(copied)]
    copied.client.put_object(Bucket=copied.copy_bucket, Key=at_copy(copied, SUPERSEDED), Body=body)
    assert refusal(told(copied)) is CorruptObject


def test_it_is_asked_once_a_minute(copied: Copied) -> None:
    """However many tenants: at its own place and at each copy one request."""
    backed_up(copied)
    site = copied.site()
    site.fence.check()
    once = sum(site.request_counts().values())
    assert once <= 2
    for _ in range(100):
        site.fence.check(REGION)
        site.fence.check()
    assert sum(site.request_counts().values()) == once


def replicate(copied: Copied, source: str, target: str) -> None:
    """As replication of a bucket that is somebody else's: everything, also what is beside the catalog."""
    for key, body in copied.objects(source, CATALOG).items():
        copied.client.put_object(Bucket=target, Key=key, Body=body)


def test_replicated_marks_neither_fence_nor_unfence(copied: Copied) -> None:
    """In either direction: a mark speaks of the place that its name is of, wherever it lies."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")
    for source, target in ((copied.bucket, copied.copy_bucket), (copied.copy_bucket, copied.bucket)):
        replicate(copied, source, target)
        assert refusal(told(copied)) is None
        assert refusal(copied.settings()) is PrimaryFenced
        assert refusal(copied.settings(copies=False)) is PrimaryFenced  # by its own mark alone
        assert promote(copied.site(), COPY, TENANTS, "alice").promoted


def test_a_server_of_another_name_may_be_the_same(copied: Copied) -> None:
    """A bucket of the same name in the same region elsewhere: its fence is obeyed, its promotion believed nowhere."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")

    def renamed(settings: Settings) -> Settings:
        url = settings.storage.endpoint_url or ""
        other = url.replace("127.0.0.1", "localhost") if "127.0.0.1" in url else url.replace("localhost", "127.0.0.1")
        assert other != url
        return settings.model_copy(update={"storage": settings.storage.model_copy(update={"endpoint_url": other})})

    assert refusal(renamed(copied.settings(copies=False))) is PrimaryFenced
    assert refusal(renamed(copied.settings())) is PrimaryFenced
    line = with_primary(renamed(copied.settings()).model_copy(update={"primary": COPY}))
    with pytest.raises(NotPromoted, match="endpoint_url"):
        Site(line, utc_now).fence.check()


def test_a_bucket_that_was_not_made_yet_says_that_nothing_took_over(copied: Copied) -> None:
    """Neither where backups are to be made, nor at another copy."""
    backed_up(copied)
    settings = copied.settings()
    more = settings.copies[0].model_copy(update={"name": "planned", "bucket": f"planned-{copied.mark}-{{region}}"})
    settings = settings.model_copy(update={"copies": [*settings.copies, more]})
    unmade = {"bucket": f"unmade-{copied.mark}"}
    assert refusal(settings.model_copy(update={"storage": settings.storage.model_copy(update=unmade)})) is None
    assert promote(Site(settings, utc_now), COPY, TENANTS, "alice").promoted


def another(copied: Copied, name: str, **fields: object) -> Settings:
    """The settings with one more copy, in a bucket of its own."""
    bucket = f"{name}-{copied.mark}-{{region}}"
    copied.application.database.beside.enter_context(fresh_bucket(copied.stack, bucket.format(region=REGION)))
    settings = copied.settings()
    more = settings.copies[0].model_copy(update={"name": name, "bucket": bucket, **fields})
    return settings.model_copy(update={"copies": [*settings.copies, more]})


def test_a_copy_of_a_primary_that_was_promoted_itself(copied: Copied) -> None:
    """What makes it brings the mark of the place it comes from, too, which is no promotion of this one."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")
    settings = another(copied, "next", kind="external").model_copy(update={"primary": COPY})
    known = Site(with_primary(settings), utc_now)
    for key, body in copied.objects(copied.copy_bucket).items():
        copied.client.put_object(Bucket=f"next-{copied.mark}-{REGION}", Key=key, Body=body)
    assert refusal(with_primary(settings.model_copy(update={"primary": "next"}))) is NotPromoted
    done = promote(known, "next", TENANTS, "alice")
    assert done.promoted
    assert done.copied is not None
    assert refusal(with_primary(settings.model_copy(update={"primary": "next"}))) is None
    assert refusal(with_primary(settings)) is PrimaryFenced
    assert refusal(copied.settings()) is PrimaryFenced


def test_no_second_copy_is_promoted(copied: Copied) -> None:
    """Every other copy is asked before anything is written, also of a source that is lost; one that is silent is named."""
    backed_up(copied)
    settings = another(copied, "other")
    for name in (COPY, "other"):
        run_copy(Site(settings, utc_now), name, TENANTS)
    promote(Site(settings, utc_now), COPY, TENANTS, "alice", source_lost=True)
    before = copied.objects(f"other-{copied.mark}-{REGION}"), copied.objects(copied.bucket)
    for lost in (False, True):
        with pytest.raises(PrimaryFenced, match=f"the copy {COPY}"):
            promote(Site(settings, utc_now), "other", TENANTS, "alice", source_lost=lost)

    def opened(storage: StorageSettings, place: Place) -> Store:
        nowhere = storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
        return open_store(nowhere if place.bucket == copied.copy_bucket else storage, place)

    def silent() -> Site:
        return Site(settings, lambda: utc_now() + timedelta(seconds=2), opener=opened)  # marks tell seconds

    with pytest.raises(CopyError, match="does not say") as unasked:
        promote(silent(), "other", TENANTS, "alice", source_lost=True)
    assert f"--source-lost --without-asking {COPY}" in unasked.value.remedy
    (issue,) = promotion.plan_promotion(silent(), "other", TENANTS, source_lost=True).issues
    assert issue.code == unasked.value.code
    assert (copied.objects(f"other-{copied.mark}-{REGION}"), copied.objects(copied.bucket)) == before
    assert promote(silent(), "other", TENANTS, "alice", source_lost=True, without_asking=[COPY]).promoted

    def at(name: str) -> Settings:
        return with_primary(settings.model_copy(update={"primary": name}))

    assert refusal(at("other")) is None
    assert refusal(at(COPY)) is PrimaryFenced  # the later one counts, once they see each other


def test_its_own_catalog_does_not_answer(copied: Copied) -> None:
    """The copy is asked all the same: what is written next may get through."""
    backed_up(copied)
    run_copy(copied.site(), COPY, TENANTS)

    def opened(storage: StorageSettings, place: Place) -> Store:
        nowhere = storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "timeout_s": 2.0, "retries": 0})
        return open_store(nowhere if place.bucket == copied.bucket else storage, place)

    Site(copied.settings(), utc_now, opener=opened).fence.check()  # as long as nobody says anything
    promote(copied.site(), COPY, TENANTS, "alice", source_lost=True)
    with pytest.raises(PrimaryFenced, match=f"the copy {COPY}"):
        Site(copied.settings(), utc_now, opener=opened).fence.check()


def test_one_that_took_over_before_is_named(copied: Copied) -> None:
    """A second copy is not promoted over the first."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")
    copied.client.delete_object(Bucket=copied.copy_bucket, Key=at_copy(copied))
    with pytest.raises(PrimaryFenced, match=f"the copy {COPY}"):
        promote(Site(another(copied, "other"), utc_now), "other", TENANTS, "alice")
    assert not copied.objects(f"other-{copied.mark}-{REGION}")


def test_a_tenant_can_be_erased_where_a_copy_took_over(copied: Copied) -> None:
    """What is left there is the customer's still. With the former settings one call reaches both places."""
    backed_up(copied)
    promote(copied.site(), COPY, TENANTS, "alice")
    with pytest.raises(PrimaryFenced):
        copied.service().create_backup(ACME, ADMIN)
    certificate = copied.service().keys.erase(ACME, ADMIN, confirm=ACME, reason="Article 17")
    (there,) = certificate.copies or ()
    assert (there.name, there.to, there.reached) == (COPY, THERE, True)
    ours = f"files/{ACME}/backups/"
    for bucket in (copied.bucket, copied.copy_bucket):
        assert {key for key in copied.versions(bucket, ours) if not key.startswith(f"{ours}audit/")} == set()
    with pytest.raises(TenantErased):
        BackupService(told(copied)).create_backup(ACME, ADMIN)
    assert BackupService(told(copied)).create_backup(BOLT, ADMIN)["id"]


def test_what_is_not_whole_at_the_copy_is_not_promoted(copied: Copied) -> None:
    """The error names it, and the two ways on; the way back opens the former place again."""
    backed_up(copied)
    pack = next(key for key in copied.objects(copied.bucket, f"files/{ACME}/backups/packs/"))
    copied.client.put_object(Bucket=copied.bucket, Key=pack, Body=b"damaged")
    with pytest.raises(CopyError, match="not promoted") as refused:
        copied.service().copies.promote(ADMIN, COPY, confirm=True)
    assert "--source-lost" in refused.value.remedy
    assert f"s3://{copied.bucket}/{at_source(copied)}" in refused.value.remedy
    assert refusal(copied.settings()) is PrimaryFenced
    assert refusal(told(copied)) is NotPromoted
    copied.client.delete_object(Bucket=copied.bucket, Key=at_source(copied))
    assert refusal(copied.settings()) is None


def test_a_hold_that_a_promotion_did_not_wait_for(copied: Copied) -> None:
    """No lease is held for it. It is looked again after it was placed: that it counts for nothing is said."""
    backed_up(copied)
    late = copied.service()
    late.retention.hold(ACME, ADMIN, reason="before")  # for a minute it goes by what it saw
    promote(copied.site(), COPY, TENANTS, "alice")
    with pytest.raises(PrimaryFenced):
        late.retention.hold(ACME, ADMIN, reason="after")
    reasons = [hold.reason for hold in BackupService(told(copied)).retention.holds(ACME, ADMIN)]
    assert reasons == ["before"]


def test_nothing_is_removed_from_a_copy_that_was_promoted(copied: Copied) -> None:
    """Neither by its upkeep, nor by `copies forget`, by whatever settings; nor where it does not say that it was not."""
    backed_up(copied)
    run_copy(copied.site(), COPY, TENANTS)
    copied.copy = {"tiers": ["important"]}  # everybody is left out from now on, and could be removed there
    gone = Site(copied.settings(), utc_now)
    assert forgettable(gone, COPY, TENANTS[0])
    with pytest.raises(SbhError) as silent:
        forgettable(copied.silent(), COPY, TENANTS[0])
    assert silent.value.transient
    chosen = forgettable(gone, COPY, TENANTS[0])
    copied.copy = {}
    promote(copied.site(), COPY, TENANTS, "alice", source_lost=True)
    copied.copy = {"tiers": ["important"]}
    before = copied.objects(copied.copy_bucket, "files/")
    with pytest.raises(PrimaryFenced):
        copied.service().copies.forget(ADMIN, COPY, BOLT, confirm=True)
    with pytest.raises(CopyError, match="was promoted"):
        forgettable(gone, COPY, TENANTS[0])
    with pytest.raises(CopyError, match="was promoted"):
        forget_at_copy(gone, COPY, TENANTS[0], chosen)
    kept = keep_copy(copied.site(), COPY, TENANTS, everyone=True)
    assert (kept.tenants, [type(issue) for issue in kept.issues]) == ([], [CopyError])
    one = enforce(copied.place(), TENANTS[0], utc_now(), None)
    assert "was promoted" in str(one.issues[0])
    assert copied.objects(copied.copy_bucket, "files/") == before


def test_the_upkeep_of_a_copy_is_waited_for(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other way round."""
    backed_up(copied)
    monkeypatch.setattr(handover, "LEASES_S", 0.0)
    with upkeep_lease(copied.place(), REGION):
        with pytest.raises(LeaseHeld, match="upkeep of the copy"):
            promote(copied.site(), COPY, TENANTS, "alice")
        (issue,) = keep_copy(copied.site(), COPY, TENANTS).issues
        assert isinstance(issue, LeaseHeld)
    assert refusal(told(copied)) is NotPromoted
    assert promote(copied.site(), COPY, TENANTS, "alice").promoted


def test_the_whole_minute_is_waited_after_a_fence_that_was_found(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it was left is told by another machine's clock."""
    backed_up(copied)
    monkeypatch.setattr(handover, "LEASES_S", 0.0)
    with upkeep_lease(copied.place(), REGION), pytest.raises(LeaseHeld):
        promote(copied.site(), COPY, TENANTS, "alice")
    monkeypatch.setattr(handover, "SETTLE_S", 1.5)
    begun = time.monotonic()
    assert promote(copied.site(lambda: utc_now() + timedelta(hours=1)), COPY, TENANTS, "alice").promoted
    assert time.monotonic() - begun >= 1.5


def test_the_database_is_dead_and_the_source_is_not(copied: Copied) -> None:
    """Everybody comes along, by the catalogs; nobody is recorded as gone, and what is not whole is no promotion."""
    known = backed_up(copied)
    pack = next(key for key in copied.objects(copied.bucket, f"files/{BOLT}/backups/packs/"))
    whole = copied.objects(copied.bucket, pack)[pack]
    blind = {"dsn": "host=127.0.0.1 port=9 dbname=app user=sbh"}
    copied.client.put_object(Bucket=copied.bucket, Key=pack, Body=b"damaged")
    with pytest.raises(CopyError, match="not promoted"):
        copied.service(database=blind).copies.promote(ADMIN, COPY, confirm=True)
    copied.client.put_object(Bucket=copied.bucket, Key=pack, Body=whole)
    done = copied.service(database=blind).copies.promote(ADMIN, COPY, confirm=True)
    assert done.copied is not None
    assert done.copied.unlisted is not None
    assert {str(one.tenant_id): (one.backup_id, one.ended) for one in done.copied.tenants} == {
        tenant: (backup_id, "") for tenant, backup_id in known.items()
    }
    assert {line.standing for line in done.tenants} == {"ready"}


def test_the_last_run_believes_no_earlier_one(copied: Copied) -> None:
    """What was verified a moment ago, and of which nothing changed, is looked at again: it may be gone since."""
    backed_up(copied)
    assert not run_copy(copied.site(), COPY, TENANTS).issues
    pack = next(key for key in copied.objects(copied.copy_bucket, f"files/{BOLT}/backups/packs/"))
    copied.client.delete_object(Bucket=copied.copy_bucket, Key=pack)
    assert promote(copied.site(), COPY, TENANTS, "alice").promoted
    assert BackupService(told(copied)).backups.validate("latest", BOLT, ADMIN, deep=True).valid


@pytest.mark.parametrize(("days", "locked"), [(None, None), (30, 2)])
def test_audit_events_that_are_not_locked_there_are_told_of(
    copied: Copied, days: int | None, locked: int | None
) -> None:
    copied.sections, copied.copy = {"audit": {"object_lock_days": 2}}, {"lock_days": days}
    there = Site(told(copied), utc_now)
    assert (copied.site().audit_lock_days, there.audit_lock_days) == (2, locked)
    told_of = promotion.unlocked_events(copied.site(), copied.settings().copies[0])
    assert (told_of is None) == (locked is not None)


def test_of_two_that_were_promoted_in_one_second_one_counts() -> None:
    """Marks tell seconds: where neither was the later one, both places would be written to."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one, other = (Promoted(id_, f"copy-{id_}", f"place-{id_}", "first", at, "alice") for id_ in ("a", "b"))
    assert [one.is_after(other), other.is_after(one), one.is_after(one)] == [False, True, False]
