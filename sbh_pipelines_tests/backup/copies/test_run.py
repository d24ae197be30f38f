"""A run of a copy: what belongs to a region, tenants side by side, one run at a time, at the cost of what changed."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sbh_pipelines.backup.copies import run as run_module
from sbh_pipelines.backup.copies.copier.region_copy import journal_stays
from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.results import CopyRun
from sbh_pipelines.backup.copies.run import may_begin, run_copy
from sbh_pipelines.backup.copies.state import CopyStates
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import CopyUnverified, CorruptObject, LeaseHeld, SbhError, StoreUnavailable
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.repository.catalog.erased import ERASING, ErasureCounts, ErasureRecord, write_erased
from sbh_pipelines.settings.places.copies import at_copy
from sbh_pipelines_tests.backup.create.test_crash import READS, WRITES, Clock, Death, Killed, struck
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.copied import COPY, REGION, THERE, Copied
from sbh_pipelines_tests.support.restore.platform import PROGRAMS
from sbh_pipelines_tests.support.store_time import store_time

TENANTS = [Application.tenant(ACME), Application.tenant(BOLT)]
JOURNAL = f"_sbh-journal/{REGION}/"
CATALOG = f"_sbh-catalog/{REGION}/"


@pytest.fixture
def copied(application: Application, embedded_stack: Stack) -> Copied:
    return Copied(application, embedded_stack)


def run(copied: Copied) -> CopyRun:
    """As another process each time."""
    return run_copy(copied.site(), COPY, TENANTS)


def errors(found: CopyRun) -> list[str]:
    return [str(error) for error in [*found.issues, *(one.error for one in found.tenants if one.error)]]


def put(copied: Copied, key: str, body: bytes) -> None:
    copied.client.put_object(Bucket=copied.bucket, Key=key, Body=body)


def alone(copied: Copied) -> Site:
    settings = at_copy(copied.settings(), COPY)
    keys = settings.keys.model_copy(update={"previous_key_files": []})
    return Site(settings.model_copy(update={"keys": keys}), utc_now)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Requests by verb, and by tenant."""
    seen: Counter[str] = Counter()

    def note(verb: str, key: str, body: bytes) -> None:
        seen[verb] += 1
        for tenant in (ACME, BOLT):
            seen[tenant] += f"/{tenant}/" in key

    with struck(note, (*WRITES, *READS, "list", "stream")):
        yield seen


def test_a_run_brings_tenants_catalog_and_platform_and_says_until_when(copied: Copied) -> None:
    service = copied.service(platform=PROGRAMS)
    made = {tenant: service.create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}
    service.platform.create(ADMIN)
    found = run(copied)
    assert errors(found) == []
    whole = {str(one.tenant_id): one.backup_id for one in found.tenants}
    platform = whole.pop("_platform")
    assert (whole, platform is not None) == (made, True)
    assert all(one.recovery_point is not None for one in found.tenants)
    assert all(found.shared[kind][0] > 0 for kind in ("catalog", "audit", "platform"))
    assert found.objects == sum(one.objects for one in found.tenants) + sum(n for n, _ in found.shared.values())
    states = CopyStates(open_copy(copied.site(), COPY)).read(REGION)
    assert {home: state.backup_id for home, state in states.items()} == {**made, "_platform": platform}
    there = alone(copied)
    assert {str(home) for home in there.catalog(REGION).read()} == {ACME, BOLT}
    assert there.catalog(REGION).damages == []


def test_the_copy_knows_by_itself_until_when_each_tenant_is_there(copied: Copied) -> None:
    """Its own object says it, sealed as the catalog is: the source's are not copied, nor is the lease of the run."""
    made = copied.service().create_backup(ACME, ADMIN)["id"]
    run(copied)
    run(copied)
    here, there = (
        {key for key in copied.objects(bucket) if "/copies/" in key} for bucket in (copied.bucket, copied.copy_bucket)
    )
    assert len(there) == 1
    assert not here & there
    for key in here:
        copied.client.delete_object(Bucket=copied.bucket, Key=key)
    states = CopyStates(copied.place())
    assert states.read(REGION)[ACME].backup_id == made
    assert (states.by_copy, states.source_error) == (True, None)


def test_nothing_changed_looks_into_no_repository(copied: Copied) -> None:
    for tenant in (ACME, BOLT):
        copied.service().create_backup(tenant, ADMIN)
    run(copied)
    with counted() as seen:
        found = run(copied)
    assert (errors(found), found.objects) == ([], 0)
    assert {str(one.tenant_id) for one in found.tenants if one.backup_id} == {ACME, BOLT}
    assert (seen[ACME], seen[BOLT]) == (0, 0)
    assert (seen["put"], seen["create"], seen["replace"]) == (0, 0, 2)  # the lease is taken, and released
    assert sum(seen[verb] for verb in (*READS, "list")) <= 40


def test_one_changed_tenant_costs_as_one(copied: Copied) -> None:
    for tenant in (ACME, BOLT):
        copied.service().create_backup(tenant, ADMIN)
    run(copied)
    copied.application.database.run("UPDATE projects SET body = 'another' WHERE tenant_id = 1 AND id % 3 = 0")
    copied.service().create_backup(ACME, ADMIN, backup_type="incremental")
    with counted() as seen:
        found = run(copied)
    assert errors(found) == []
    assert (seen[ACME] > 0, seen[BOLT]) == (True, 0)


def test_a_hold_reaches_the_copy_without_a_new_backup(copied: Copied) -> None:
    made = copied.service().create_backup(ACME, ADMIN)["id"]
    run(copied)
    copied.service().retention.pin(made, ACME, ADMIN, "a reason")
    run(copied)
    assert f"files/{ACME}/backups/holds/pin-{made}.json" in copied.objects(copied.copy_bucket)


def test_one_tenant_that_fails_keeps_no_other_away(copied: Copied) -> None:
    made = {tenant: copied.service().create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        return (StoreUnavailable("503", on=key), "before") if f"/{ACME}/" in key else None

    with struck(strike):
        found = run(copied)
    assert {str(one.tenant_id): one.error is None for one in found.tenants} == {ACME: False, BOLT: True}
    again = run(copied)
    assert {str(one.tenant_id): one.backup_id for one in again.tenants} == made
    assert errors(again) == []


def test_a_region_that_does_not_answer_keeps_no_other_from_being_copied(
    application: Application, embedded_stack: Stack
) -> None:
    copied = Copied(application, embedded_stack, beside=["us-east-1"])
    application.database.run("UPDATE tenants SET region = 'us-east-1' WHERE slug = 'bolt'")
    acme, bolt = TENANTS[0], replace(TENANTS[1], region="us-east-1")
    made = {one.id: copied.service().create_backup(one.id, ADMIN)["id"] for one in (acme, bolt)}
    gone = StoreUnavailable("503", on=CATALOG)
    with struck(lambda verb, key, _: (gone, "before") if key.startswith(CATALOG) else None, (*WRITES, *READS)):
        found = run_copy(copied.site(), COPY, [acme, bolt])
    by_tenant = {str(one.tenant_id): one for one in found.tenants}
    assert isinstance(by_tenant[ACME].error, StoreUnavailable)
    assert (by_tenant[BOLT].error, by_tenant[BOLT].backup_id) == (None, made[bolt.id])
    assert any(isinstance(issue, StoreUnavailable) for issue in found.issues)
    again = run_copy(copied.site(), COPY, [acme, bolt])
    assert errors(again) == []
    assert {one.tenant_id: one.backup_id for one in again.tenants} == made


@pytest.mark.parametrize(("error", "stops"), [(StoreUnavailable, True), (LeaseHeld, False)])
def test_only_a_silent_store_stops_a_run(
    copied: Copied, monkeypatch: pytest.MonkeyPatch, error: type[SbhError], stops: bool
) -> None:
    """And the next run begins with those that it was not the turn of."""
    monkeypatch.setattr(run_module, "_GIVEN_UP_AFTER", 1)
    monkeypatch.setattr(run_module, "_AT_ONCE", 1)
    made = {tenant: copied.service().create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}

    def strike(verb: str, key: str, body: bytes) -> tuple[BaseException, str] | None:
        return (error("It fails", on=key), "before") if f"/{ACME}/" in key else None

    with struck(strike):
        found = {str(one.tenant_id): one for one in run(copied).tenants}
        assert isinstance(found[ACME].error, error)
        assert (found[BOLT].error is not None) is stops
        again = {str(one.tenant_id): one for one in run(copied).tenants}
    assert isinstance(again[ACME].error, error)
    assert (again[BOLT].error, again[BOLT].backup_id) == (None, made[BOLT])


def test_a_second_run_at_once_is_told_who_runs(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    site = copied.site()
    catalog = site.catalog(REGION)
    prefix = f"{catalog.prefix}copies/{COPY}/"
    held = leases.acquire(catalog.store, prefix, "host:1:copy", "copy dr", 60, utc_now)
    with pytest.raises(LeaseHeld, match="host:1"):
        run(copied)
    assert copied.objects(copied.copy_bucket) == {}
    held.release()
    assert errors(run(copied)) == []
    assert leases.running(catalog.store, prefix, utc_now) is None


def test_a_killed_run_s_lease_ends_by_itself(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    with pytest.raises(Killed), struck(Death(9, "before")):
        run(copied)
    later = copied.site(lambda: utc_now() + timedelta(hours=2))
    assert errors(run_copy(later, COPY, TENANTS)) == []


@pytest.mark.parametrize(
    ("hours", "at", "may"),
    [
        (None, 12, True),
        ("22:00-06:00", 23, True),
        ("22:00-06:00", 5, True),
        ("22:00-06:00", 6, False),
        ("22:00-06:00", 12, False),
        ("01:00-05:00", 1, True),
        ("01:00-05:00", 5, False),
    ],
)
def test_copying_begins_in_its_hours_only(copied: Copied, hours: str | None, at: int, may: bool) -> None:
    settings = Copied(copied.application, copied.stack, copy={"hours": hours}).settings()
    assert may_begin(settings.copies[0], settings, datetime(2026, 1, 1, at, tzinfo=UTC)) is may


def test_outside_its_hours_nothing_is_done(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"hours": "22:00-06:00"})
    noon = copied.site(lambda: datetime(2026, 1, 1, 12, tzinfo=UTC))
    with counted() as seen:
        assert run_copy(noon, COPY, TENANTS).outside_hours
    assert sum(seen.values()) == 0


def test_an_external_copy_is_verified_and_nothing_is_stored(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"kind": "external"})
    copied.service().create_backup(ACME, ADMIN)
    found = run(copied)
    assert found.objects == 0
    assert copied.objects(copied.copy_bucket) == {}
    assert all(one.backup_id is None for one in found.tenants)


def test_a_tenant_of_another_tier_is_left_out_and_said(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"tiers": ["important"]})
    copied.service().create_backup(ACME, ADMIN)
    found = run(copied)
    assert "its tier" in str(found.tenants[0].left_out)
    assert not any(f"/{ACME}/" in key for key in copied.objects(copied.copy_bucket))


def test_a_tombstone_reaches_the_copy_only_if_the_catalog_signed_it(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    record = ErasureRecord(
        BOLT, ERASING, "erase_20260101_000000_aaaaaa", REGION, "tester", "asked", "2026-01-01T00:00:00Z",
        ErasureCounts(0, 0, 0), (),
    )  # fmt: skip
    write_erased(copied.site().catalog(REGION), BOLT, record)
    put(copied, f"{CATALOG}erased/{ACME}.json", b'{"tenant_id": "acme"}')
    found = run(copied)
    assert {str(one.tenant_id): one.left_out for one in found.tenants} == {ACME: None, BOLT: "it was erased"}
    there = copied.objects(copied.copy_bucket, f"{CATALOG}erased/")
    assert list(there) == [f"{CATALOG}erased/{BOLT}.json"]


# the journal


SEGMENT = "20260101T000000Z-0000000000000001-1-00000000/0/{0:016X}-{1:016X}-0123456789abcdef"


@pytest.fixture
def journaled(application: Application, embedded_stack: Stack) -> Copied:
    made = Copied(application, embedded_stack)
    for nth in range(3):
        put(made, JOURNAL + SEGMENT.format(nth, nth + 1), b"segment")
    for folder in ("gaps", "keys", "slots"):
        put(made, f"{JOURNAL}{folder}/20260101T000000000000Z-0123456789abcdef", b"sealed")
    put(made, f"{JOURNAL}lease.json", b"{}")
    put(made, f"{JOURNAL}notes.txt", b"a stranger's")
    return made


def test_gaps_come_before_the_segments_that_follow_them(journaled: Copied) -> None:
    written: list[str] = []

    def note(verb: str, key: str, body: bytes) -> None:
        if key.startswith(JOURNAL):
            written.append(key[len(JOURNAL) :])

    with struck(note, ("put", "create", "put_stream")):
        assert errors(run(journaled)) == []
    assert [name.partition("/")[0] for name in written[:3]] == ["gaps", "keys", "slots"]
    assert set(written[3:]) == {SEGMENT.format(nth, nth + 1) for nth in range(3)}
    there = journaled.objects(journaled.copy_bucket, JOURNAL)
    here = journaled.objects(journaled.bucket, JOURNAL)
    assert there == {key: body for key, body in here.items() if not key.endswith(("lease.json", "notes.txt"))}


def test_no_segment_is_copied_where_some_tenant_s_rows_may_not_lie(
    application: Application, embedded_stack: Stack
) -> None:
    copied = Copied(application, embedded_stack)
    put(copied, JOURNAL + SEGMENT.format(0, 1), b"segment")
    settings = copied.settings(residency={"tenants": {BOLT: [REGION]}})
    site = Site(settings, utc_now)
    assert THERE in journal_stays(open_copy(site, COPY))
    found = run_copy(site, COPY, TENANTS)
    assert "journal is not copied" in str(found.issues[0])
    assert copied.objects(copied.copy_bucket, JOURNAL) == {}


def test_a_copy_without_the_journal_has_none(application: Application, embedded_stack: Stack) -> None:
    copied = Copied(application, embedded_stack, copy={"journal": False})
    put(copied, JOURNAL + SEGMENT.format(0, 1), b"segment")
    assert errors(run(copied)) == []
    assert copied.objects(copied.copy_bucket, JOURNAL) == {}


def flip(copied: Copied, prefix: str) -> str:
    """Change a byte of the first object at the copy; its key."""
    key, body = next(iter(copied.objects(copied.copy_bucket, prefix).items()))
    copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=bytes([body[0] ^ 1]) + body[1:])
    return key


@pytest.mark.parametrize("folder", ["packs/", "database/", "manifests/"])
def test_the_remedy_for_what_is_not_whole_mends_it(copied: Copied, folder: str) -> None:
    """`sbh copies run`, as the error says: also where size and name are as they were."""
    service = copied.service()
    service.create_backup(ACME, ADMIN)
    assert not errors(run(copied))
    key = flip(copied, f"files/{ACME}/backups/{folder}")
    (line,) = [one for one in service.copies.verify(ADMIN, COPY, [ACME], deep=True).tenants if one.tenant_id == ACME]
    assert line.error is not None
    assert line.error.remedy == f"sbh copies run {COPY}"
    found = run(copied)
    assert not [one.error for one in found.tenants if one.tenant_id == ACME and one.error is not None]
    assert copied.objects(copied.copy_bucket, key) == copied.objects(copied.bucket, key)
    assert service.copies.verify(ADMIN, COPY, [ACME], deep=True).valid


def test_a_tenant_that_does_not_change_is_verified_every_day(copied: Copied) -> None:
    copied.service().create_backup(ACME, ADMIN)
    assert not errors(run(copied))
    for key in copied.objects(copied.copy_bucket, f"files/{ACME}/backups/packs/"):
        copied.client.delete_object(Bucket=copied.copy_bucket, Key=key)
    later = run_copy(copied.site(lambda: utc_now() + timedelta(hours=25)), COPY, TENANTS)
    assert not errors(later)  # looked at, and brought again
    assert sum(one.objects for one in later.tenants if one.tenant_id == ACME) > 0


def test_a_head_that_came_late_hides_no_hold(copied: Copied) -> None:
    """An older head was stored there after the newer one was written here."""
    service = copied.service()
    service.create_backup(ACME, ADMIN)
    assert not errors(run(copied))
    head = next(key for key in copied.objects(copied.copy_bucket) if key.endswith(f"heads/{ACME}.json"))
    older = copied.objects(copied.copy_bucket, head)[head]
    hold = service.retention.hold(ACME, ADMIN, reason="a lawsuit")
    copied.client.put_object(Bucket=copied.copy_bucket, Key=head, Body=older)
    assert not errors(run(copied))
    assert any(hold.id in key for key in copied.objects(copied.copy_bucket))


def test_one_that_nobody_foresaw_keeps_no_other_away(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    service = copied.service()
    for tenant in (ACME, BOLT):
        service.create_backup(tenant, ADMIN)
    real = run_module.copy_tenant

    def broken(place: object, tenant: object, *arguments: object, **named: object) -> object:
        if getattr(tenant, "id", "") == ACME:
            raise KeyError("unforeseen")
        return real(place, tenant, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "copy_tenant", broken)
    found = {one.tenant_id: one for one in run(copied).tenants}
    assert "not foreseen" in str(found[ACME].error)  # type: ignore[index]
    assert found[BOLT].error is None  # type: ignore[index]
    assert found[BOLT].backup_id is not None  # type: ignore[index]


def test_a_key_that_does_not_open_there_is_found_by_the_verification_and_written_by_the_next_run(
    copied: Copied,
) -> None:
    service = copied.service()
    made = service.create_backup(ACME, ADMIN)["id"]
    run(copied)
    key = f"files/{ACME}/backups/keys/0001.json"
    document = json.loads(copied.client.get_object(Bucket=copied.copy_bucket, Key=key)["Body"].read())
    body = json.dumps({**document, "wrapped": "AAAA"}).encode()
    copied.client.put_object(Bucket=copied.copy_bucket, Key=key, Body=body)
    found = service.copies.verify(ADMIN, COPY, [ACME])
    assert [type(one.error) for one in found.tenants] == [CopyUnverified]
    assert "sbh copies run" in str(found.tenants[0].error)
    after = run(copied)
    assert (errors(after), after.tenants[0].backup_id) == ([], made)


def packs_here(copied: Copied) -> set[str]:
    return set(copied.objects(copied.bucket, f"files/{ACME}/backups/packs/"))


def test_a_damaged_pack_of_the_source_keeps_only_those_away_that_need_it(copied: Copied) -> None:
    """The one before and the one after it become current at the copy; the one between is named; once mended, it comes."""
    service = copied.service()
    first = service.create_backup(ACME, ADMIN)["id"]
    before = packs_here(copied)
    copied.change(1)
    second = service.create_backup(ACME, ADMIN, "full")["id"]
    rewritten = {}
    for key in packs_here(copied) - before:
        rewritten[key] = copied.client.get_object(Bucket=copied.bucket, Key=key)["Body"].read()
        put(copied, key, rewritten[key][:-9])
    copied.change(4)  # the same rows once more; what else is in those packs is stored anew
    third = service.create_backup(ACME, ADMIN, "full")["id"]
    assert rewritten
    found = run(copied)
    (acme,) = [one for one in found.tenants if one.tenant_id == ACME]
    assert isinstance(acme.error, CorruptObject)
    assert (acme.backup_id, acme.error.why.startswith(f"{second}:")) == (third, True)
    there = copied.objects(copied.copy_bucket, f"files/{ACME}/backups/manifests/")
    assert {key.rsplit("/", 1)[1] for key in there} == {f"{first}.json", f"{third}.json"}
    (line,) = [line for line in service.copies.status(ADMIN, COPY)[0].tenants if line.tenant_id == ACME]
    assert (line.standing, line.backup_id, second in line.why) == ("failed", third, True)
    for key, body in rewritten.items():
        put(copied, key, body)
    assert errors(run(copied)) == []
    there = copied.objects(copied.copy_bucket, f"files/{ACME}/backups/manifests/")
    assert len(there) == 3


def change_all(copied: Copied, seed: int) -> None:
    """All rows of the tenant, so that what was stored of them before is needed by earlier backups alone."""
    of = "project_id IN (SELECT id FROM projects WHERE tenant_id = 1)"
    copied.application.database.run(
        f"UPDATE projects SET body = repeat(md5((id * {seed})::text), 40) WHERE tenant_id = 1",
        f"UPDATE items SET score = id * {seed} WHERE {of}",
        f"UPDATE notes SET body = 'note {seed}' WHERE tenant_id = 1",
    )


def test_what_only_an_older_backup_needs_is_read_by_a_deep_verification_and_mended_by_a_run(copied: Copied) -> None:
    """Each pack is downloaded once, however many backups need it."""
    service = copied.service()
    for seed in (5, 6):
        service.create_backup(ACME, ADMIN)
        change_all(copied, seed)
    before = packs_here(copied)
    change_all(copied, 1)
    second = service.create_backup(ACME, ADMIN, "full")["id"]
    only = packs_here(copied) - before
    change_all(copied, 2)
    third = service.create_backup(ACME, ADMIN, "full")["id"]
    assert errors(run(copied)) == []
    flip(copied, max(only))
    assert service.copies.verify(ADMIN, COPY, [ACME]).valid
    (line,) = service.copies.verify(ADMIN, COPY, [ACME], deep=True).tenants
    assert isinstance(line.error, CopyUnverified)
    assert (line.backup_id, line.error.why.startswith(f"{second}:")) == (third, True)
    assert errors(run(copied)) == []
    assert copied.objects(copied.copy_bucket, max(only)) == copied.objects(copied.bucket, max(only))
    downloads: Counter[str] = Counter()

    def note(verb: str, key: str, body: bytes) -> None:
        downloads[key] += "/packs/" in key

    with struck(note, ("get_with_etag",)):
        assert service.copies.verify(ADMIN, COPY, [ACME], deep=True).valid
    assert {key: n for key, n in downloads.items() if n} == dict.fromkeys(packs_here(copied), 1)


def test_a_pack_that_is_damaged_at_the_source_since_it_was_copied_is_in_no_one_s_way(copied: Copied) -> None:
    service = copied.service()
    service.create_backup(ACME, ADMIN)
    run(copied)
    key = max(packs_here(copied))
    body = copied.client.get_object(Bucket=copied.bucket, Key=key)["Body"].read()
    put(copied, key, body[:-9])
    made = service.create_backup(ACME, ADMIN, "full")["id"]
    found = run(copied)
    assert errors(found) == []
    assert copied.client.get_object(Bucket=copied.copy_bucket, Key=key)["Body"].read() == body
    assert found.tenants[0].backup_id == made


def test_who_is_not_whole_there_is_read_wholly_once_a_day(application: Application, embedded_stack: Stack) -> None:
    """Not by each run: a pack that is gone at both ends does not come, however often everything is read."""
    clock = Clock()
    with store_time(clock):
        copied = Copied(application, embedded_stack, clock)
        for seed in (1, 2):
            copied.change(seed)
            copied.back_up()
            clock.now += timedelta(hours=1)

        def reads(**how: bool) -> int:
            read = list[str]()
            with struck(lambda verb, key, _: read.append(key) if "/packs/" in key else None, (*READS, "get", "stream")):
                run_copy(copied.site(), COPY, TENANTS[:1], **{"everyone": True, **how})
            clock.now += timedelta(hours=1)
            return len(read)

        assert reads() > 0
        here, there, prefix = copied.ends()
        smallest = min(here.list(f"{prefix}packs/"), key=lambda info: info.size)
        for store in (here, there):
            store.delete([smallest.key])
        clock.now += timedelta(days=2)  # what was found whole is looked at again
        shallow = reads()
        assert isinstance(CopyStates(copied.place()).read(REGION)[ACME].error, CopyUnverified)
        wholly = reads()
        assert wholly > shallow
        assert [reads() for _ in range(3)] == [shallow] * 3
        assert reads(everyone=False) == wholly  # asked for this tenant alone
        clock.now += timedelta(days=1)
        assert [reads() for _ in range(2)] == [wholly, shallow]


def test_what_something_else_copies_is_not_read_wholly_because_it_is_late(
    application: Application, embedded_stack: Stack
) -> None:
    copied = Copied(application, embedded_stack, copy={"kind": "external"})
    copied.service().create_backup(ACME, ADMIN)
    read = list[str]()
    for _ in range(3):
        with struck(lambda verb, key, _: read.append(key) if "/packs/" in key else None, (*READS, "get", "stream")):
            (found,) = run_copy(copied.site(), COPY, TENANTS[:1]).tenants
        assert isinstance(found.error, CopyUnverified)
    assert read == []
    states = CopyStates(copied.place())
    assert not states.read(REGION)[ACME].deep
