"""An application with what makes a database hard to rebuild, and witnesses of it that share no code with the engine."""

import difflib
import re
import subprocess
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines_tests.support.application import Application
from sbh_pipelines_tests.support.databases import Database, copy_text

PROGRAMS = {"pg_dump": str(postgres.binaries() / "pg_dump"), "psql": str(postgres.binaries() / "psql")}
READER = 'sbh "Reader" 100%'  # a role with an awkward name

# Tenants `acme` (1) and `bolt` (2) are the small application's, to whose tables these refer.
SCHEMA = r'''
CREATE EXTENSION vector;
CREATE SCHEMA "Odd ""schema"" %s";
CREATE TYPE "Odd ""schema"" %s"."Mood's" AS ENUM ('sad', 'so ''so'' %', 'glad %');
CREATE DOMAIN short AS text CHECK (length(VALUE) < 40);
CREATE TABLE plans (id int GENERATED ALWAYS AS IDENTITY (START WITH 7 INCREMENT BY 5) PRIMARY KEY, name text UNIQUE, price money,
    upper_name text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO plans (name, price) SELECT 'plan ' || n || E'\t\\', n::text::money FROM generate_series(1, 9) n;
CREATE TABLE "Odd ""schema"" %s"."no key %" ("a ""b" text COLLATE "C", "select" int[]);
INSERT INTO "Odd ""schema"" %s"."no key %" VALUES (NULL, NULL), ('', '{}'), ('x', '{1,NULL}'), ('x', '{1,NULL}');
ALTER TABLE tenants ADD COLUMN plan_id int REFERENCES plans, ADD COLUMN best_project int;
UPDATE tenants SET plan_id = 7;
ALTER TABLE tenants ADD FOREIGN KEY (best_project) REFERENCES projects;  -- a circle: projects refer to tenants
UPDATE tenants t SET best_project = (SELECT min(id) FROM projects p WHERE p.tenant_id = t.id);
CREATE SEQUENCE "Odd ""schema"" %s"."Count down" INCREMENT BY -3 MAXVALUE 1000 START WITH 1000;
CREATE SEQUENCE never_used START WITH 40;
CREATE SEQUENCE cycling MAXVALUE 3 CYCLE;
SELECT nextval('cycling'), nextval('cycling');
CREATE TABLE "Odd ""schema"" %s"."Events %(x)s" (
    tenant_id int NOT NULL REFERENCES tenants DEFERRABLE INITIALLY DEFERRED, "at" date NOT NULL,
    "no." int NOT NULL DEFAULT nextval('"Odd ""schema"" %s"."Count down"'), mood "Odd ""schema"" %s"."Mood's", label short,
    vec vector(2), doubled int GENERATED ALWAYS AS ("no." * 2) STORED, note text, PRIMARY KEY ("at", "no."))
    PARTITION BY RANGE ("at");
CREATE TABLE "Odd ""schema"" %s"."old 'part'" PARTITION OF "Odd ""schema"" %s"."Events %(x)s" FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE "Odd ""schema"" %s".rest PARTITION OF "Odd ""schema"" %s"."Events %(x)s" DEFAULT;
INSERT INTO "Odd ""schema"" %s"."Events %(x)s" (tenant_id, "at", mood, label, vec, note)
    SELECT 1 + n % 2, date '2023-12-01' + n, (ARRAY['sad', 'so ''so'' %', 'glad %', NULL])[1 + n % 4]::"Odd ""schema"" %s"."Mood's", 'l' || n,
           ('[' || n || ',1]')::vector, E'back\\slash\ttab ' || repeat('x', n) FROM generate_series(1, 80) n;
CREATE TABLE slots (tenant_id int NOT NULL REFERENCES tenants, nr int CONSTRAINT "nr once" UNIQUE DEFERRABLE INITIALLY DEFERRED,
    id serial PRIMARY KEY, CONSTRAINT "CHECK %" CHECK (nr < 1000000));
INSERT INTO slots (tenant_id, nr) SELECT 1 + n % 2, n FROM generate_series(1, 30) n;
CREATE TABLE cache (k text PRIMARY KEY, tenant_id int);
INSERT INTO cache VALUES ('not backed up', 1);
CREATE INDEX "slots idx %" ON slots (nr DESC) INCLUDE (tenant_id) WHERE nr > 3;
CREATE STATISTICS slots_statistics ON tenant_id, nr FROM slots;
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.nr := NEW.nr + 1000; RETURN NEW; END $$;
CREATE TRIGGER "spoil ""it""" BEFORE INSERT ON slots FOR EACH ROW EXECUTE FUNCTION spoil();
ALTER TABLE slots ENABLE ALWAYS TRIGGER "spoil ""it""";
CREATE FUNCTION total(int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.slots WHERE tenant_id = $1; END;
CREATE FUNCTION tricky() RETURNS text LANGUAGE plpgsql AS E'BEGIN /*\n\\restrict x\n*/ -- it''s; "fun" $$ %\nRETURN ''; ''; END; ';
ALTER TABLE slots ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON slots USING (tenant_id = current_setting('app.tenant', true)::int);
CREATE VIEW slot_view AS SELECT nr FROM slots;
CREATE RULE no_delete AS ON DELETE TO notes DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW counts AS SELECT tenant_id, count(*) FROM slots GROUP BY 1;
CREATE MATERIALIZED VIEW counts_of_counts AS SELECT sum(count) FROM counts;
CREATE PUBLICATION "some" FOR TABLE projects;
COMMENT ON TABLE slots IS 'it''s; a comment --';
'''
DATABASE = {
    "schemas": ["public", 'Odd "schema" %s'],
    "shared": ["plans", 'Odd "schema" %s.no key %'],
    "excluded": ["cache"],
}


def make_hard(application: Application) -> None:
    """Needs `application.create()`; its settings are then `configured(**hard())`."""
    application.database.run(SCHEMA, f"GRANT SELECT ON plans TO {postgres.BACKUP} WITH GRANT OPTION")


def hard() -> dict[str, Any]:
    return {"database": DATABASE, "platform": PROGRAMS}


_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1"""


def content(database: Database, *, but: tuple[str, ...] = ("public.cache",)) -> dict[str, bytes]:
    """All rows of all tables, partitions and materialized views, generated columns included; and where sequences are."""
    found: dict[str, bytes] = {}
    with database.session() as connection:
        cursor = connection.cursor()
        cursor.execute(_TABLES)
        for (name,) in cursor.fetchall():
            if name not in but:
                found[name] = copy_text(connection, f"SELECT z::text FROM {name} z ORDER BY 1")
        cursor.execute("SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences")
        for (name,) in cursor.fetchall():
            found[name] = copy_text(connection, f"SELECT last_value, is_called FROM {name}")
    return found


def definition(database: Database) -> str:
    """The whole schema with owners and grants, as text."""
    dsn = make_dsn(database.stack.dsn(postgres.ADMIN), dbname=database.name)
    dumped = subprocess.run([PROGRAMS["pg_dump"], "-s", "-d", dsn], capture_output=True, text=True, check=True).stdout
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", dumped)


def same_definition(one: Database, other: Database) -> None:
    before, after = definition(one).splitlines(), definition(other).splitlines()
    assert before == after, "\n".join(list(difflib.unified_diff(before, after, lineterm=""))[:80])


def files(root: Path) -> dict[str, bytes]:
    """All files of tenants below a bucket, but not backups."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and "/backups/" not in str(file) and not file.relative_to(root).parts[0].startswith("_sbh")
    }
