"""Tables with keys of every kind, and what makes their transaction ids tell less than one would think.

Rows are frozen, rewritten, moved with their parents, written by subtransactions, deleted and put there again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from sbh_pipelines.backup.contents.manifest import WITH_TABLES
from sbh_pipelines.backup.contents.manifests import read_component, read_manifest
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.restore.rows.compare import TableComparer, TableComparison
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.merge.fit.mapping import map_tables
from sbh_pipelines.database.merge.transaction import restore_transaction
from sbh_pipelines.database.schema.tenancy import load_map
from sbh_pipelines.database.session.snapshot import describe_snapshot
from sbh_pipelines.model import BackupId, utc_now
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database

SCHEMA = """
CREATE TABLE tenants (id int PRIMARY KEY, slug text UNIQUE, region text, tier text);
CREATE TABLE numbers (id int PRIMARY KEY, tenant_id int NOT NULL, body text) WITH (fillfactor = 60);
CREATE TABLE pairs (a text, b smallint, tenant_id int NOT NULL, body text, PRIMARY KEY (a, b));
CREATE TABLE orgs (id uuid PRIMARY KEY, tenant_id int NOT NULL, body text);
CREATE TABLE teams (id text PRIMARY KEY, org uuid NOT NULL REFERENCES orgs, body text);
CREATE TABLE members (id bigint PRIMARY KEY, team text NOT NULL REFERENCES teams ON UPDATE CASCADE, body text);
CREATE TABLE loose (tenant_id int NOT NULL, body text);
INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL), (2, 'bolt', 'eu-west-1', NULL);
INSERT INTO numbers SELECT n, 1 + abs(n % 2), 'number ' || n FROM generate_series(-150, 150) n;
INSERT INTO pairs SELECT 'k' || n % 9 || E'\\x1f\\t', n, 1 + n % 2, 'pair ' || n FROM generate_series(1, 120) n;
INSERT INTO orgs SELECT md5(n::text)::uuid, 1 + n % 2, 'org ' || n FROM generate_series(1, 24) n;
INSERT INTO teams SELECT 'team ' || n, md5((1 + n % 24)::text)::uuid, 'team ' || n FROM generate_series(1, 72) n;
INSERT INTO members SELECT n * 4294967296, 'team ' || 1 + n % 72, 'member ' || n FROM generate_series(1, 216) n;
INSERT INTO loose SELECT 1 + n % 2, 'loose ' || n % 5 FROM generate_series(1, 40) n;
"""
TABLES = ("tenants", "numbers", "pairs", "orgs", "teams", "members", "loose")
OF_TENANT = {
    "tenants": "SELECT t.* FROM tenants t WHERE id = {}",
    "orgs": "SELECT t.* FROM orgs t WHERE tenant_id = {}",
    "teams": "SELECT t.* FROM teams t JOIN orgs o ON o.id = t.org WHERE o.tenant_id = {}",
    "members": "SELECT t.* FROM members t JOIN teams m ON m.id = t.team JOIN orgs o ON o.id = m.org WHERE o.tenant_id = {}",
    **{name: f"SELECT t.* FROM {name} t WHERE tenant_id = {{}}" for name in ("numbers", "pairs", "loose")},
}
KEYS = {"tenants": "id", "numbers": "id", "pairs": "a, b", "orgs": "id", "teams": "id", "members": "id"}
# {0} picks: a hash of the example and the row. Each is a transaction, or several.
DAMAGE = {
    "update": "UPDATE {t} SET body = body || '!' WHERE {few}",
    "update in place": "UPDATE numbers SET body = upper(body) WHERE {few}",
    "and back": "UPDATE {t} SET body = body || '!' WHERE {few}; UPDATE {t} SET body = rtrim(body, '!') WHERE {few}",
    "delete": "DELETE FROM {leaf} WHERE {few}",
    "delete and insert the same": "WITH gone AS (DELETE FROM {leaf} WHERE {few} RETURNING *) INSERT INTO kept_{leaf} SELECT * FROM gone;"
    "INSERT INTO {leaf} SELECT * FROM kept_{leaf}; TRUNCATE kept_{leaf}",
    "delete and insert another": "WITH gone AS (DELETE FROM {leaf} WHERE {few} RETURNING *) INSERT INTO kept_{leaf} SELECT * FROM gone;"
    "UPDATE kept_{leaf} SET body = 'other'; INSERT INTO {leaf} SELECT * FROM kept_{leaf}; TRUNCATE kept_{leaf}",
    "insert": "INSERT INTO numbers SELECT 1000 + n, 1, 'new' FROM generate_series(1, 3) n ON CONFLICT DO NOTHING;"
    "INSERT INTO members SELECT n, (SELECT min(id) FROM teams), 'new' FROM generate_series(1, 3) n ON CONFLICT DO NOTHING",
    "move keys": "UPDATE numbers SET id = id + 5000 WHERE {few} AND id < 4000; UPDATE pairs SET b = b + 500 WHERE {few} AND b < 400;"
    "UPDATE teams SET id = id || '*' WHERE {few}",
    "swap keys": "UPDATE numbers SET id = CASE id WHEN 2 THEN 99991 WHEN 4 THEN 99992 END WHERE id IN (2, 4);"
    "UPDATE numbers SET id = CASE id WHEN 99991 THEN 4 WHEN 99992 THEN 2 END WHERE id IN (99991, 99992)",
    "subtransactions": "DO $$ BEGIN FOR n IN 1..20 LOOP BEGIN UPDATE {t} SET body = body || n WHERE {few};"
    " IF n % 2 = 0 THEN RAISE EXCEPTION 'undone'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    "rolled back": "BEGIN; UPDATE {t} SET body = 'never'; DELETE FROM loose; ROLLBACK",
    "freeze": "VACUUM (FREEZE) {t}",
    "update and freeze": "UPDATE {t} SET body = body || '+' WHERE {few}; VACUUM (FREEZE) {t}",
    "rewrite": "VACUUM FULL {t}",
    "alter": "ALTER TABLE numbers ALTER body TYPE varchar USING body || '~'; ALTER TABLE numbers ALTER body TYPE text",
    "empty and load": "BEGIN; INSERT INTO kept_numbers SELECT * FROM numbers; TRUNCATE numbers;"
    " INSERT INTO numbers SELECT * FROM kept_numbers; TRUNCATE kept_numbers; COMMIT",
    "parents come": "UPDATE orgs SET tenant_id = 1 WHERE {few} AND tenant_id = 2",
    "parents go and come": "UPDATE orgs SET tenant_id = 3 - tenant_id; UPDATE orgs SET tenant_id = 3 - tenant_id",
    "parents go": "UPDATE orgs SET tenant_id = 2 WHERE {few} AND tenant_id = 1",
    "children go to another parent": "UPDATE teams SET org = (SELECT min(id::text)::uuid FROM orgs WHERE tenant_id = 1) WHERE {few}",
    "rows change their tenant": "UPDATE numbers SET tenant_id = 3 - tenant_id WHERE id % 60 = 0",
    "without a key": "UPDATE loose SET body = body || '?' WHERE ctid = (SELECT min(ctid) FROM loose WHERE tenant_id = 1)",
}


@dataclass
class ChangedRows:
    database: Database
    application: Application
    saved: dict[str, bytes]

    def service(self) -> BackupService:
        return self.application.service(database={"excluded": ["kept_numbers", "kept_pairs", "kept_members"]})

    def reset(self) -> None:
        with self.database.session() as connection:
            cursor = connection.cursor()
            cursor.execute(f"BEGIN; TRUNCATE {', '.join(TABLES)}; SET LOCAL session_replication_role = replica")
            for table, text in self.saved.items():
                cursor.copy_expert(f"COPY {table} FROM STDIN", BytesIO(text))
            cursor.execute("COMMIT")

    def damage(self, kinds: list[tuple[str, str, int]]) -> None:
        for kind, table, seed in kinds:
            few = f"hashtext(body || {seed}) % 9 = 0"
            leaf = table if table in ("numbers", "pairs", "members") else "members"
            text = DAMAGE[kind].format(t=table, leaf=leaf, few=few)
            pieces = [text] if text.startswith(("BEGIN", "DO")) else text.split(";")
            self.database.run(*pieces)

    def rows(self, tenant: int) -> dict[str, list[tuple[Any, ...]]]:
        return {t: sorted(self.database.ask(q.format(tenant)), key=repr) for t, q in OF_TENANT.items()}

    def keys(self, tenant: int) -> set[Any]:
        return {
            (t, *row)
            for t, columns in KEYS.items()
            for row in self.database.ask(f"SELECT {columns} FROM ({OF_TENANT[t].format(tenant)}) q")
        }

    @contextmanager
    def compared(self, backup_id: str, *, another_server: bool = False) -> Iterator["Comparisons"]:
        """Compares the tenant's tables with the backup, in a transaction that writes nothing.

        `another_server`: transaction ids prove nothing.
        """
        site = Site(self.service().settings, utc_now)
        tenant = self.application.tenant()
        with restore_transaction(site.settings.database) as connection, site.repository(tenant) as repository:
            repository.load_index()
            manifest = read_manifest(repository, BackupId(backup_id))
            components = {name: read_component(repository, manifest, name) for name in WITH_TABLES}
            tenancy = load_map(connection, site.settings)
            point = describe_snapshot(connection)
            if another_server:
                point = replace(point, system_identifier="another")
            context = RestoreContext(
                site,
                repository,
                site.settings.database,
                connection,
                tenant,
                manifest,
                components,
                tenancy,
                point,
                RestoreRequest(),
                lambda *_: None,
                dry_run=True,
            )
            yield Comparisons(context, {s.table: s for one in components.values() for s in one.tables})

    def by_changes(self, backup_id: str) -> set[str]:
        """The tables that are compared by changes."""
        with self.compared(backup_id) as comparisons:
            return {c.table.table.name for c in comparisons.made() if c.keys is not None}


@dataclass
class Comparisons:
    """Of all tables of one backup with the live ones, as often as wanted."""

    context: RestoreContext
    summaries: dict[str, TableSummary]
    _numbers: Iterator[int] = field(default_factory=count)

    def made(self, *, everything: bool = False) -> list[TableComparison]:
        """`everything`: all rows of both sides are staged."""
        repository = self.context.repository
        headers = {name: read_table(repository, summary).header for name, summary in self.summaries.items()}
        mappings, _ = map_tables(headers, self.context.tenancy, self.context.site.settings.restore, ["public"])
        comparer = TableComparer(self.context)
        return [
            comparer.compare(
                m, self.summaries[m.table.full_name], next(self._numbers), everything=everything, of=len(self.summaries)
            )
            for m in mappings
        ]


@contextmanager
def changed_rows_in(database: Database, directory: Path) -> Iterator[ChangedRows]:
    """The tables, filled; the tenants are not backed up yet."""
    database.run(SCHEMA)
    database.run(*(f"CREATE TABLE kept_{t} (LIKE {t})" for t in ("numbers", "pairs", "members")))
    saved = {t: database.copy(f"TABLE {t}") for t in TABLES}
    yield ChangedRows(database, Application(database, directory), saved)


ACTS = st.tuples(
    st.sampled_from(sorted(DAMAGE)),
    st.sampled_from(("numbers", "pairs", "orgs", "teams", "members")),
    st.integers(0, 9),
)
