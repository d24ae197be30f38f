"""Changes to one tenant of the sample.

wreck   ruins it, as a bad script would: rows deleted, changed, made up; files dropped, altered
work    an hour's work: some rows changed, deleted and added, a file uploaded
ruin    one transaction of a script of the application's own that forgot half of its conditions: rows changed and deleted
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import obstore
import psycopg2

from sbh_pipelines.embedded.sample.fingerprint import stores
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError

_DOOMED = "(SELECT id FROM tasks WHERE tenant_id = %(id)s AND id %% 6 = 0)"
_DELETED = (
    f"DELETE FROM attachments a USING comments c WHERE c.id = a.comment_id AND c.task_id IN {_DOOMED}",
    "DELETE FROM attachments a USING comments c, tasks k WHERE c.id = a.comment_id AND k.id = c.task_id"
    " AND k.tenant_id = %(id)s AND a.id %% 2 = 0",
    f"DELETE FROM comments WHERE task_id IN {_DOOMED}",
    f"DELETE FROM tasks WHERE id IN {_DOOMED}",
    "DELETE FROM payments WHERE tenant_id = %(id)s AND currency < 'M'",
    "DELETE FROM tenant_settings WHERE tenant_id = %(id)s",
    "DELETE FROM audit_logs WHERE tenant_id = %(id)s AND id %% 5 = 0",
)
_CHANGED = (
    f"UPDATE comments SET reply_to = NULL WHERE task_id NOT IN {_DOOMED} AND reply_to IN"
    f" (SELECT id FROM comments WHERE task_id IN {_DOOMED})",
    "UPDATE users SET email = 'lost-' || id || '@example.invalid', preferences = '{}' WHERE tenant_id = %(id)s",
    "UPDATE tasks SET title = upper(title), estimate = NULL WHERE tenant_id = %(id)s AND id %% 7 = 0",
    "UPDATE tenants SET settings = '{\"broken\": true}' WHERE id = %(id)s",
    "UPDATE files SET size = size + 1 WHERE tenant_id = %(id)s AND id %% 2 = 0",
)
_ADDED = (
    "INSERT INTO analytics (tenant_id, event, props, occurred_at) SELECT %(id)s, 'never-happened', '{}', now()"
    " FROM generate_series(1, 50)",
)


@dataclass(frozen=True, slots=True)
class Damage:
    """What `wreck` did, in rows and files."""

    rows_deleted: int
    rows_changed: int
    rows_added: int
    files_deleted: int
    files_altered: int
    files_added: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def wreck(stack: Stack, tenant: str) -> Damage:
    """Damage the rows and files of one tenant; of no other. Raises EmbeddedError where there is no such tenant."""
    with _application(stack, tenant) as (cursor, tenant_key, region):
        cursor.execute("ALTER TABLE audit_logs DISABLE TRIGGER append_only")
        changed, deleted, added = (
            sum(_run(cursor, statement, tenant_key) for statement in statements)
            for statements in (_CHANGED, _DELETED, _ADDED)
        )
        cursor.execute("ALTER TABLE audit_logs ENABLE TRIGGER append_only")
    return Damage(deleted, changed, added, *_wreck_files(stack, tenant, region))


def _run(cursor: Any, statement: str, tenant_key: int) -> int:
    cursor.execute(statement, {"id": tenant_key})
    return int(cursor.rowcount)


def _wreck_files(stack: Stack, tenant: str, region: str) -> tuple[int, int, int]:
    """Every third file deleted, every third overwritten, two strangers put beside them."""
    store = stores(stack)[region]
    prefix = f"files/{tenant}"
    keys = sorted(
        meta["path"]
        for page in obstore.list(store, prefix)
        for meta in page
        if not meta["path"].startswith(f"{prefix}/backups/")
    )
    gone, altered = keys[::3], keys[1::3]
    if gone:
        obstore.delete(store, gone)
    for key in altered:
        obstore.put(store, key, b"overwritten", use_multipart=False)
    strangers = [f"{prefix}/uploads/stranger-{n}.txt" for n in (1, 2)]
    for key in strangers:
        obstore.put(store, key, b"this file was not there", use_multipart=False)
    return len(gone), len(altered), len(strangers)


# an hour's work

_WORK_CHANGED = (
    "UPDATE tasks SET status = 'done' WHERE tenant_id = %(id)s AND id %% 40 = 0",
    "UPDATE projects SET archived = NOT archived WHERE tenant_id = %(id)s AND id %% 7 = 0",
)
_WORK_DELETED = ("DELETE FROM analytics WHERE tenant_id = %(id)s AND id %% 500 = 0",)
_WORK_ADDED = (
    "INSERT INTO analytics (tenant_id, event, props, occurred_at) SELECT %(id)s, 'page_view', '{}', now()"
    " FROM generate_series(1, 25)",
    "INSERT INTO files (tenant_id, name, storage_key, size, sha256)"
    " VALUES (%(id)s, 'minutes.txt', %(key)s, %(size)s, %(sha256)s) ON CONFLICT (storage_key) DO NOTHING",
)
_WORK_FILE = b"Minutes of the meeting\n" * 40


@dataclass(frozen=True, slots=True)
class Work:
    """What `work` did, in rows and files."""

    rows_changed: int
    rows_deleted: int
    rows_added: int
    files_added: int = 1

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def work(stack: Stack, tenant: str) -> Work:
    """Change the rows and files of one tenant; of no other. Raises EmbeddedError where there is no such tenant."""
    key = f"files/{tenant}/uploads/minutes.txt"
    with _application(stack, tenant) as (cursor, tenant_key, region):
        obstore.put(stores(stack)[region], key, _WORK_FILE, use_multipart=False)  # before the row that refers to it
        values = {
            "id": tenant_key,
            "key": key,
            "size": len(_WORK_FILE),
            "sha256": hashlib.sha256(_WORK_FILE).hexdigest(),
        }
        done = []
        for statements in (_WORK_CHANGED, _WORK_DELETED, _WORK_ADDED):
            rows = 0
            for statement in statements:
                cursor.execute(statement, values)
                rows += cursor.rowcount
            done.append(rows)
    return Work(*done)


# a script of the application's own

_RUINED_CHANGED = (
    "UPDATE payments SET amount = 0, status = 'void' WHERE tenant_id = %(id)s",
    "UPDATE tasks SET title = 'untitled', tags = '{}' WHERE tenant_id = %(id)s AND id %% 2 = 0",
)
_RUINED_DELETED = (
    "DELETE FROM attachments a USING comments c, tasks k WHERE c.id = a.comment_id AND k.id = c.task_id"
    " AND k.tenant_id = %(id)s",
    "DELETE FROM analytics WHERE tenant_id = %(id)s AND id %% 4 <> 0",
    "DELETE FROM tenant_settings WHERE tenant_id = %(id)s",
)


@dataclass(frozen=True, slots=True)
class Ruin:
    """What `ruin` did, in rows; and the transaction that did it."""

    rows_changed: int
    rows_deleted: int
    xid: int


def ruin(stack: Stack, tenant: str) -> Ruin:
    """Ruin rows of one tenant, of no other, in one transaction. Raises EmbeddedError where there is no such tenant."""
    with _application(stack, tenant) as (cursor, tenant_key, _):
        changed, deleted = (
            sum(_run(cursor, statement, tenant_key) for statement in statements)
            for statements in (_RUINED_CHANGED, _RUINED_DELETED)
        )
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        return Ruin(changed, deleted, int(cursor.fetchone()[0]))


@contextmanager
def _application(stack: Stack, tenant: str) -> Iterator[tuple[Any, int, str]]:
    """A transaction: its cursor, the tenant's key and region."""
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, region FROM tenants WHERE slug = %s", (tenant,))
        if (found := cursor.fetchone()) is None:
            raise EmbeddedError("No such tenant in the sample", on=tenant, remedy="see `sbh tenants list`")
        yield cursor, found[0], found[1]
