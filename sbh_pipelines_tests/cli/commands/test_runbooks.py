"""The runbooks of docs/operations, done as they are written after real damage.

The servers are these tests' own, for what is done to them would disturb others. What tenants have is judged by
`embedded.fingerprint`: plain SQL and plain reads of objects.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import obstore
import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.sample import fingerprint
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack, running
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.commands import test_region_lost
from sbh_pipelines_tests.support.runbook import PAGES, Runbook, Shell

RUNBOOKS = sorted(file for file in PAGES.glob("*.md") if file.name != "README.md")
TENANTS = ["tenant-1", "tenant-2"]
VICTIM = TENANTS[0]
DOOMED = "(SELECT min(id) FROM projects WHERE tenant_id = 1)"


@dataclass(frozen=True, slots=True)
class OnCallSite:
    """A small SaaS, and the shell of whoever is on call."""

    stack: Stack
    shell: Shell

    def back_up(self, kind: str = "full") -> str:
        """Tenants and platform; the moment after. With a full backup the journal goes on: a database made anew has no slot."""
        service = BackupService(load_settings(self.stack.settings))
        schedule = UserContext("schedule", "*", Role.ADMIN)
        if kind == "full":
            service.journal.setup(schedule)
        drafts = service.backups.create_all(TENANTS, schedule, kind)
        assert [draft.error for draft in drafts] == [None] * len(TENANTS)
        service.platform.create(schedule)
        return datetime.now(UTC).isoformat()

    def put_back(self) -> None:
        """What the newest full backup of the victim says: the next test finds nothing ruined."""
        service, admin = BackupService(load_settings(self.stack.settings)), UserContext("schedule", "*", Role.ADMIN)
        backup = next(one for one in service.backups.of(VICTIM, admin) if one.type == "full" and not one.purpose)
        service.restores.run(backup.id, VICTIM, admin, request=RestoreRequest(safety_backup=False), confirm=True)

    def run(self, *statements: str, database: str = postgres.DATABASE) -> None:
        with closing(psycopg2.connect(make_dsn(self.stack.dsn(postgres.ADMIN), dbname=database))) as connection:
            connection.autocommit = True
            for statement in statements:
                connection.cursor().execute(statement)

    def run_at_once(self, *statements: str) -> int:
        """In one transaction; its id."""
        with closing(psycopg2.connect(self.stack.dsn(postgres.ADMIN))) as connection, connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("SELECT pg_current_xact_id()::text::bigint")
            return int(cursor.fetchone()[0])

    def ask(self, query: str) -> object:
        with closing(psycopg2.connect(self.stack.dsn(postgres.ADMIN))) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def lost_by_a_rebuild(self) -> dict[str, list[str]]:
        """The difference that a rebuild makes: rows of `sessions` are in no backup. Nothing where one took them already."""
        return {"": ["table sessions: is gone"]} if self.ask("SELECT EXISTS (SELECT FROM sessions)") else {}

    def files(self, tenant: str) -> list[str]:
        pages = obstore.list(fingerprint.stores(self.stack)["eu-west-1"], f"files/{tenant}/uploads")
        return sorted(meta["path"] for page in pages for meta in page)

    def values(self, **more: str) -> dict[str, str]:
        """What an engineer puts in the place of a page's examples."""
        servers = {"APP": self.dsn(postgres.DATABASE), "SERVER": self.dsn("postgres")}
        return {"SBH_SETTINGS": str(self.stack.settings), "TENANT": VICTIM, **servers, **more}

    def dsn(self, database: str) -> str:
        """A superuser's, without the password."""
        return f"host=127.0.0.1 port={self.stack.ports['postgres']} user={postgres.ADMIN} dbname={database}"

    def password_file(self, role: str) -> str:
        layout = Layout(self.stack.dir)
        return str(layout.root / layout.password_file(role))


@pytest.fixture(scope="module")
def on_call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCallSite]:
    with running(tmp_path_factory.mktemp("oncall"), fsync=False, kms=False) as stack:
        sample.generate(stack, tenants=len(TENANTS), rows=700, files=24, seed=5)
        with Shell.opened(stack, Path(tempfile.mkdtemp(prefix="sbh-shell-"))) as shell:
            yield OnCallSite(stack, shell)
        shutil.rmtree(shell.directory)


def differences(before: fingerprint.Fingerprint, on_call: OnCallSite) -> Mapping[str, list[str]]:
    return before.differences(fingerprint.take(on_call.stack))


def test_partial_loss(on_call: OnCallSite) -> None:
    """A customer deleted a project; a bug changed payments; work went on, and a backup was made of all that."""
    page, since = Runbook.read("partial-loss.md"), on_call.back_up()
    before = fingerprint.take(on_call.stack)
    values = on_call.values(SINCE=since, ROWS=f"projects where id in ({on_call.ask(DOOMED)})")
    tasks = f"(SELECT id FROM tasks WHERE project_id = {DOOMED})"
    on_call.run(
        f"DELETE FROM attachments WHERE comment_id IN (SELECT id FROM comments WHERE task_id IN {tasks})",
        f"UPDATE comments SET reply_to = NULL WHERE task_id IN {tasks}",
        f"DELETE FROM comments WHERE task_id IN {tasks}",
        f"DELETE FROM tasks WHERE project_id = {DOOMED}",
        f"DELETE FROM projects WHERE id = {DOOMED}",
        "UPDATE payments SET amount = amount * 100 WHERE tenant_id = 1",
        "INSERT INTO analytics (tenant_id, event, props, occurred_at) VALUES (1, 'later', '{}', now())",
    )
    on_call.back_up("incremental")
    on_call.shell.follow(page, values)
    rows = before.rows[VICTIM]["analytics"].count
    later = f"table analytics: {rows} rows became {rows + 1}"
    assert differences(before, on_call) == {VICTIM: [later]}
    on_call.shell.undo(page, values)
    assert differences(before, on_call) == {VICTIM: [later, "table payments: changed"]}


def test_configuration_error(on_call: OnCallSite) -> None:
    """Settings were changed, deleted and made up, and the tenant's own row was changed."""
    page, values = Runbook.read("configuration-error.md"), on_call.values(SINCE=on_call.back_up())
    before = fingerprint.take(on_call.stack)
    on_call.run(
        "DELETE FROM tenant_settings WHERE tenant_id = 1 AND key = 'branding'",
        "UPDATE tenant_settings SET value = '\"wrong\"' WHERE tenant_id = 1 AND key <> 'time_zone'",
        "INSERT INTO tenant_settings VALUES (1, 'invented', '1')",
        "UPDATE tenants SET settings = '{}', tier = 'archive' WHERE id = 1",
    )
    broken = fingerprint.take(on_call.stack)
    on_call.back_up("incremental")
    on_call.shell.follow(page, values)
    assert differences(before, on_call) == {}
    on_call.shell.undo(page, values)
    assert differences(broken, on_call) == {}
    assert set(differences(before, on_call)) == {VICTIM}


def test_file_loss(on_call: OnCallSite) -> None:
    """Files of all tenants were deleted, some overwritten; a new one was uploaded since."""
    page, values = Runbook.read("file-loss.md"), on_call.values(SINCE=on_call.back_up())
    before = fingerprint.take(on_call.stack)
    store = fingerprint.stores(on_call.stack)["eu-west-1"]
    time.sleep(2.5)  # what is put or deleted within two seconds of a moment may be on either side of it
    for tenant in TENANTS:
        obstore.delete(store, on_call.files(tenant)[::3])
    overwritten, new = on_call.files(VICTIM)[::2], f"files/{VICTIM}/uploads/new.txt"
    for key in (*overwritten, new):
        obstore.put(store, key, b"overwritten", use_multipart=False)
    on_call.back_up("incremental")
    on_call.shell.follow(page, values)
    assert differences(before, on_call) == {VICTIM: [f"file {new}: is new"]}
    on_call.shell.undo(page, values)
    assert {line.split(":")[0] for line in differences(before, on_call)[VICTIM]} == {
        f"file {k}" for k in (*overwritten, new)
    }


def test_database_corruption(on_call: OnCallSite) -> None:
    """Rows of all tenants are gone, which was backed up as well; then a table cannot be read any more."""
    until = on_call.back_up()
    before, lost = fingerprint.take(on_call.stack), on_call.lost_by_a_rebuild()
    on_call.run("DELETE FROM attachments")
    on_call.back_up("incremental")
    on_call.run(
        "SET allow_system_table_mods = on",
        "DELETE FROM pg_attribute WHERE attrelid = 'payments'::regclass AND attname = 'amount'",
    )
    password = on_call.password_file(postgres.ADMIN)
    values = on_call.values(PASSWORD_FILE=password, UNTIL=until, TABLE="public.payments")
    page = Runbook.read("database-corruption.md")
    on_call.shell.follow(page, values)
    assert differences(before, on_call) == lost
    on_call.shell.undo(page, values)
    with pytest.raises(psycopg2.Error):
        on_call.ask("SELECT count(amount) FROM payments")
    on_call.run("DROP DATABASE app WITH (FORCE)", "ALTER DATABASE app_recovered RENAME TO app", database="postgres")


def test_complete_failure(on_call: OnCallSite) -> None:
    """An empty server, without the application's roles, and empty buckets but for the backups."""
    on_call.back_up()
    before = fingerprint.take(on_call.stack)
    on_call.run(
        "DROP DATABASE app WITH (FORCE)",
        *(f"DROP OWNED BY {role}; DROP ROLE {role}" for role in (postgres.BACKUP, postgres.OWNER)),
        database="postgres",
    )
    for tenant in TENANTS:
        obstore.delete(fingerprint.stores(on_call.stack)["eu-west-1"], on_call.files(tenant))
    passwords = {"PASSWORD_FILE": postgres.ADMIN, "APP_PASSWORD": postgres.OWNER, "BACKUP_PASSWORD": postgres.BACKUP}
    values = on_call.values(**{name: on_call.password_file(role) for name, role in passwords.items()})
    on_call.shell.follow(Runbook.read("complete-failure.md"), values)
    lost = {line for lines in differences(before, on_call).values() for line in lines}
    assert lost <= {"table sessions: is gone"}  # not backed up on purpose
    assert on_call.ask("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'") == postgres.OWNER


RUIN = (
    "UPDATE payments SET amount = 0 WHERE tenant_id = 1",
    "DELETE FROM attachments a USING comments c, tasks k WHERE c.id = a.comment_id AND k.id = c.task_id"
    " AND k.tenant_id = 1",
)
WORK = "INSERT INTO analytics (tenant_id, event, props, occurred_at) VALUES (1, 'later', '{}', now())"


def test_back_to_a_moment(on_call: OnCallSite) -> None:
    """A script ruined two tables, an hour's work after the newest backup; work went on."""
    page, since = Runbook.read("back-to-a-moment.md"), on_call.back_up()
    on_call.run(WORK, "UPDATE payments SET amount = amount + 1 WHERE tenant_id = 1")
    before = fingerprint.take(on_call.stack)
    values = on_call.values(SINCE=since, XID=str(on_call.run_at_once(*RUIN)))
    ruined = before.differences(fingerprint.take(on_call.stack))[VICTIM]
    assert len(ruined) == 2
    on_call.run(WORK)
    on_call.shell.follow(page, values)
    rows = before.rows[VICTIM]["analytics"].count
    later = f"table analytics: {rows} rows became {rows + 1}"
    assert differences(before, on_call) == {VICTIM: [later]}
    on_call.shell.undo(page, values)
    assert differences(before, on_call) == {VICTIM: sorted([later, *ruined])}
    on_call.shell.case(page, "If the journal does not reach the moment", values)
    on_call.put_back()


def test_back_to_a_moment_without_a_table(on_call: OnCallSite) -> None:
    """What is logged of a table was changed between the backup and the moment."""
    page, since = Runbook.read("back-to-a-moment.md"), on_call.back_up()
    on_call.run("ALTER TABLE tenant_settings REPLICA IDENTITY FULL", WORK)
    values = on_call.values(SINCE=since, XID=str(on_call.run_at_once(*RUIN)))
    on_call.shell.case(page, "If it does not tell of a table", values)
    on_call.run("ALTER TABLE tenant_settings REPLICA IDENTITY DEFAULT")
    on_call.put_back()


def test_back_to_a_moment_without_the_database(on_call: OnCallSite, tmp_path: Path) -> None:
    """The tenant of just before the ruin comes out of the bucket alone."""
    page, since = Runbook.read("back-to-a-moment.md"), on_call.back_up()
    on_call.run(WORK, "UPDATE payments SET amount = 4711 WHERE tenant_id = 1")
    xid = on_call.run_at_once(*RUIN)
    service = BackupService(load_settings(on_call.stack.settings))
    for _ in range(2):  # nothing drains what is missing once the database is gone
        service.journal.drain(UserContext("schedule", "*", Role.ADMIN))
    text = on_call.stack.settings.read_text("utf-8")
    gone = on_call.stack.settings.with_name("gone.toml")
    gone.write_text(text.replace(f"port={on_call.stack.ports['postgres']}", "port=9"), "utf-8")
    values = {**on_call.values(SINCE=since, XID=str(xid), OUT=str(tmp_path / "out")), "SBH_SETTINGS": str(gone)}
    on_call.shell.case(page, "If the database is gone", values)
    exported = [file.read_text("utf-8") for file in (tmp_path / "out").rglob("*payments*") if file.is_file()]
    assert any("4711.00" in text for text in exported)
    on_call.put_back()


def test_change_journal(on_call: OnCallSite) -> None:
    """Somebody dropped the slot; it is made again, given up, set up anew and given up for good."""
    on_call.back_up()
    on_call.run("SELECT pg_drop_replication_slot('sbh_journal')")
    service = BackupService(load_settings(on_call.stack.settings))
    admin = UserContext("schedule", "*", Role.ADMIN)
    before = len(service.journal.gaps(admin).gaps)
    on_call.shell.follow(Runbook.read("change-journal.md"), on_call.values(SLOT="sbh_journal"))
    assert on_call.ask("SELECT count(*) FROM pg_replication_slots") == 0
    assert on_call.ask("SELECT count(*) FROM pg_publication") == 0
    assert len(service.journal.gaps(admin).gaps) > before


def test_every_page_is_done() -> None:
    """A page without a test, and a command outside a block that is run, would rot."""
    tests = "".join(file.read_text("utf-8") for file in (Path(__file__), Path(test_region_lost.__file__)))
    done = {name.replace("_", "-") + ".md" for name in re.findall(r"^def test_(\w+)", tests, re.M)}
    assert {file.name for file in RUNBOOKS} <= done
    index = (PAGES / "README.md").read_text("utf-8")
    assert "```" not in index
    for file in RUNBOOKS:
        page = Runbook.read(file.name)
        assert page.steps[0].language == "sh"
        assert all(f'"{title}"' in tests for title in page.cases)
        for block in (*page.steps, *page.undo, *(block for case in page.cases.values() for block in case)):
            assert block.language in ("sh", "text")
            assert block.language == "sh" or not re.search(r"^\s*(sbh|psql) ", block.text, re.M)
        assert f"({file.name})" in index
