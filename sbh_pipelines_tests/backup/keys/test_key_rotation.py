"""Rotation of keys: whatever is rotated, whenever it is killed, every backup restores bit for bit, and old keys open nothing."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.keys.rotation import RotationReport
from sbh_pipelines.backup.retain import prune
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.errors import (
    AccessDenied,
    CorruptObject,
    KeyRotationFailed,
    KeyServiceError,
    LeaseHeld,
    UnknownBackup,
)
from sbh_pipelines.model import TenantId
from sbh_pipelines.repository.format import Keys, seal_epoch
from sbh_pipelines.repository.open_repository import open_repository
from sbh_pipelines.security.keys import LocalKeyFile
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.stores.local import open_local
from sbh_pipelines_tests.backup.create.test_crash import Clock, Death, Killed, struck
from sbh_pipelines_tests.backup.retain.test_prune import DAY, KEEP_ALL, SMALL, change, check, history, restores
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.site import site_of
from sbh_pipelines_tests.support.store_time import store_time

NEW_DATA_KEY = {"new_data_key": True}
RE_ENCRYPT = {"re_encrypt": True}


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Everybody's clock, the store's too."""
    made = Clock()
    with store_time(made):
        yield made


def service(application: Application, clock: Clock, **keys: Any) -> BackupService:
    return application.service(clock=clock, retention=KEEP_ALL, prune=SMALL, **({"keys": keys} if keys else {}))


def key_object(application: Application, epoch: int = 1, tenant: str = ACME) -> Path:
    return application.repository(tenant) / "keys" / f"{epoch:04d}.json"


def another_key_file(application: Application, name: str = "new.key") -> Path:
    path = application.directory / name
    path.write_bytes(base64.b64encode(os.urandom(32)))
    return path


def everything(application: Application, tenant: str = ACME) -> dict[str, bytes]:
    """All that is stored of a tenant, but for its audit trail and its lease."""
    root = application.repository(tenant)
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "audit" not in file.relative_to(root).parts and file.name != Keys.LEASE
    }


def epochs_of_pieces(application: Application) -> set[int]:
    """Which key epochs the packs' first chunks and directories, and the index objects, are sealed in."""
    found = set()
    for name, body in everything(application).items():
        if name.startswith("packs/"):
            offset = int.from_bytes(body[-20:-12], "big")
            found |= {seal_epoch(body), seal_epoch(body[offset:])}
        elif name.startswith("index/") and "retired" not in name:
            found.add(seal_epoch(body))
    return found


# wrapped anew


def test_wrapping_anew_rewrites_nothing_but_the_key_object(application: Application, clock: Clock) -> None:
    """With another key file: the old one is needed no more, and no other object changed."""
    states = history(application, clock, 2)
    before, new = everything(application), another_key_file(application)
    old = application.directory / "backup.key"
    rotating = service(application, clock, key_file=new, previous_key_files=[old])
    check(rotating, max(states))  # read with the previous file until it is rotated
    report = rotating.keys.rotate([], ADMIN, everyone=True)
    (done,) = [done for done in report.rotated if done.tenant_id == ACME]
    assert (done.tenant_id, done.epoch, len(done.keys)) == (ACME, 1, 1)
    assert done.keys[0].from_key != done.keys[0].to_key
    after = everything(application)
    assert {name for name in after if after[name] != before.get(name)} == {"keys/0001.json"}
    alone = service(application, clock, key_file=new)
    for backup, state in states.items():
        restores(application, alone, backup, state)
    with pytest.raises(KeyServiceError, match="previous_key_files"):
        service(application, clock).list_backups(ACME, ADMIN)


def test_everybodys_keys_are_wrapped_anew(application: Application, clock: Clock) -> None:
    """Tenants, one whose row is gone, the catalogs; the platform is skipped as it has no backup."""
    made = service(application, clock)
    backups = {tenant: made.create_backup(tenant, ADMIN)["id"] for tenant in (ACME, BOLT)}
    application.wipe(BOLT)
    application.database.run("DELETE FROM tenants WHERE slug = 'bolt'")
    new, old = another_key_file(application), application.directory / "backup.key"
    report = service(application, clock, key_file=new, previous_key_files=[old]).keys.rotate([], ADMIN, everyone=True)
    assert {done.tenant_id for done in report.rotated} >= {ACME, BOLT, "_catalog/eu-west-1"}
    assert "_platform" in report.skipped
    old.unlink()
    alone = service(application, clock, key_file=new)
    assert not {state.tenant_id for state in alone.keys.status(ADMIN) if state.error}
    assert alone.validate_backup(backups[ACME], ACME, ADMIN, deep=True)["issues"] == []
    catalog = site_of(alone).catalog("eu-west-1")
    assert catalog.read()
    assert catalog.damages == []


def test_one_that_fails_fails_alone(application: Application, clock: Clock) -> None:
    made = service(application, clock)
    for tenant in (ACME, BOLT):
        made.create_backup(tenant, ADMIN)
    key_object(application, tenant=BOLT).write_bytes(b"{}")
    with pytest.raises(KeyRotationFailed, match=BOLT) as caught:
        made.keys.rotate([ACME, BOLT], ADMIN)
    assert caught.value.report
    assert [done.tenant_id for done in caught.value.report.rotated] == [ACME]
    assert [failed.error.code for failed in caught.value.report.failed] == ["SBH-601"]
    with pytest.raises(CorruptObject):
        made.keys.rotate([BOLT], ADMIN)
    (state,) = made.keys.status(ADMIN, [BOLT])
    assert state.error.code == "SBH-601"


def test_a_backup_under_way_is_not_disturbed(application: Application, clock: Clock) -> None:
    """Wrapping anew needs no lease; a new data key does, and says who has it."""
    made = service(application, clock)
    made.create_backup(ACME, ADMIN)
    change(application, 1)
    drafts = made.backups.snapshot_tables(made.backups.begin([ACME], ADMIN))
    other = service(application, clock)
    other.keys.rotate([ACME], ADMIN)
    for asked in (NEW_DATA_KEY, {**NEW_DATA_KEY, **RE_ENCRYPT}):
        with pytest.raises(LeaseHeld):
            other.keys.rotate([ACME], ADMIN, **asked)
    for step in ("enumerate_files", "write_manifest", "verify_checksums", "apply_retention"):
        drafts = getattr(made.backups, step)(drafts)
    assert drafts[0].error is None
    check(other, drafts[0].backup_id)
    assert not key_object(application, 2).exists()


def test_who_may_rotate(application: Application, clock: Clock) -> None:
    made = service(application, clock)
    made.create_backup(ACME, ADMIN)
    own, other = UserContext("a", ACME, Role.ADMIN), UserContext("b", BOLT, Role.ADMIN)
    for user, asked in (
        (own, {"tenant_ids": [ACME]}),
        (other, {"tenant_ids": [ACME]}),
        (UserContext("o", ACME, Role.OPERATOR), {"tenant_ids": [ACME]}),
        (own, {"tenant_ids": [], "everyone": True}),
    ):
        with pytest.raises(AccessDenied):
            made.keys.rotate(user_ctx=user, **asked)  # type: ignore[arg-type]
    assert [state.tenant_id for state in made.keys.status(own)] == [ACME]
    with pytest.raises(AccessDenied):
        made.keys.status(other, [ACME])


# epochs


def test_a_new_data_key_seals_what_comes_and_opens_what_was(application: Application, clock: Clock) -> None:
    """Chunks keep their names: what did not change is not stored again. A second epoch costs one request more."""
    states = history(application, clock, 2)
    made = service(application, clock)
    assert made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY).rotated[0].epoch == 2
    again = made.create_backup(ACME, ADMIN)
    assert again["stats"]["chunks_new"] <= 4  # details that name the time
    change(application, 7)
    clock.now += timedelta(hours=1)
    last = made.create_backup(ACME, ADMIN)
    states[last["id"]] = application.state(ACME)
    assert (last["key_epoch"], last["signature"]["key_epoch"]) == (2, 2)
    assert epochs_of_pieces(application) == {1, 2}
    (state,) = made.keys.status(ADMIN, [ACME])
    assert [epoch.epoch for epoch in state.epochs] == [1, 2]
    assert state.old_bytes > 0
    assert key_object(application).read_bytes() != b""
    for backup, expected in states.items():
        check(made, backup)
        restores(application, made, backup, expected)


def test_an_old_key_opens_nothing_new(application: Application, clock: Clock, tmp_path: Path) -> None:
    """Who has the first epoch's data key reads what was sealed with it, and nothing that came later."""
    history(application, clock, 1)
    stolen = tmp_path / "stolen"
    shutil.copytree(application.repository(ACME) / "keys", stolen)
    made = service(application, clock)
    made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY)
    change(application, 3)
    clock.now += timedelta(hours=1)
    last = made.create_backup(ACME, ADMIN)["id"]
    thief = tmp_path / "thief"
    shutil.copytree(application.bucket, thief)
    shutil.rmtree(thief / "files" / ACME / "backups" / "keys")
    shutil.copytree(stolen, thief / "files" / ACME / "backups" / "keys")
    keys = LocalKeyFile(application.directory / "backup.key")
    repository = open_repository(
        open_local(thief), f"files/{ACME}/backups/", TenantId(ACME), "eu-west-1", keys, create=False
    )
    with pytest.raises(CorruptObject, match=r"keys/0002\.json"):
        repository.manifest(last)  # type: ignore[arg-type]
    repository.close()


def test_re_encryption_takes_two_runs_a_day_apart_and_then_the_old_key_is_gone(
    application: Application, clock: Clock
) -> None:
    states = history(application, clock, 3)
    made = service(application, clock)
    held = made.retention.hold(ACME, ADMIN, reason="a court")
    (first,) = made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY, **RE_ENCRYPT).rotated
    assert first.re_encrypted_bytes > 0
    assert first.documents_signed >= len(states) + 1
    assert first.old_bytes > 0
    assert first.epochs_destroyed == []
    assert "24 hours" in first.note
    for backup in states:
        check(made, backup)
    (soon,) = made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT).rotated
    assert (soon.re_encrypted_bytes, soon.documents_signed, soon.epochs_destroyed) == (0, 0, [])
    clock.now += DAY
    (second,) = made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT).rotated
    assert (second.old_bytes, second.epochs_destroyed) == (0, [1])
    assert "wrapped" not in json.loads(key_object(application).read_bytes())
    assert epochs_of_pieces(application) == {2}
    (state,) = made.keys.status(ADMIN, [ACME])
    assert [(epoch.epoch, epoch.destroyed) for epoch in state.epochs] == [(1, True), (2, False)]
    assert state.old_bytes == 0
    assert [hold.error for hold in made.retention.holds(ACME, ADMIN) if hold.id == held.id] == [None]
    for backup, expected in states.items():
        check(made, backup)
        restores(application, made, backup, expected)
    third = made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY).rotated[0]
    assert third.epoch == 3
    clock.now += DAY
    made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT)
    clock.now += DAY
    made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT)
    assert not key_object(application, 2).exists()
    for backup, expected in states.items():
        restores(application, made, backup, expected)


def test_a_prune_that_opened_before_a_rotation_seals_nothing_in_an_epoch_that_is_over(
    application: Application, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the lease, and meanwhile its epoch, in which nothing was sealed yet, ends and its key is destroyed."""
    states, made = history(application, clock, 4), service(application, clock)
    made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY)
    last, take = max(states), prune.lease_for

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(prune, "lease_for", take)
        other = service(application, clock)
        assert other.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY, **RE_ENCRYPT).rotated[0].epochs_destroyed == [2]
        for backup in states:
            if backup != last:
                (application.repository(ACME) / "manifests" / f"{backup}.json").unlink()
        clock.now += 2 * DAY
        return take(*arguments)

    monkeypatch.setattr(prune, "lease_for", late)
    assert made.retention.prune(ACME, ADMIN).packs_written > 0
    assert 2 not in epochs_of_pieces(application)
    clock.now += DAY
    check(made, last)
    restores(application, service(application, clock), last, states[last])


def test_the_platforms_backup_is_re_encrypted_as_well(application: Application, clock: Clock) -> None:
    programs = {name: str(postgres.binaries() / name) for name in ("pg_dump", "psql")}
    made = application.service(clock=clock, prune=SMALL, platform=programs)
    made.platform.create(ADMIN)
    asked = {"everyone": True, **RE_ENCRYPT}
    made.keys.rotate([], ADMIN, **NEW_DATA_KEY, **asked)
    clock.now += DAY
    report = made.keys.rotate([], ADMIN, **asked)
    (platform,) = [done for done in report.rotated if done.tenant_id == "_platform"]
    assert platform.epochs_destroyed == [1]
    assert made.platform.validate(ADMIN, deep=True).valid


def test_what_never_had_a_backup_has_no_keys(application: Application, clock: Clock) -> None:
    made = service(application, clock)
    assert made.keys.rotate([BOLT], ADMIN) == RotationReport([], [BOLT], [], [])
    assert made.keys.status(ADMIN, [BOLT]) == []
    with pytest.raises(UnknownBackup):
        made.get_backup("latest", BOLT, ADMIN)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: {**d, "newest": 9},
        lambda d: {**d, "newest": 0},
        lambda d: {**d, "newest": "2"},
        lambda d: {**d, "region": "us-east-1"},
    ],
)
def test_a_spoiled_pointer_is_damage(application: Application, clock: Clock, spoil: Any) -> None:
    history(application, clock, 1)
    made = service(application, clock)
    path = key_object(application)
    path.write_text(json.dumps(spoil(json.loads(path.read_bytes()))))
    with pytest.raises(CorruptObject, match="keys/000"):
        made.create_backup(ACME, ADMIN)


def test_a_wrapped_key_moved_to_another_epoch_is_found_out(application: Application, clock: Clock) -> None:
    """Else somebody who knows an old key, and can write to the bucket, could have new backups sealed with it."""
    history(application, clock, 1)
    made = service(application, clock)
    for _ in range(2):
        made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY)
    for source in (1, 2):
        moved = json.loads(key_object(application, source).read_bytes())
        key_object(application, 3).write_text(json.dumps({**moved, "epoch": 3, "newest": 3}))
        with pytest.raises((CorruptObject, KeyServiceError), match=r"another epoch|does not unwrap"):
            made.create_backup(ACME, ADMIN)


# killed anywhere


def _killed_at_every_write(
    application: Application, clock: Clock, states: dict[str, State], asked: dict[str, bool], when: str, step: int = 1
) -> int:
    """Kill the rotation at each write in turn, from the same start; then go on, and compare what every backup restores."""
    kept = application.directory / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(application.bucket, kept)
    begun = clock.now
    for nth in range(1, 200, step):
        shutil.rmtree(application.bucket)
        shutil.copytree(kept, application.bucket)
        clock.now = begun
        death = Death(nth, when)
        try:
            with struck(death):
                service(application, clock).keys.rotate([ACME], ADMIN, **asked)
        except Killed:
            assert death.dead
        if not death.dead:
            return nth
        clock.move()
        made = service(application, clock)
        check(made, max(states))
        made.keys.rotate([ACME], ADMIN, **asked)
        clock.now += DAY
        made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT)
        check(made, min(states))
    raise AssertionError("it never ended")


@pytest.mark.parametrize(("asked", "when"), [({}, "after"), (NEW_DATA_KEY, "before"), (NEW_DATA_KEY, "after")])
def test_a_rotation_killed_at_any_write(
    application: Application, clock: Clock, asked: dict[str, bool], when: str
) -> None:
    states = history(application, clock, 1)
    assert _killed_at_every_write(application, clock, states, asked, when) > 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_re_encryption_killed_at_any_write(
    application: Application, clock: Clock, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that copies and retires, pack by pack, and the one that removes and destroys the key."""
    shape = prune._shape
    monkeypatch.setattr(prune, "_shape", lambda settings: replace(shape(settings), slice_bytes=1))
    states, step = history(application, clock, 2), 5 if when == "before" else 7
    made = service(application, clock)
    made.keys.rotate([ACME], ADMIN, **NEW_DATA_KEY)
    assert _killed_at_every_write(application, clock, states, RE_ENCRYPT, when, step) > 15
    made.keys.rotate([ACME], ADMIN, **RE_ENCRYPT)
    clock.now += DAY
    assert _killed_at_every_write(application, clock, states, RE_ENCRYPT, when, step) > 7
    for backup, state in states.items():
        restores(application, service(application, clock), backup, state)


@settings(
    max_examples=examples(4),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.sampled_from(["backup", "wrap", "new data key", "re-encrypt", "prune", "forget", "a day"]),
        min_size=4,
        max_size=7,
    )
)
def test_any_sequence_keeps_every_backup_restorable(application: Application, clock: Clock, steps: list[str]) -> None:
    shutil.rmtree(application.repository(ACME), ignore_errors=True)
    shutil.rmtree(application.bucket / "_sbh-catalog", ignore_errors=True)
    clock.now += DAY
    made, states = service(application, clock), dict[str, State]()
    for seed, step in enumerate(["backup", *steps, "backup"]):
        clock.now += timedelta(minutes=7)
        if step == "backup":
            change(application, seed)
            states[made.create_backup(ACME, ADMIN)["id"]] = application.state(ACME)
        elif step == "prune":
            made.retention.prune(ACME, ADMIN)
        elif step == "forget" and len(states) > 1:
            oldest = min(states)
            (application.repository(ACME) / "manifests" / f"{oldest}.json").unlink()
            del states[oldest]
        elif step == "a day":
            clock.now += DAY
        elif step in ("wrap", "new data key", "re-encrypt"):
            asked = {"new data key": NEW_DATA_KEY, "re-encrypt": RE_ENCRYPT}.get(step, {})
            made.keys.rotate([ACME], ADMIN, **asked)
        made = service(application, clock)
        assert made.validate_backup(min(states), ACME, ADMIN)["issues"] == []
    for backup, state in states.items():
        restores(application, made, backup, state)
