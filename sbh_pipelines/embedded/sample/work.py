"""An hour's work of one tenant of the sample: some rows changed, deleted and added, a file uploaded."""

import hashlib
from contextlib import closing
from dataclasses import asdict, dataclass

import obstore
import psycopg2

from sbh_pipelines.embedded.sample.fingerprint import stores
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError

_CHANGED = (
    "UPDATE tasks SET status = 'done' WHERE tenant_id = %(id)s AND id %% 40 = 0",
    "UPDATE projects SET archived = NOT archived WHERE tenant_id = %(id)s AND id %% 7 = 0",
)
_DELETED = ("DELETE FROM analytics WHERE tenant_id = %(id)s AND id %% 500 = 0",)
_ADDED = (
    "INSERT INTO analytics (tenant_id, event, props, occurred_at) SELECT %(id)s, 'page_view', '{}', now()"
    " FROM generate_series(1, 25)",
    "INSERT INTO files (tenant_id, name, storage_key, size, sha256)"
    " VALUES (%(id)s, 'minutes.txt', %(key)s, %(size)s, %(sha256)s) ON CONFLICT (storage_key) DO NOTHING",
)
_FILE = b"Minutes of the meeting\n" * 40


@dataclass(frozen=True, slots=True)
class Work:
    rows_changed: int
    rows_deleted: int
    rows_added: int
    files_added: int = 1

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def work(stack: Stack, tenant: str) -> Work:
    """Change the rows and files of one tenant; of no other. Raises EmbeddedError where there is no such tenant."""
    key = f"files/{tenant}/uploads/minutes.txt"
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, region FROM tenants WHERE slug = %s", (tenant,))
        if (found := cursor.fetchone()) is None:
            raise EmbeddedError("No such tenant in the sample", on=tenant, remedy="see `sbh tenants list`")
        obstore.put(stores(stack)[found[1]], key, _FILE, use_multipart=False)  # before the row that refers to it
        values = {"id": found[0], "key": key, "size": len(_FILE), "sha256": hashlib.sha256(_FILE).hexdigest()}
        done = []
        for statements in (_CHANGED, _DELETED, _ADDED):
            rows = 0
            for statement in statements:
                cursor.execute(statement, values)
                rows += cursor.rowcount
            done.append(rows)
    return Work(*done)
