"""The benchmarks' fleet: many tenants, three large tables, their rows scattered over all pages.

At scale 1: 3 M `events`, 2 M `messages`, 0.6 M `orders`, 0.9 GB of COPY text that zstd shrinks about five times, as
application data do. Only mildly skewed: the largest of 200 tenants has some 2 % of the rows.
"""

from typing import Any

from sbh_pipelines.embedded.sample import schema
from sbh_pipelines.embedded.sample.rows import Shares, define_functions, load_tenants

# Declared in the stack's settings, so they must be there.
_SMALL = ("plans", "tenants", "tenant_settings", "files", "sessions")
_SKEW = 0.3
_ROWS = {"events": 3_000_000, "messages": 2_000_000, "orders": 600_000}
_TABLES = {
    "events": """
SELECT i AS id, pg_temp.tenant(i, 200)::bigint AS tenant_id,
       (ARRAY['page_view', 'click', 'search', 'export', 'login'])[1 + pg_temp.n(i, 201, 5)] AS kind,
       pg_temp.n(i, 202, 50000) AS user_id,
       timestamptz '2025-01-01 UTC' + make_interval(secs => i * 4 + pg_temp.n(i, 203, 4)) AS occurred_at,
       ('{{"path": "/' || pg_temp.w(i, 204) || '/' || pg_temp.w(i, 205) || '", "ms": ' || pg_temp.n(i, 206, 900)
        || ', "device": "' || CASE WHEN pg_temp.u(i, 207) < 0.6 THEN 'desktop' ELSE 'mobile' END
        || '", "session": "' || lpad(to_hex(pg_temp.n(i, 208, 4294967296)), 8, '0')
        || '", "browser": "firefox"}}')::jsonb AS props""",
    "messages": """
SELECT i AS id, pg_temp.tenant(i, 210)::bigint AS tenant_id, pg_temp.n(i, 211, 50000) AS sender_id,
       pg_temp.n(i, 212, 20000) AS channel_id,
       timestamptz '2025-01-01 UTC' + make_interval(secs => i * 6 + pg_temp.n(i, 213, 6)) AS sent_at,
       concat_ws(' ', 'Hello', pg_temp.w(i, 214), 'please', phrase[1 + pg_temp.n(i, 215, 8)],
                 pg_temp.w(i, 216), phrase[1 + pg_temp.n(i, 217, 8)], pg_temp.w(i, 218), pg_temp.w(i, 219)) AS body""",
    "orders": """
SELECT i AS id, pg_temp.tenant(i, 220)::bigint AS tenant_id, 'ORD-2025-' || lpad(i::text, 8, '0') AS number,
       pg_temp.n(i, 221, 50000) AS customer_id, (pg_temp.n(i, 222, 900000) / 100.0)::numeric(12,2) AS total,
       'EUR'::char(3) AS currency, (ARRAY['new', 'paid', 'shipped', 'closed'])[1 + pg_temp.n(i, 223, 4)] AS status,
       timestamptz '2025-01-01 UTC' + make_interval(secs => i * 20) AS ordered_at,
       jsonb_build_array(jsonb_build_object('sku', 'SKU-' || pg_temp.n(i, 224, 900), 'quantity', pg_temp.n(i, 225, 9)),
                         jsonb_build_object('sku', 'SKU-' || pg_temp.n(i, 226, 900), 'quantity', 1)) AS lines""",
}
_PHRASES = (
    "look at the numbers for last week before the call",
    "send the new version to the customer today",
    "the invoice is still open and the due date has passed",
    "we should move the meeting to the afternoon",
    "there is a problem with the export of contacts",
    "thank you for the quick answer",
    "I have added my comments to the shared document",
    "this can wait until the release is out",
)


def file_key(slug: str, nth: int) -> str:
    """Where a tenant's file is, as the table `files` says; from 1."""
    return f"files/{slug}/documents/{nth:04}.txt"


def fleet(connection: Any, *, tenants: int = 200, scale: float = 1.0, files: int = 0, seed: int = 7) -> dict[str, int]:
    """Make the tables and fill them, committed and analysed; rows by table. `connection` is the owner's.

    `files` is the number of each tenant's rows in the table of that name; putting the files there is the caller's.

    Takes a database without sample data; psycopg2's error is raised where the tables exist.
    """
    counts = {table: max(1, round(rows * scale)) for table, rows in _ROWS.items()}
    phrases = ", ".join(f"'{phrase}'" for phrase in _PHRASES)
    with connection, connection.cursor() as cursor:
        schema.create_tables(cursor, _SMALL)
        define_functions(cursor, Shares(tenants, _SKEW), seed)
        load_tenants(cursor, tenants)
        cursor.execute(
            "INSERT INTO files (tenant_id, name, storage_key, size, sha256, created_at)"
            " SELECT t.id, 'Document ' || n, 'files/' || t.slug || '/documents/' || to_char(n, 'FM0000') || '.txt', 1000,"
            f" '', t.created_at FROM tenants t, generate_series(1, {files}) n"
        )
        schema.create_rules(cursor, _SMALL)
        for table, rows in counts.items():
            select = _TABLES[table].format()
            cursor.execute(
                f"CREATE TABLE {table} AS {select} FROM generate_series(1::bigint, {rows}) i,"
                f" (SELECT ARRAY[{phrases}] AS phrase) p"
            )
            cursor.execute(
                f"ALTER TABLE {table} ALTER tenant_id SET NOT NULL, ADD PRIMARY KEY (id),"
                " ADD FOREIGN KEY (tenant_id) REFERENCES tenants"
            )
            cursor.execute(schema.identity(table, "tenant_id, id"))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM (ANALYZE) {', '.join((*_SMALL, *counts))}")
    finally:
        connection.autocommit = False
    return counts
