"""Every object of a repository, damaged in every way: validation names it, and no restore is half of anything.

A tenant with two backups of different data, two failed backups and two restores; a second tenant whose objects stand in
for the first's. Each case damages one object of a copy of the repository.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import SbhError
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application, State
from sbh_pipelines_tests.support.databases import fresh_database

DOCUMENTS = ("database", "files", "config")
KINDS = ("keys", "lease.json", "packs", "index", *DOCUMENTS, "manifests", "failures", "restores")
UNNEEDED = ("lease.json", "failures", "restores")  # no backup needs these: nothing is named, every restore is exact
REBUILT = ("index",)  # found again in the packs: named, and yet every restore is exact


def _flip(place: Callable[[int], int]) -> Callable[[bytes], bytes]:
    def flipped(body: bytes) -> bytes:
        at = place(len(body))
        return body[:at] + bytes([body[at] ^ 0x10]) + body[at + 1 :]

    return flipped


CHANGES: Mapping[str, Callable[[bytes], bytes]] = {
    "halved": lambda body: body[: len(body) // 2],
    "emptied": lambda body: b"",
    "first byte flipped": _flip(lambda size: 0),
    "middle byte flipped": _flip(lambda size: size // 2),
    "last byte flipped": _flip(lambda size: size - 1),
}
WAYS = ("deleted", *CHANGES, "swapped", "of the other tenant")
CASES = [(kind, way) for kind in KINDS for way in WAYS if way != "swapped" or kind not in ("keys", "lease.json")]
# After damage to these, a new backup is made: to all that later backups read. How an object was changed matters less here:
# whether it is gone, shorter, or of the same length and wrong.
READ_LATER = ("keys", "lease.json", "packs", "index", "manifests")
GOING_ON = [(kind, way) for kind, way in CASES if kind in READ_LATER and way not in ("emptied", "first byte flipped")]
GOING_ON += [(kind, "deleted") for kind in DOCUMENTS]


@dataclass
class Repositories:
    """`kept` holds the repositories before any damage, `states` the tenant as it was at each backup."""

    application: Application
    service: BackupService
    kept: Path
    states: dict[str, State] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)  # pack: the backup that wrote it

    @property
    def first(self) -> str:
        return min(self.states)

    @property
    def second(self) -> str:
        return max(self.states)

    def objects(self, kind: str, tenant: str = ACME) -> list[str]:
        """Keys of one kind before any damage."""
        root = self.kept / tenant
        keys = (str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
        return sorted(key for key in keys if key.split("/")[0] == kind)

    def needs(self, backup: str, key: str) -> bool:
        kind = key.split("/")[0]
        if kind == "packs":  # the second backup stored only what was new
            return backup == self.second or self.written[key] == backup
        return kind == "keys" or (kind not in UNNEEDED and backup in key)

    def reset(self) -> None:
        """Undo all damage; rows and files stay as they are."""
        for tenant in (ACME, BOLT):
            shutil.rmtree(self.application.repository(tenant))
            shutil.copytree(self.kept / tenant, self.application.repository(tenant))

    def damage(self, key: str, way: str) -> list[str]:
        """The keys that are damaged now."""
        root, kind = self.application.repository(ACME), key.split("/")[0]
        file = root / key
        if way == "deleted":
            file.unlink()
        elif way == "swapped":
            same = self.objects(kind)
            other = same[(same.index(key) + 1) % len(same)]
            mine, its = file.read_bytes(), (root / other).read_bytes()
            file.write_bytes(its)
            (root / other).write_bytes(mine)
            return [key, other]
        elif way == "of the other tenant":
            theirs = self.objects(kind, BOLT)
            file.write_bytes((self.kept / BOLT / theirs[self.objects(kind).index(key) % len(theirs)]).read_bytes())
        else:
            file.write_bytes(CHANGES[way](file.read_bytes()))
        return [key]

    def said(self, backup: str) -> str:
        """All that a deep validation finds wrong; empty for a valid backup."""
        try:
            result = self.service.validate_backup(backup, ACME, ADMIN, deep=True)
        except SbhError as error:
            return str(error)
        said = " ".join(f"{issue['what']} {issue['on']} {issue['why']}" for issue in result["issues"])
        assert result["valid"] == (not said)
        return said


@pytest.fixture(scope="module")
def repositories(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repositories]:
    """Repositories whose tenant is wrecked and restored by the tests."""
    with _made(embedded_stack, tmp_path_factory.mktemp("damage")) as made:
        yield made


@pytest.fixture(scope="module")
def calm_repositories(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repositories]:
    """Repositories whose rows and files stay what they were at the second backup."""
    with _made(embedded_stack, tmp_path_factory.mktemp("calm")) as made:
        yield made


@contextmanager
def _made(stack: Stack, directory: Path) -> Iterator[Repositories]:
    """Two backups of different data of each tenant, two failed ones, two restores; made an hour apart."""
    with fresh_database(stack) as database:
        application = Application(database, directory)
        application.create()
        now = [datetime(2026, 1, 1, 12, tzinfo=UTC)]
        service = application.service(clock=lambda: now[0])
        made = Repositories(application, service, directory / "kept")
        for _ in range(2):
            if made.states:
                database.run(
                    "UPDATE items SET title = title || '!' WHERE id % 2 = 0; DELETE FROM items WHERE id % 9 = 0"
                )
                for tenant in (ACME, BOLT):
                    application.write_file(tenant, "docs/later.txt", f"later, of {tenant}\n".encode() * 100)
            drafts = service.backups.create_all([ACME, BOLT], ADMIN)
            assert [draft.error for draft in drafts] == [None, None]
            backup = str(drafts[0].backup_id)
            made.states[backup] = application.state(ACME)
            for pack in (application.repository(ACME) / "packs").iterdir():
                made.written.setdefault(f"packs/{pack.name}", backup)
            now[0] += timedelta(hours=1)
        database.run("CREATE TABLE unmapped (id int)")
        for _ in range(2):
            assert all(draft.error for draft in service.backups.create_all([ACME, BOLT], ADMIN))
            now[0] += timedelta(hours=1)
        database.run("DROP TABLE unmapped")
        for tenant in (ACME, ACME, BOLT, BOLT):
            service.restore_backup("latest", tenant, ADMIN)
        now[0] += timedelta(hours=1)
        for tenant in (ACME, BOLT):
            shutil.copytree(application.repository(tenant), made.kept / tenant)
        yield made


def _name(key: str, way: str) -> str:
    # Without its manifest a backup does not exist: the error says which one.
    gone = key.startswith("manifests/") and way == "deleted"
    return key.removeprefix("manifests/").removesuffix(".json") if gone else key


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_damage_is_named_and_a_restore_is_exact_or_writes_nothing(
    repositories: Repositories, kind: str, way: str
) -> None:
    """Validation of each backup names the object if it needs it, and nothing otherwise; then a wrecked tenant is restored."""
    assert repositories.objects(kind)
    application = repositories.application
    for key in repositories.objects(kind):
        repositories.reset()
        damaged = repositories.damage(key, way)
        named = {backup: [k for k in damaged if repositories.needs(backup, k)] for backup in repositories.states}
        for backup in reversed(repositories.states):
            said = repositories.said(backup)
            assert all(_name(k, way) in said for k in named[backup]), (key, backup, said)
            if not named[backup]:
                assert said == "", (key, backup)
        backup = repositories.second if named[repositories.second] else repositories.first
        if kind in ("failures", "restores", *REBUILT) and way not in ("deleted", "middle byte flipped", "swapped"):
            continue  # an exact restore takes longest, and these are one case to it
        # As if nobody had validated: what validation learned is of no help to the restore.
        repositories.reset()
        repositories.damage(key, way)
        if "stranger" not in application.state(ACME).files:  # a refused restore has left it wrecked
            application.wreck(ACME)
        _restore(repositories, backup, exact=kind in (*UNNEEDED, *REBUILT) or not named[backup])


def _restore(repositories: Repositories, backup: str, exact: bool) -> None:
    """Restore; unless it must be exact, it may also be refused, with everything as it was."""
    wanted = wrecked = repositories.application.state(ACME)
    try:
        repositories.service.restore_backup(backup, ACME, ADMIN)
        wanted = repositories.states[backup]
    except SbhError:
        if exact:
            raise
    assert repositories.application.state(ACME) == wanted
    assert not exact or wanted != wrecked


@pytest.mark.parametrize(("kind", "way"), GOING_ON)
def test_backups_go_on_after_damage_and_mend_what_can_be_mended(
    calm_repositories: Repositories, kind: str, way: str
) -> None:
    """Once damage has been looked for, the next backup is valid; lost packs and indexes are whole again with it."""
    repositories, service = calm_repositories, calm_repositories.service
    for key in repositories.objects(kind):
        repositories.reset()
        repositories.damage(key, way)
        repositories.said(repositories.second)
        if kind == "keys":
            with pytest.raises(SbhError, match=r"keys/0001\.json"):
                service.create_backup(ACME, ADMIN)
            continue
        made = service.create_backup(ACME, ADMIN)["id"]
        assert repositories.said(made) == "", key
        assert made in [manifest["id"] for manifest in service.list_backups(ACME, ADMIN)]
        if kind in ("packs", "index", "lease.json"):
            assert repositories.said(repositories.second) == "", (
                key
            )  # its data is still there, so all of it was stored anew


def test_a_backup_that_lost_all_its_packs_is_restored_after_the_next_one(application: Application) -> None:
    """The next backup of the same data stores all of it anew, and the old one is whole by it."""
    service = application.service()
    old, original = service.create_backup(ACME, ADMIN)["id"], application.state(ACME)
    shutil.rmtree(application.repository(ACME) / "packs")
    service.create_backup(ACME, ADMIN)
    application.wipe(ACME)
    service.restore_backup(old, ACME, ADMIN)
    assert application.state(ACME) == original


def test_a_lost_key_hides_no_backups_and_is_not_replaced(repositories: Repositories) -> None:
    """Without its data key the tenant has unreadable backups, not none; with the key back they are valid."""
    repositories.reset()
    key = repositories.application.repository(ACME) / "keys" / "0001.json"
    kept = key.read_bytes()
    key.unlink()
    for call in (
        lambda: repositories.service.list_backups(ACME, ADMIN),
        lambda: repositories.service.create_backup(ACME, ADMIN),
        lambda: repositories.service.restore_backup(repositories.second, ACME, ADMIN),
        lambda: repositories.service.validate_backup(repositories.second, ACME, ADMIN),
    ):
        with_key = ""
        try:
            result = call()
            assert isinstance(result, dict)
            with_key = str(result["issues"])
        except SbhError as error:
            with_key = str(error)
        assert "keys/0001.json" in with_key
    assert not key.exists()
    key.write_bytes(kept)
    assert repositories.said(repositories.second) == ""


def test_a_damaged_manifest_hides_no_other_and_is_told(repositories: Repositories) -> None:
    """A list of backups shows the sound ones, and names the damaged one."""
    repositories.reset()
    key = f"manifests/{repositories.first}.json"
    repositories.damage(key, "halved")
    assert [m["id"] for m in repositories.service.list_backups(ACME, ADMIN)] == [repositories.second]
    (error,) = repositories.service.backups.damaged(ACME, ADMIN)
    assert key in error.on
