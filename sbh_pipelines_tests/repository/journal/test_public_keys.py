"""Public keys: registered once, read by whoever has the catalog's key, newest first, gone with the tenant."""

import os

import pytest

from sbh_pipelines.errors import CorruptObject, ObjectMissing
from sbh_pipelines.repository.journal.segments.public_key import PublicKey
from sbh_pipelines_tests.repository.journal.journals import PREFIX, CatalogKeyInMemory, TenantKeys, journal_on
from sbh_pipelines_tests.support.memory_store import MemoryStore

ACME, BETA = TenantKeys("acme", "17"), TenantKeys("beta", "18")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def catalog() -> CatalogKeyInMemory:
    return CatalogKeyInMemory()


def _keys_in(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if key.startswith(PREFIX + "keys/")]


def test_what_was_registered_is_read(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """By another process too."""
    assert journal_on(store, catalog).public_keys.register([ACME.public(), BETA.public()]) == 2
    assert journal_on(store, catalog).public_keys.read() == {"17": ACME.public(), "18": BETA.public()}


def test_nothing_is_written_for_what_is_known(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """A backup registers its tenants every time."""
    keys = journal_on(store, catalog).public_keys
    keys.register([ACME.public()])
    assert keys.register([ACME.public()]) == 0
    assert journal_on(store, catalog).public_keys.register([ACME.public()]) == 0
    assert len(_keys_in(store)) == 1


def test_the_newest_epoch_counts(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Whichever was registered last: a process that is late does not bring an old key back."""
    keys = journal_on(store, catalog).public_keys
    keys.register([ACME.public(1)])
    journal_on(store, catalog).public_keys.register([ACME.public(2)])
    assert keys.register([ACME.public(1)]) == 0
    assert keys.read()["17"] == ACME.public(2)
    assert journal_on(store, catalog).public_keys.read()["17"] == ACME.public(2)


def test_a_tenant_in_another_home_has_another_key(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """The last one that was registered, whatever its epoch, also after a compaction."""
    renamed = PublicKey("acme~2", "17", 1, os.urandom(32))
    keys = journal_on(store, catalog).public_keys
    keys.register([ACME.public(2)])
    keys.register([renamed])
    for _ in range(2):
        assert journal_on(store, catalog).public_keys.read()["17"] == renamed
        keys.compact()


@pytest.mark.parametrize("public", [bytes(31) + b"\x01", b"\xff" * 32])
def test_a_repository_that_was_begun_anew_has_another_key(
    store: MemoryStore, catalog: CatalogKeyInMemory, public: bytes
) -> None:
    """Under the same name and in the first epoch again: nobody has the private key of the old one any more."""
    keys = journal_on(store, catalog).public_keys
    keys.register([ACME.public(1), BETA.public()])
    keys.register([ACME.public(2)])
    anew = PublicKey("acme", "17", 1, public)
    assert keys.register([anew]) == 1
    for _ in range(2):
        assert journal_on(store, catalog).public_keys.read() == {"17": anew, "18": BETA.public()}
        assert keys.register([anew]) == 0
        keys.compact()


def test_a_compaction_merges(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Another process, which had read what is gone, sees the same and goes on."""
    keys, other = journal_on(store, catalog).public_keys, journal_on(store, catalog).public_keys
    tenants = [PublicKey(f"t{number}", str(number), 1, os.urandom(32)) for number in range(30)]
    for tenant in tenants:
        keys.register([tenant])
    before = other.read()
    assert keys.compact() == 30
    assert len(_keys_in(store)) == 1
    assert other.read() == keys.read() == before
    assert len(before) == 30
    assert keys.compact() == 0


def test_an_erased_tenant_leaves(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """By a compaction, also where there is nothing to merge; and the others stay."""
    keys, other = journal_on(store, catalog).public_keys, journal_on(store, catalog).public_keys
    keys.register([ACME.public(), BETA.public()])
    assert set(other.read()) == {"17", "18"}
    keys.compact(leave_out=["acme"])
    for reader in (keys, other, journal_on(store, catalog).public_keys):
        assert set(reader.read()) == {"18"}


@pytest.mark.parametrize("killed", ["before", "between"])
def test_a_killed_compaction_loses_nothing(
    store: MemoryStore, catalog: CatalogKeyInMemory, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    """Before it wrote, and between writing and deleting."""
    keys = journal_on(store, catalog).public_keys
    keys.register([ACME.public(1)])
    keys.register([ACME.public(2), BETA.public()])
    expected = keys.read()

    def fail(*_: object) -> str:
        raise RuntimeError("killed")

    monkeypatch.setattr(store, "create" if killed == "before" else "delete", fail)
    with pytest.raises(RuntimeError):
        keys.compact()
    assert journal_on(store, catalog).public_keys.read() == expected


def test_a_forged_key_is_not_believed(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Whoever writes to the bucket cannot have a tenant's changes sealed to himself; the others' keys are read."""
    journal_on(store, catalog).public_keys.register([ACME.public()])
    thief = PublicKey("acme", "17", 9, os.urandom(32))
    journal_on(store, CatalogKeyInMemory()).public_keys.register([thief])
    keys = journal_on(store, catalog).public_keys
    assert keys.read() == {"17": ACME.public()}
    assert [type(damage) for damage in keys.damages] == [CorruptObject]


def test_an_object_of_another_name_is_not_believed(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """An old object under a new name would bring an old home back; nor one of another folder, or region."""
    journal = journal_on(store, catalog)
    journal.public_keys.register([ACME.public()])
    (key,) = _keys_in(store)
    body = store.objects.pop(key)
    other = journal_on(store, catalog, "us-east-1")
    store.objects[key[:-1] + ("0" if key[-1] != "0" else "1")] = body
    store.objects[key.replace("eu-west-1", "us-east-1")] = body
    store.objects[key.replace("/keys/", "/gaps/")] = body
    assert journal.public_keys.read() == {}
    assert other.public_keys.read() == {}
    assert journal.gaps() == []
    assert all(len(one) == 1 for one in (journal.public_keys.damages, other.public_keys.damages, journal.damages))


def test_a_lost_catalog_key_is_told(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """No new key is made by who reads."""
    journal_on(store, catalog).public_keys.register([ACME.public()])
    catalog.has_key = False
    keys = journal_on(store, catalog).public_keys
    assert keys.read() == {}
    assert len(keys.damages) == 1


def test_an_object_that_a_compaction_takes_meanwhile_is_no_damage(
    store: MemoryStore, catalog: CatalogKeyInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader lists anew."""
    writer, reader = journal_on(store, catalog).public_keys, journal_on(store, catalog).public_keys
    writer.register([ACME.public()])
    writer.register([BETA.public()])
    get, late = store.get, [True]

    def get_late(key: str, most: int = 1 << 26) -> bytes:
        if late.pop() if late else False:
            writer.compact()
            raise ObjectMissing("No such object", on=key)
        return get(key, most)

    monkeypatch.setattr(store, "get", get_late)
    assert set(reader.read()) == {"17", "18"}
    assert reader.damages == []


def test_many_tenants_have_several_objects(store: MemoryStore, catalog: CatalogKeyInMemory) -> None:
    """Each within what one object may have; a second compaction has nothing to do."""
    keys = journal_on(store, catalog).public_keys
    public = os.urandom(32)
    assert keys.register(PublicKey(f"t{number}", str(number), 1, public) for number in range(45_000)) == 45_000
    assert len(_keys_in(store)) == 3
    assert keys.compact() == 0
    assert len(journal_on(store, catalog).public_keys.read()) == 45_000
