"""One database with each thing that docs/operations.md says of a rebuild: what comes back, and what does not."""

from pathlib import Path

from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS, content, same_definition

EVERYTHING = """
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body text);
INSERT INTO scratch VALUES (1, 1, 'x'), (2, 2, 'y');
CREATE MATERIALIZED VIEW filled AS SELECT tenant_id, count(*) FROM projects GROUP BY 1;
CREATE UNIQUE INDEX ON filled (tenant_id);
CREATE MATERIALIZED VIEW never_filled AS SELECT 1 AS one WITH NO DATA;
CREATE STATISTICS together (dependencies, mcv) ON tenant_id, code FROM projects;
ALTER STATISTICS together SET STATISTICS 500; ALTER TABLE projects ALTER code SET STATISTICS 700, ALTER body SET STORAGE external;
CREATE PUBLICATION "some" FOR TABLE projects (id, code) WHERE (id > 3) WITH (publish = 'insert');
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER TABLE projects REPLICA IDENTITY FULL, ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON projects AS RESTRICTIVE FOR SELECT TO app USING (tenant_id = 1);
CREATE TABLE shown (tenant_id int NOT NULL REFERENCES tenants, at date, body text, hidden int GENERATED ALWAYS AS (1) VIRTUAL)
    PARTITION BY LIST (tenant_id);
CREATE TABLE shown_1 PARTITION OF shown FOR VALUES IN (1); CREATE TABLE shown_2 PARTITION OF shown DEFAULT;
INSERT INTO shown VALUES (1, '2024-01-01', 'x'), (2, 'infinity', NULL);
CREATE TABLE base (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, CHECK (id > 0)); CREATE TABLE heir (more text) INHERITS (base);
INSERT INTO base VALUES (1, 1); INSERT INTO heir VALUES (2, 2, 'more');
CREATE RULE keep AS ON DELETE TO shown DO INSTEAD NOTHING;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE INSERT ON shown_2 FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TABLE shown_2 DISABLE TRIGGER touch;
CREATE FUNCTION quiet() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER quiet ON ddl_command_end EXECUTE FUNCTION quiet(); ALTER EVENT TRIGGER quiet DISABLE;
CREATE TEXT SEARCH CONFIGURATION ours (COPY = simple); CREATE COLLATION ours (provider = builtin, locale = 'C.UTF-8');
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE VIEW view_of_one WITH (security_barrier) AS SELECT code FROM projects WHERE tenant_id = 1;
ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO pg_monitor; GRANT SELECT (code) ON projects TO app;
COMMENT ON TABLE scratch IS 'unlogged'; COMMENT ON COLUMN base.id IS 'it''s a number'; COMMENT ON INDEX filled_tenant_id_idx IS 'of a view';
COMMENT ON STATISTICS together IS 'both'; COMMENT ON PUBLICATION "some" IS 'some'; COMMENT ON POLICY own ON projects IS 'one';
COMMENT ON CONSTRAINT base_id_check ON base IS 'positive'; COMMENT ON TRIGGER touch ON shown_2 IS 'off'; COMMENT ON SCHEMA public IS 'ours';
CREATE TABLE attachments (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, body oid);
INSERT INTO attachments VALUES (1, 1, lo_from_bytea(0, 'content'));
COMMENT ON TABLE attachments IS 'numbers of large objects';
"""
# What a database has besides its definition and its rows.
_OBJECTS = "SELECT count(*) FROM pg_largeobject_metadata"
_UNLOGGED = "SELECT relname FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"
_POPULATED = "SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"
_GATHERED = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'projects'"
_TOGETHER = "SELECT count(*) FROM pg_statistic_ext_data"


def test_what_comes_back_and_what_does_not(tmp_path: Path, embedded_stack: Stack) -> None:
    with fresh_database(embedded_stack) as source, fresh_database(embedded_stack) as target:
        application = Application(source, tmp_path)
        application.create()
        source.run(EVERYTHING)
        service = application.service(
            platform=PROGRAMS, database={"links": [{"table": "heir", "tenant_column": "tenant_id"}]}
        )
        service.backups.create_all([ACME, BOLT], ADMIN)
        service.platform.create(ADMIN)
        dsn = make_dsn(embedded_stack.dsn(postgres.ADMIN), dbname=target.name)
        report = service.platform.recover(dsn, ADMIN, confirm=True, files=False)
        assert (report.status, report.left_out, report.issues) == ("completed", [], [])
        same_definition(
            source, target
        )  # comments, publications, policies, statistics objects, grants: all of the schema
        found, wanted = content(target, but=_UNREADABLE), content(source, but=_UNREADABLE)
        assert found == wanted  # unlogged tables and materialized views, too
        assert target.ask(_UNLOGGED) == [("scratch",)]
        assert target.ask(_POPULATED) == [("filled", True), ("never_filled", False)]
        assert target.ask(_GATHERED) == [(True,)]  # gathered anew: statistics are not copied
        assert target.ask(_TOGETHER) == [(1,)]
        assert (source.ask(_OBJECTS), target.ask(_OBJECTS)) == (
            [(1,)],
            [(0,)],
        )  # their numbers are there, and no contents


_UNREADABLE = ("public.never_filled",)
