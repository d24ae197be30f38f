"""One fault at a time, on the request where it hurts most."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import CorruptObject, ProofFailed, SbhError, StoreError, StoreUnavailable
from sbh_pipelines.repository.seal import Sealer, SealingSpace
from sbh_pipelines_tests.support.application import ACME, ADMIN
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.faults.schedule import Asked, Fault, Wanted
from sbh_pipelines_tests.support.faults.world import World, world


@pytest.fixture
def made(database: Database, tmp_path: Path) -> Iterator[World]:
    """A world with one backup, nothing broken yet but the lines of this module."""
    with world(database, tmp_path, 1) as built:
        built.line.rate = 0
        built.schedule.rate = 0
        built.backup()
        yield built


def below(folder: str, *methods: str, times: int = 1000) -> Wanted:
    """The first requests for objects of one folder of the tenant's repository."""
    left = times

    def wanted(asked: Asked) -> bool:
        nonlocal left
        if f"/backups/{folder}" not in asked.path or asked.lists or (methods and asked.method not in methods):
            return False
        left -= 1
        return left >= 0

    return wanted


def break_(made: World, fault: Fault, only: Wanted) -> None:
    made.schedule.rate, made.schedule.faults, made.schedule.only = 1, {fault}, only


def mend(made: World) -> None:
    made.schedule.rate = 0


@pytest.mark.parametrize("folder", ["packs/", "database/", "manifests/"])
def test_an_acknowledged_write_that_is_lost_ends_the_backup(made: World, folder: str) -> None:
    """What was stored is looked at before the commit, and the manifest after it."""
    made.change(made_chance())
    break_(made, Fault.LOST_WRITE, below(folder, "PUT"))
    ended = made.backup()
    assert isinstance(ended, SbhError)
    assert made.schedule.seen[Fault.LOST_WRITE]
    assert len(made.committed) == 1
    mend(made)
    made.clock.move(1)
    assert not isinstance(made.backup(), BaseException)
    made.check()
    made.prove(max(made.committed))


def test_an_index_that_is_lost_is_made_anew(made: World) -> None:
    """Packs say themselves what is in them."""
    made.change(made_chance())
    break_(made, Fault.LOST_WRITE, below("index/", "PUT"))
    assert not isinstance(made.backup(), BaseException)
    assert made.schedule.seen[Fault.LOST_WRITE]
    mend(made)
    made.check()
    made.prove(max(made.committed))


def test_a_data_key_that_is_lost_seals_nothing(database: Database, tmp_path: Path) -> None:
    """All that is sealed with it could never be opened."""
    with world(database, tmp_path, 1) as fresh:
        fresh.line.rate = 0
        break_(fresh, Fault.LOST_WRITE, below("keys/", "PUT", times=1))
        assert isinstance(fresh.backup(), StoreUnavailable)
        mend(fresh)
        fresh.clock.move(1)
        fresh.backup()
        fresh.check()
        fresh.prove(max(fresh.committed))


def test_a_key_that_is_said_to_be_wrapped_anew_is(made: World) -> None:
    """The former key may be destroyed on the strength of it."""
    before = made.key_object()
    break_(made, Fault.LOST_WRITE, below("keys/", "PUT", times=1))
    done = made.do("rotate", lambda service: service.keys.rotate([ACME], ADMIN))
    assert made.schedule.seen[Fault.LOST_WRITE] == 1
    assert isinstance(done, SbhError) or made.key_object() != before
    made.check()


def test_nobody_is_sent_away_by_a_bit_that_flips(made: World) -> None:
    """That a repository is another tenant's is asked twice."""
    for seed in range(16):
        made.schedule.seed = seed
        break_(made, Fault.FLIP_ANSWER, below("keys/", "GET", times=1))
        made.do("list", lambda service: service.list_backups(ACME, ADMIN))


def test_a_legal_hold_that_is_lost_is_not_promised(made: World) -> None:
    break_(made, Fault.LOST_WRITE, below("holds/", "PUT"))
    done = made.do("hold", lambda service: service.retention.hold(ACME, ADMIN, reason="a suit"))
    assert made.schedule.seen[Fault.LOST_WRITE]
    assert isinstance(done, StoreUnavailable)


@pytest.mark.parametrize("folder", ["packs/", "manifests/"])
def test_bits_that_flip_on_their_way_to_the_store_are_refused_there(made: World, folder: str) -> None:
    """By its checksum, so the object is sent again."""
    made.change(made_chance())
    break_(made, Fault.FLIP_REQUEST, below(folder, "PUT", times=1))
    made.backup()
    assert made.schedule.seen[Fault.FLIP_REQUEST] == 1
    mend(made)
    made.check()
    made.clock.move(1)
    made.backup()
    made.check()
    made.prove(max(made.committed))


@pytest.mark.parametrize("fault", [Fault.LATE_ERROR, Fault.CUT_AFTER])
@pytest.mark.parametrize("folder", ["packs/", "manifests/", "lease.json"])
def test_a_write_that_took_place_and_was_reported_as_failed(made: World, folder: str, fault: Fault) -> None:
    made.change(made_chance())
    break_(made, fault, below(folder, "PUT", times=1))
    done = made.backup()
    assert not isinstance(done, BaseException), done
    made.check()


def test_a_bit_that_flips_on_its_way_here_condemns_no_pack(made: World) -> None:
    """A mark would keep restores from a pack that is whole."""
    (backup_id,) = made.committed
    wanted, wholes = below("packs/", "GET"), iter(range(100))
    break_(made, Fault.FLIP_ANSWER, lambda asked: wanted(asked) and asked.whole and next(wholes) == 0)
    found = made.do("validate", lambda service: service.validate_backup(backup_id, ACME, ADMIN, deep=True))
    assert made.schedule.seen[Fault.FLIP_ANSWER] == 1
    assert found["issues"] == []
    assert not [key for key in made._keys(f"files/{ACME}/backups/index/") if "damaged-" in key]


def test_a_bit_that_flips_on_its_way_here_ends_no_restore(made: World) -> None:
    (backup_id,) = made.committed
    made.change(made_chance())
    break_(made, Fault.FLIP_ANSWER, below("packs/", "GET", times=3))
    done = made.restore(backup_id)
    assert made.schedule.seen[Fault.FLIP_ANSWER]
    assert not isinstance(done, BaseException), done


@pytest.mark.parametrize("fault", [Fault.FLIP_ANSWER, Fault.SHORT_ANSWER, Fault.CUT_ANSWER])
def test_a_file_of_the_application_that_is_read_wrongly(made: World, fault: Fault) -> None:
    """It is read again, or the backup fails: nothing is stored that never was in the bucket."""
    made.put("docs/new.bin", bytes(range(256)) * 300)
    left = [1]

    def wanted(asked: Asked) -> bool:
        if not asked.path.endswith("/docs/new.bin") or asked.method != "GET" or not left:
            return False
        left.pop()
        return True

    break_(made, fault, wanted)
    made.backup()
    assert made.schedule.seen[fault] == 1
    mend(made)
    made.check()
    made.prove(max(made.committed))


@pytest.mark.parametrize("verb", ["PUT", "DELETE"])
def test_a_restored_file_is_what_the_store_says_it_is(made: World, verb: str) -> None:
    """Written files are read back, and removed ones are looked for."""
    (backup_id,) = made.committed
    made.put("docs/1.bin", b"ruined")
    made.put("docs/stranger", b"was not there")
    methods = ("PUT",) if verb == "PUT" else ("DELETE", "POST")
    break_(
        made,
        Fault.LOST_WRITE,
        lambda asked: asked.method in methods and "/backups/" not in asked.path and "uploads" not in asked.query,
    )
    done = made.restore(backup_id)
    assert made.schedule.seen[Fault.LOST_WRITE]
    assert isinstance(done, ProofFailed)
    mend(made)
    made.clock.move(1)
    assert not isinstance(made.restore(backup_id), BaseException)


def test_a_full_store_says_so_and_goes_on_when_there_is_room(made: World) -> None:
    (first,) = made.committed
    made.change(made_chance())
    break_(made, Fault.FULL, below("packs/", "PUT"))
    ended = made.backup()
    assert isinstance(ended, StoreError)
    made.check([first])
    mend(made)
    made.clock.move(1)
    assert not isinstance(made.backup(), BaseException)
    made.check()


def test_a_prune_in_a_full_store_takes_nothing_away(made: World) -> None:
    for _ in range(3):
        made.change(made_chance())
        made.clock.move(26)
        made.backup()
    made.clock.move(26)
    break_(made, Fault.FULL, below("", "PUT"))
    assert isinstance(made.do("prune", lambda service: service.retention.prune(ACME, ADMIN)), StoreError)
    assert made.schedule.seen[Fault.FULL]
    mend(made)
    made.check()


def test_a_piece_that_was_sealed_wrongly_is_found_before_the_commit(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As memory that flips a bit would: the pack's hash is right, and what is in it does not open."""
    seal = Sealer.seal_chunk

    def spoiled(self: Sealer, plain: bytes, name: bytes, space: SealingSpace) -> memoryview:
        sealed = seal(self, plain, name, space)
        sealed[-1] ^= 1
        return sealed

    with world(database, tmp_path, 1) as fresh:
        fresh.line.rate = fresh.schedule.rate = 0
        monkeypatch.setattr(Sealer, "seal_chunk", spoiled)
        service = BackupService(fresh.settings(faulty=False, backup={"verify": "read"}), clock=fresh.clock)
        with pytest.raises(CorruptObject):
            service.create_backup(ACME, ADMIN)
        assert not fresh.manifests()


def test_a_store_that_asks_for_patience_for_ever(made: World) -> None:
    """Each request is given up after its retries, and a run after that."""
    made.schedule.storm = Fault.BUSY
    ended = made.backup()
    assert isinstance(ended, StoreUnavailable)
    assert ended.transient
    assert made.longest_s < 240


def test_a_prune_that_is_told_of_no_new_backup(made: World) -> None:
    """A listing that lags takes packs out of use, and nothing away: the next prune finds that they are needed."""
    for _ in range(3):
        made.change(made_chance())
        made.clock.move(26)
        made.backup()
    made.clock.move(26)
    made.schedule.rate, made.schedule.faults = 1, {Fault.STALE_LISTING}
    made.schedule.only = lambda asked: asked.lists and "manifests" in asked.query
    made.do("prune", lambda service: service.retention.prune(ACME, ADMIN))
    assert made.schedule.seen[Fault.STALE_LISTING]
    mend(made)
    made.check()
    made.clock.move(26)
    made.do("prune", lambda service: service.retention.prune(ACME, ADMIN))
    made.check()


def made_chance() -> random.Random:
    return random.Random(7)
