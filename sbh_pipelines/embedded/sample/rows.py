"""The rows of the sample: SQL that makes row `i` of a table from hashes of `i`, the same for the same seed."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

_SKEW = 0.9  # exponent of Zipf's law
# What part of the asked number of rows each table gets.
_PARTS = {
    "users": 0.03,
    "projects": 0.01,
    "tasks": 0.16,
    "comments": 0.14,
    "attachments": 0.04,
    "payments": 0.06,
    "analytics": 0.39,
    "audit_logs": 0.14,
    "sessions": 0.03,
}
_VOCABULARY = (
    "review the quarterly report invoice for customer onboarding update billing address fix login page slow export of"
    " contacts plan launch email campaign draft contract renewal check tax rate migrate old records clean up duplicates"
    " prepare board deck call supplier about late delivery Zürich naïve 東京 🚀"
)
_WORDS = _VOCABULARY.split()
# u: a number in [0, 1); n: an integer in [0, m); w: a word; k tells the uses of one row's `i` apart.
_FUNCTIONS = """
CREATE FUNCTION pg_temp.u(i bigint, k int) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (hashint8extended(i, {seed}::bigint + k) & 9007199254740991) / 9007199254740992.0::float8;
CREATE FUNCTION pg_temp.n(i bigint, k int, m bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (hashint8extended(i, {seed}::bigint + k) & 9007199254740991) % m;
CREATE FUNCTION pg_temp.w(i bigint, k int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ({words})[1 + (hashint8extended(i, {seed}::bigint + k) & 9007199254740991) % {count}];
CREATE FUNCTION pg_temp.tenant(i bigint, k int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN i <= {tenants} THEN i ELSE 1 + width_bucket(pg_temp.u(i, k), {bounds}) END;
CREATE FUNCTION pg_temp.at(i bigint, k int) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN timestamptz '2025-06-01 00:00:00+00' - make_interval(secs => floor(pg_temp.u(i, k) * 31536000000) / 1000);
"""
_TENANTS = """
INSERT INTO plans (name, monthly_price, limits) VALUES
    ('free', 0, '{{"users": 3}}'), ('team', 49, '{{"users": 25}}'), ('business', 199, '{{"users": 250, "sso": true}}'),
    ('enterprise', 1490.50, '{{"users": null, "sso": true, "audit": true}}');
INSERT INTO tenants (slug, name, region, tier, settings, plan_id, created_at)
SELECT 'tenant-' || i, initcap(pg_temp.w(i, 1) || ' ' || pg_temp.w(i, 2)) || ' Ltd',
       CASE WHEN i % 4 = 0 THEN 'us-east-1' ELSE 'eu-west-1' END,
       (ARRAY['critical', 'important', 'important', 'archive'])[1 + (i - 1) % 4],
       jsonb_build_object('locale', (ARRAY['en', 'de', 'ja'])[1 + i % 3], 'seats', 5 * i, 'beta', i % 2 = 0),
       4 - pg_temp.n(i, 3, 4), pg_temp.at(i, 4)
FROM generate_series(1, {tenants}) i;
INSERT INTO tenant_settings
SELECT t.id, s.key, s.value FROM tenants t, LATERAL (VALUES
    ('branding', jsonb_build_object('colour', '#' || substr(md5(t.slug), 1, 6), 'logo', t.slug || '.svg')),
    ('retention_days', to_jsonb(30 * (1 + t.id % 12))), ('notifications', '{{"email": true, "digest": "weekly"}}'),
    ('allowed_domains', jsonb_build_array(t.slug || '.example')), ('time_zone', '"Europe/Dublin"'),
    ('feature_flags', jsonb_build_object('new_editor', t.id % 2 = 0, 'ai', null))) AS s (key, value);
"""
_ROWS = {
    "users": """
INSERT INTO users (tenant_id, email, name, role, created_at, preferences)
SELECT tenant, 'user' || i || '@tenant-' || tenant || '.example', initcap(pg_temp.w(i, 11) || ' ' || pg_temp.w(i, 12)),
       (CASE WHEN i <= {tenants} THEN 'owner' WHEN pg_temp.u(i, 13) < 0.1 THEN 'admin' WHEN pg_temp.u(i, 13) < 0.9
        THEN 'member' ELSE 'guest' END)::user_role, pg_temp.at(i, 14),
       jsonb_build_object('theme', CASE WHEN pg_temp.u(i, 15) < 0.3 THEN 'dark' ELSE 'light' END,
                          'page_size', 10 * (1 + pg_temp.n(i, 16, 10)))
FROM (SELECT i, pg_temp.tenant(i, 10) AS tenant FROM generate_series(1, {rows}) i) r;
CREATE TEMP TABLE member ON COMMIT DROP AS
    SELECT tenant_id, id AS user_id, row_number() OVER (PARTITION BY tenant_id ORDER BY id) - 1 AS n,
           count(*) OVER (PARTITION BY tenant_id) AS members FROM users;
CREATE TEMP TABLE team ON COMMIT DROP AS SELECT DISTINCT tenant_id, members FROM member;
ANALYZE member; ANALYZE team;""",
    "projects": """
INSERT INTO projects (tenant_id, name, description, owner_id, archived, created_at)
SELECT r.tenant, initcap(pg_temp.w(i, 21) || ' ' || pg_temp.w(i, 22)) || ' ' || i,
       CASE WHEN pg_temp.u(i, 23) < 0.8 THEN concat_ws(' ', pg_temp.w(i, 24), pg_temp.w(i, 25), pg_temp.w(i, 26)) END,
       m.user_id, pg_temp.u(i, 27) < 0.2, pg_temp.at(i, 28)
FROM (SELECT i, pg_temp.tenant(i, 20) AS tenant FROM generate_series(1, {rows}) i) r
JOIN team t ON t.tenant_id = r.tenant
LEFT JOIN member m ON m.tenant_id = r.tenant AND m.n = pg_temp.n(i, 29, t.members) ORDER BY i;
ANALYZE projects;""",
    "tasks": """
INSERT INTO tasks (tenant_id, project_id, assignee_id, title, status, tags, estimate, due_on, created_at, updated_at)
SELECT p.tenant_id, p.id, CASE WHEN pg_temp.u(i, 31) < 0.85 THEN m.user_id END,
       concat_ws(' ', initcap(pg_temp.w(i, 32)), pg_temp.w(i, 33), pg_temp.w(i, 34), pg_temp.w(i, 35)),
       (ARRAY['open', 'doing', 'review', 'done', 'done'])[1 + pg_temp.n(i, 36, 5)],
       CASE pg_temp.n(i, 37, 3) WHEN 0 THEN '{{}}' WHEN 1 THEN ARRAY[pg_temp.w(i, 38)]
            ELSE ARRAY[pg_temp.w(i, 38), 'needs "care", maybe'] END,
       CASE WHEN pg_temp.u(i, 39) < 0.7 THEN round(pg_temp.n(i, 39, 6400) / 100.0, 2) END,
       CASE WHEN pg_temp.u(i, 40) < 0.6 THEN date '2025-06-01' + pg_temp.n(i, 40, 200)::int END,
       pg_temp.at(i, 41), pg_temp.at(i, 41) + interval '3 days'
FROM (SELECT i, 1 + pg_temp.n(i, 30, {projects}) AS project FROM generate_series(1, {rows}) i) r
JOIN projects p ON p.id = r.project JOIN team t ON t.tenant_id = p.tenant_id
LEFT JOIN member m ON m.tenant_id = p.tenant_id AND m.n = pg_temp.n(i, 42, t.members) ORDER BY i;""",
    "comments": """
INSERT INTO comments (task_id, reply_to, author, body, created_at)
SELECT 1 + pg_temp.n((i - 1) / 3, 50, {tasks}), CASE WHEN (i - 1) % 3 > 0 THEN i - 1 END, pg_temp.w(i, 51),
       concat_ws(CASE WHEN i % 11 = 0 THEN E'\\n' ELSE ' ' END, pg_temp.w(i, 52), pg_temp.w(i, 53), pg_temp.w(i, 54),
                 pg_temp.w(i, 55), pg_temp.w(i, 56), CASE WHEN i % 13 = 0 THEN E'tab\\there, back\\\\slash' END),
       pg_temp.at(i, 57)
FROM generate_series(1, {rows}) i;""",
    "attachments": """
INSERT INTO attachments (comment_id, name, media_type, size, thumbnail)
SELECT 1 + pg_temp.n(i, 60, {comments}), pg_temp.w(i, 61) || '-' || i || '.png', 'image/png', pg_temp.n(i, 62, 900000),
       CASE WHEN i % 3 = 0 THEN decode(md5(i::text || '{seed}'), 'hex') END
FROM generate_series(1, {rows}) i;""",
    "payments": """
INSERT INTO payments
SELECT md5('payment' || i || '/{seed}')::uuid, pg_temp.tenant(i, 70),
       (CASE WHEN pg_temp.u(i, 71) < 0.03 THEN -1 ELSE 1 END) * (pg_temp.n(i, 72, 500000) / 100.0),
       (ARRAY['EUR', 'USD', 'GBP'])[1 + pg_temp.n(i, 73, 3)],
       (ARRAY['paid', 'paid', 'paid', 'pending', 'failed'])[1 + pg_temp.n(i, 74, 5)],
       CASE WHEN pg_temp.n(i, 74, 5) < 3 THEN pg_temp.at(i, 75) END
FROM generate_series(1, {rows}) i;""",
    "analytics": """
INSERT INTO analytics (tenant_id, event, props, occurred_at)
SELECT pg_temp.tenant(i, 80), (ARRAY['page_view', 'click', 'search', 'export', 'login'])[1 + pg_temp.n(i, 81, 5)],
       ('{{"path": "/' || pg_temp.w(i, 82) || '", "ms": ' || pg_temp.n(i, 83, 4000) || ', "device": "'
        || CASE WHEN pg_temp.u(i, 84) < 0.6 THEN 'desktop' ELSE 'mobile' END || '"}}')::jsonb, pg_temp.at(i, 85)
FROM generate_series(1, {rows}) i;""",
    "audit_logs": """
INSERT INTO audit_logs (tenant_id, actor, action, target, detail, occurred_at, recorded_at)
SELECT pg_temp.tenant(i, 90), 'user' || pg_temp.n(i, 91, {users}) || '@example.com',
       (ARRAY['task.update', 'user.invite', 'login', 'file.download', 'payment.refund'])[1 + pg_temp.n(i, 92, 5)],
       'task/' || pg_temp.n(i, 93, {tasks}),
       CASE WHEN i % 2 = 0 THEN jsonb_build_object('ip', '192.0.2.' || i % 256) END,
       pg_temp.at(i, 94), pg_temp.at(i, 94) + interval '20 milliseconds'
FROM generate_series(1, {rows}) i;""",
    "sessions": """
INSERT INTO sessions
SELECT md5('session' || i || '/{seed}'), pg_temp.tenant(i, 100), 1 + pg_temp.n(i, 101, {users}), pg_temp.at(i, 102)
FROM generate_series(1, {rows}) i;""",
}


@dataclass(frozen=True)
class Shares:
    """How much of everything each of `tenants` tenants has: tenant n in proportion to n to the power -0.9."""

    tenants: int
    skew: float = _SKEW
    bounds: list[float] = field(init=False, repr=False)  # upper bounds of all tenants but the last, of 1.0

    def __post_init__(self) -> None:
        weights = [(n + 1) ** -self.skew for n in range(self.tenants)]
        total = sum(weights)
        object.__setattr__(self, "bounds", [edge / total for edge in accumulate(weights[:-1])])

    def pick(self, chance: float) -> int:
        """The tenant at `chance`, a number in [0, 1)."""
        return 1 + bisect_right(self.bounds, chance)

    @property
    def sql(self) -> str:
        """The bounds for `width_bucket`, which wants at least one."""
        return f"ARRAY[{', '.join(map(repr, self.bounds or [1.0]))}]::float8[]"


def define_functions(cursor: Any, shares: Shares, seed: int) -> None:
    """The functions above, in the session's temporary schema."""
    quoted = ", ".join(f"'{word}'" for word in _WORDS)
    words = f"ARRAY[{quoted}]::text[]"
    # Uses of one row are told apart by small numbers, so seeds are spread far apart.
    values = {"seed": seed * 1_000_003, "words": words, "count": len(_WORDS)}
    # nosemgrep: statement-made-by-format - sample data: numbers and our own SQL
    cursor.execute(_FUNCTIONS.format(**values, tenants=shares.tenants, bounds=shares.sql))


def load_rows(cursor: Any, shares: Shares, rows: int, seed: int, say: Callable[[str], None]) -> None:
    """Fill all tables but `files` with about `rows` rows, at least one user and one project per tenant."""
    define_functions(cursor, shares, seed)
    counts = {table: max(shares.tenants, round(rows * part)) for table, part in _PARTS.items()}
    load_tenants(cursor, shares.tenants)
    for table, statements in _ROWS.items():
        cursor.execute(statements.format(**counts, rows=counts[table], seed=seed, tenants=shares.tenants))
        say(f"{counts[table]} {table}")


def load_tenants(cursor: Any, tenants: int) -> None:
    # nosemgrep: statement-made-by-format - a number
    cursor.execute(_TENANTS.format(tenants=tenants))
