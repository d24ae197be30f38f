"""Ruins one tenant of the sample, as a bad script would: rows deleted, changed, made up; files dropped, altered."""

from contextlib import closing
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
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, region FROM tenants WHERE slug = %s", (tenant,))
        if (found := cursor.fetchone()) is None:
            raise EmbeddedError("No such tenant in the sample", on=tenant, remedy="see `sbh tenants list`")
        cursor.execute("ALTER TABLE audit_logs DISABLE TRIGGER append_only")
        changed, deleted, added = (
            sum(_run(cursor, statement, found[0]) for statement in statements)
            for statements in (_CHANGED, _DELETED, _ADDED)
        )
        cursor.execute("ALTER TABLE audit_logs ENABLE TRIGGER append_only")
    return Damage(deleted, changed, added, *_wreck_files(stack, tenant, found[1]))


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
