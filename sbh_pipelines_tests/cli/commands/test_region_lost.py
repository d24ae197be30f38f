"""The first region is gone: its object server is killed, its directory deleted, its key away; docs/operations/region-lost.md.

What comes back is judged by `embedded.fingerprint` and by SQL of these tests' own.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import obstore
import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.sample import fingerprint
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack, running
from sbh_pipelines.errors import PrimaryFenced, StoreUnavailable
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.copy_server import NAME, CopyServer, copy_server
from sbh_pipelines_tests.support.runbook import Runbook, Shell

TENANTS = ["tenant-1", "tenant-2"]
VICTIM = TENANTS[0]
PAGE = "region-lost.md"
ADMIN = UserContext("schedule", "*", Role.ADMIN)
SESSIONS = {"table sessions: is gone"}  # not backed up on purpose; a rebuild leaves them out
DAMAGE = (
    "UPDATE payments SET amount = 0 WHERE tenant_id = 1",
    "DELETE FROM attachments a USING comments c, tasks k WHERE c.id = a.comment_id AND k.id = c.task_id AND k.tenant_id = 1",
)


@dataclass(frozen=True, slots=True)
class LostRegion:
    """A SaaS whose first region was lost, what it had before, and the shell of whoever is on call."""

    place: CopyServer
    before: fingerprint.Fingerprint
    shell: Shell

    @property
    def stack(self) -> Stack:
        return self.place.stack

    def run(self, *statements: str, database: str = postgres.DATABASE) -> None:
        with closing(psycopg2.connect(make_dsn(self.stack.dsn(postgres.ADMIN), dbname=database))) as connection:
            connection.autocommit = True
            for statement in statements:
                connection.cursor().execute(statement)

    def table(self, query: str) -> list[tuple[object, ...]]:
        with closing(psycopg2.connect(self.stack.dsn(postgres.ADMIN))) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def _settings_of_its_own(self) -> Path:
        """The page writes a line into it."""
        own = self.place.settings.with_name("on-call.toml")
        shutil.copy(self.place.settings, own)
        return own

    def differences(self) -> Mapping[str, list[str]]:
        return self.before.differences(fingerprint.take(self.stack))

    def values(self, out: Path) -> dict[str, str]:
        """What an engineer puts in the place of the page's examples."""
        layout = Layout(self.stack.dir)
        roles = {"PASSWORD_FILE": postgres.ADMIN, "APP_PASSWORD": postgres.OWNER, "BACKUP_PASSWORD": postgres.BACKUP}
        passwords = {name: str(layout.root / layout.password_file(role)) for name, role in roles.items()}
        server = f"host=127.0.0.1 port={self.stack.ports['postgres']} user={postgres.ADMIN} dbname=postgres"
        return {
            "SBH_SETTINGS": str(self._settings_of_its_own()),
            "COPY": NAME,
            "SERVER": server,
            "TENANT": VICTIM,
            "OUT": str(out),
            **passwords,
        }


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LostRegion]:
    with running(tmp_path_factory.mktemp("first"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=700, files=24, seed=5)
        with copy_server(stack, tmp_path_factory.mktemp("second")) as place:
            service = BackupService(load_settings(place.settings))
            for kind in ("full", "incremental"):
                drafts = service.backups.create_all(TENANTS, ADMIN, kind)
                assert [draft.error for draft in drafts] == [None] * len(TENANTS)
            service.platform.create(ADMIN)
            place.bring_over()
            before = fingerprint.take(stack)
            place.lose_the_first()
            with pytest.raises(StoreUnavailable):
                BackupService(load_settings(place.settings)).backups.of(VICTIM, ADMIN)
            with Shell.opened(stack, Path(tempfile.mkdtemp(prefix="sbh-shell-"))) as shell:
                yield LostRegion(place, before, shell)
            shutil.rmtree(shell.directory)


def test_rows_come_back_while_no_other_store_is_there(lost: LostRegion, sbh: Sbh) -> None:
    """Nothing listens where the first store was, and its key file is gone: the copy alone is enough."""
    assert not Layout(lost.stack.dir).backup_key.exists()
    paid = "SELECT id, amount, currency FROM payments WHERE tenant_id = 1 ORDER BY id"
    hung = "SELECT count(*), md5(string_agg(a::text, '' ORDER BY a.id)) FROM attachments a"
    before = lost.table(paid), lost.table(hung)
    lost.run(*DAMAGE)
    assert (lost.table(paid), lost.table(hung)) != before
    at = ("--settings", str(lost.place.settings), "--from-copy", NAME, "-t", VICTIM, "--tables", "payments,attachments")
    shown = sbh("restore", "diff", "latest", *at)
    assert shown.status == 0, shown.err
    assert "--no-safety-backup --from-copy dr --confirm" in shown.out
    refused = sbh("restore", "run", "latest", *at, "--confirm", "--json")
    assert (refused.status, refused.code) == (8, "SBH-643")
    ended = sbh("restore", "run", "latest", *at, "--confirm", "--no-safety-backup", "--json")
    assert ended.status == 0, ended.err
    assert ended.document["from_copy"] == NAME
    assert (lost.table(paid), lost.table(hung)) == before
    mine = ("--settings", str(lost.place.settings), "--from-copy", NAME, "-t", VICTIM, "--json")
    record = sbh("restore", "status", ended.document["restore_id"], *mine).document
    assert (record["status"], record["from_copy"]) == ("completed", NAME)
    undone = sbh("restore", "undo", ended.document["restore_id"], *mine, "--confirm")
    assert (undone.status, undone.code) == (9, "SBH-701")


def test_verifying_says_once_for_each_region_that_the_first_place_is_away(lost: LostRegion, sbh: Sbh) -> None:
    """Its catalog, its states and its trail are all asked for; the copy is valid all the same."""
    found = sbh("copies", "verify", NAME, "--settings", str(lost.place.settings), "--json")
    assert found.status == 0, found.err
    assert found.document["valid"] is True
    regions = load_settings(lost.place.settings).storage.regions
    named = [
        (issue["code"], region) for issue in found.document["issues"] for region in regions if region in issue["on"]
    ]
    assert sorted(named) == [("SBH-401", region) for region in sorted(regions)]
    assert len(found.document["issues"]) == len(regions)


def test_a_drill_from_the_copy_while_no_other_store_is_there(lost: LostRegion, sbh: Sbh) -> None:
    at = ("--settings", str(lost.place.settings), "--from-copy", NAME, "-t", VICTIM, "--json")
    ended = sbh("drill", "run", *at)
    assert ended.status == 0, ended.err
    (record,) = ended.document["drills"]
    assert (record["status"], record["from_copy"]) == ("passed", NAME)
    assert record["drill_id"] in [one["drill_id"] for one in sbh("drill", "list", *at).document]


def test_region_lost_with_the_database(lost: LostRegion, tmp_path: Path) -> None:
    """The database is there, with rows damaged besides; files go into an empty bucket of a new server."""
    lost.run(*DAMAGE)
    with lost.place.empty_store():
        lost.shell.case(Runbook.read(PAGE), "If the database is still there", lost.values(tmp_path / "out"))
        left = lost.differences()
        assert left.get(VICTIM) is None
        (other,) = set(TENANTS) - {VICTIM}
        assert left[other]
        assert all(line.startswith("file ") and line.endswith("is gone") for line in left[other])


def test_region_lost(lost: LostRegion, tmp_path: Path) -> None:
    """The database is gone as well, with the application's roles; all comes back out of the copy, and backups begin anew."""
    with lost.place.empty_store():
        lost.run(
            "DROP DATABASE app WITH (FORCE)",
            *(f"DROP OWNED BY {role}; DROP ROLE {role}" for role in (postgres.BACKUP, postgres.OWNER)),
            database="postgres",
        )
        values = lost.values(tmp_path / "out")
        try:
            lost.shell.follow(Runbook.read(PAGE), values)
            assert {line for lines in lost.differences().values() for line in lines} <= SESSIONS
            lost.shell.undo(Runbook.read(PAGE), values)
            assert Path(values["OUT"] + ".before").stat().st_size > 10_000
            pages = obstore.list(fingerprint.stores(lost.stack)["eu-west-1"], f"files/{VICTIM}/backups/manifests")
            assert sum(len(page) for page in pages) == 0
            there = BackupService(load_settings(values["SBH_SETTINGS"]))
            made = there.backups.of(VICTIM, ADMIN)  # before the loss the incremental one found nothing changed
            assert [one.type for one in made] == ["incremental", "full"]
            assert made[0].parent == made[1].id
            assert there.backups.validate("latest", VICTIM, ADMIN, deep=True).valid
            with pytest.raises(PrimaryFenced):
                BackupService(load_settings(lost.place.settings)).create_backup(VICTIM, ADMIN)
        finally:
            Layout(lost.stack.dir).backup_key.unlink(missing_ok=True)
