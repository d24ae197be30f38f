"""Traces and their prices: uuid keys, two levels (organisation, project), partitions by time, rows of everybody among those of tenants."""

from sbh_pipelines_tests.world.product import Product, text_of

_SCHEMA = r"""
CREATE TYPE level AS ENUM ('DEBUG', 'DEFAULT', 'WARNING', 'ERROR');
CREATE TYPE money_amount AS (amount numeric, currency char(3));
CREATE DOMAIN ratio AS double precision CHECK (VALUE BETWEEN 0 AND 1);
CREATE TABLE organizations (id uuid PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL DEFAULT 'eu-west-1', metadata jsonb);
CREATE TABLE projects (id uuid PRIMARY KEY, org_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE, name text, deleted_at timestamptz,
    UNIQUE (id, org_id));
CREATE TABLE models (id uuid PRIMARY KEY, project_id uuid REFERENCES projects ON DELETE CASCADE, model_name text NOT NULL,
    match_pattern text, cost money_amount);
CREATE TABLE prices (id uuid PRIMARY KEY, model_id uuid NOT NULL REFERENCES models ON DELETE CASCADE, usage_type text, price numeric(65, 30));
CREATE TABLE traces (id uuid NOT NULL, project_id uuid NOT NULL REFERENCES projects, "timestamp" timestamptz NOT NULL, name text, input jsonb,
    tags text[] DEFAULT '{}', levels level[], embedding real[], PRIMARY KEY (id, "timestamp")) PARTITION BY RANGE ("timestamp");
CREATE TABLE traces_2025 PARTITION OF traces FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
CREATE TABLE traces_2025_rest PARTITION OF traces_2025 DEFAULT;
CREATE TABLE traces_2026 PARTITION OF traces FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (id);
CREATE TABLE traces_2026_0 PARTITION OF traces_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE traces_2026_1 PARTITION OF traces_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE observations (id uuid PRIMARY KEY, trace_id uuid NOT NULL, project_id uuid NOT NULL, parent_id uuid,
    model_id uuid REFERENCES models ON DELETE SET NULL, level level, started timestamptz, ended timestamptz, usage int8range,
    latency interval GENERATED ALWAYS AS (ended - started) STORED, score ratio);
CREATE TABLE scores (id uuid PRIMARY KEY, observation_id uuid NOT NULL REFERENCES observations ON DELETE CASCADE, project_id uuid NOT NULL REFERENCES projects,
    value double precision, comment text);
CREATE TABLE api_keys (id uuid PRIMARY KEY, org_id uuid REFERENCES organizations, project_id uuid REFERENCES projects, hashed text UNIQUE,
    CHECK (num_nonnulls(org_id, project_id) >= 1));
CREATE TABLE job_configurations (id uuid PRIMARY KEY, eval_template_id uuid, project_id uuid NOT NULL REFERENCES projects, filter jsonb);
CREATE TABLE eval_templates (id uuid PRIMARY KEY, project_id uuid REFERENCES projects, prompt text, vars text[]);
ALTER TABLE job_configurations ADD FOREIGN KEY (eval_template_id) REFERENCES eval_templates ON DELETE SET NULL;
CREATE TABLE dashboards (id uuid PRIMARY KEY, project_id uuid REFERENCES projects, definition json);
CREATE INDEX ON traces USING gin (input jsonb_path_ops);
CREATE MATERIALIZED VIEW trace_counts AS SELECT project_id, count(*) FROM traces GROUP BY 1;
"""


def _id(kind: str, expression: str) -> str:
    return f"md5('{kind}' || ({expression}))::uuid"


_ROWS = f"""
INSERT INTO organizations SELECT {_id("org", "n")}, 'org-' || n, 'eu-west-1', jsonb_build_object('n', n) FROM generate_series(1, 3) n;
INSERT INTO projects SELECT {_id("project", "n")}, {_id("org", "1 + n % 3")}, {text_of("n")} FROM generate_series(1, 9) n;
INSERT INTO models SELECT {_id("model", "n")}, CASE WHEN n > 5 THEN {_id("project", "1 + n % 9")} END, 'model ' || n, '(?i)^(m\\d+)$',
    (n / 3.0, 'EUR'::char(3))::money_amount FROM generate_series(1, 15) n;
INSERT INTO prices SELECT {_id("price", "n")}, {_id("model", "1 + n % 15")}, 'input', n::numeric / 7 FROM generate_series(1, 40) n;
INSERT INTO traces SELECT {_id("trace", "n")}, {_id("project", "1 + n % 9")}, timestamptz '2025-06-01 00:00:00.000001+00' + n * interval '3 days', {text_of("n")},
    jsonb_build_object('text', {text_of("n + 3")}, 'n', n), ARRAY[{text_of("n")}, 'x'], ARRAY['DEBUG', NULL, 'ERROR']::level[], ARRAY[0.1, 'NaN', n]::real[]
    FROM generate_series(1, 180) n;
INSERT INTO observations (id, trace_id, project_id, parent_id, model_id, level, started, ended, usage, score)
    SELECT {_id("obs", "n")}, {_id("trace", "1 + n % 180")}, {_id("project", "1 + (1 + n % 180) % 9")}, CASE WHEN n > 20 THEN {_id("obs", "n - 20")} END,
    CASE n % 4 WHEN 0 THEN {_id("model", "1 + n % 5")} END, 'DEFAULT', '2026-01-01'::timestamptz + n * interval '1 min', '2026-01-01 01:00:00.5'::timestamptz + n * interval '1 min', int8range(n, n + 10),
    (n % 100) / 100.0 FROM generate_series(1, 360) n;
INSERT INTO scores SELECT {_id("score", "n")}, o.id, o.project_id, n / 3.0, {text_of("n")} FROM (SELECT row_number() OVER (ORDER BY id) n, * FROM observations) o WHERE n % 2 = 0;
INSERT INTO api_keys SELECT {_id("key", "n")}, CASE WHEN n % 2 = 0 THEN {_id("org", "1 + n % 3")} END, CASE WHEN n % 2 = 1 THEN {_id("project", "1 + n % 9")} END, md5(n::text) FROM generate_series(1, 18) n;
INSERT INTO eval_templates SELECT {_id("template", "n")}, CASE WHEN n > 3 THEN {_id("project", "1 + n % 9")} END, {text_of("n")}, '{{}}' FROM generate_series(1, 12) n;
INSERT INTO job_configurations SELECT {_id("job", "n")}, CASE n % 3 WHEN 0 THEN {_id("template", "1 + n % 12")} WHEN 1 THEN {_id("template", "1 + n % 3")} END, {_id("project", "1 + n % 9")}, '[]' FROM generate_series(1, 18) n;
INSERT INTO dashboards SELECT {_id("board", "n")}, CASE WHEN n > 2 THEN {_id("project", "1 + n % 9")} END, '{{"b":1,  "a":2}}' FROM generate_series(1, 9) n;
REFRESH MATERIALIZED VIEW trace_counts;
"""
_OWN = "(SELECT id FROM projects WHERE org_id = {key})"
_MINE = f"t.project_id IN {_OWN}"
_FIRST = f"(SELECT id FROM projects WHERE org_id = {_id('org', '1')})"

OBSERVABILITY = Product(
    name="observability",
    schema=_SCHEMA,
    rows=_ROWS,
    changes="UPDATE observations SET level = 'ERROR' WHERE score > 0.8; DELETE FROM scores WHERE value > 100; UPDATE organizations SET metadata = '{\"x\": [1, 2]}';"
    ' UPDATE traces SET "timestamp" = "timestamp" + interval \'200 days\' WHERE "timestamp" < \'2025-07-01\'',
    wrecks=(
        f"DELETE FROM scores WHERE project_id IN {_FIRST}; DELETE FROM observations WHERE project_id IN {_FIRST} AND level = 'ERROR';"
        f" DELETE FROM traces WHERE project_id IN {_FIRST} AND name IS NULL",
        # The parents of SET NULL columns, and a project with all that cascades from it.
        f"DELETE FROM models WHERE project_id IN {_FIRST}; DELETE FROM eval_templates WHERE project_id IN {_FIRST};"
        f" UPDATE job_configurations SET filter = '{{}}' WHERE project_id IN {_FIRST}; DELETE FROM api_keys WHERE project_id IN {_FIRST}",
        f"UPDATE traces SET input = NULL, tags = '{{wrecked}}', embedding = NULL WHERE project_id IN {_FIRST};"
        f" UPDATE observations SET parent_id = id, usage = 'empty' WHERE project_id IN {_FIRST}; UPDATE projects SET name = 'p' WHERE id IN {_FIRST}",
    ),
    tables={
        "organizations": "t.id = {key}",
        "projects": "t.org_id = {key}",
        "models": _MINE,
        "prices": f"EXISTS (SELECT FROM models m WHERE m.id = t.model_id AND m.project_id IN {_OWN})",
        "traces": _MINE,
        "observations": _MINE,
        "scores": _MINE,
        "api_keys": f"(t.org_id = {{key}} OR {_MINE})",
        "job_configurations": _MINE,
        "eval_templates": _MINE,
        "dashboards": _MINE,
    },
    common=(
        *(f"(SELECT * FROM {name} WHERE project_id IS NULL)" for name in ("models", "eval_templates", "dashboards")),
        "(SELECT p.* FROM prices p JOIN models m ON m.id = p.model_id WHERE m.project_id IS NULL)",
    ),
    part=("dashboards", f"DELETE FROM dashboards WHERE project_id IN {_FIRST}"),
    keys={f"org-{n}": _id("org", str(n)) for n in (1, 2, 3)},
    settings={
        "tenants": {"table": "organizations", "tier": ""},
        "database": {
            "tenant_column": "org_id",
            "follow": [{"column": "project_id", "parent": "projects"}],
            "links": [
                {
                    "table": "api_keys",
                    "parent": "organizations",
                    "join": "p.id = coalesce(t.org_id, (SELECT j.org_id FROM public.projects j WHERE j.id = t.project_id))",
                },
            ],
        },
    },
)
