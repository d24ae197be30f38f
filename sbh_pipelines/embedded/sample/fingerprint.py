"""What the sample's tenants hold, as hashes: the demo's and the tests' independent witness.

Shares no code with the engine that it judges: plain SQL that names the sample's tables, and plain reads of objects.
Rows count as PostgreSQL prints them, in the order of their primary key; files as their bytes and attributes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import obstore
import psycopg2
from obstore.store import S3Store

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.embedded.servers import object_server, postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError

PLATFORM = ""  # under this name: what is no tenant's

# Table -> (FROM, the tenant's slug, order). `t` is the table itself.
_OWNED = "JOIN public.tenants o ON o.id = t.tenant_id"
_TABLES = {
    "tenants": ("", "t.slug", "t.id"),
    "tenant_settings": (_OWNED, "o.slug", "t.tenant_id, t.key"),
    **dict.fromkeys(("users", "projects", "tasks", "files", "payments", "analytics"), (_OWNED, "o.slug", "t.id")),
    "audit_logs": (_OWNED, "o.slug", "t.id"),
    "comments": (
        "JOIN public.tasks k ON k.id = t.task_id JOIN public.tenants o ON o.id = k.tenant_id",
        "o.slug",
        "t.id",
    ),
    "attachments": (
        "JOIN public.comments c ON c.id = t.comment_id JOIN public.tasks k ON k.id = c.task_id"
        " JOIN public.tenants o ON o.id = k.tenant_id",
        "o.slug",
        "t.id",
    ),
    "plans": ("", "NULL", "t.id"),
    "sessions": ("", "NULL", "t.token"),
}


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of one table (`count` of them, hashed together) or one file (`count` bytes)."""

    count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """By tenant: tables by name, files by key. The empty name stands for tables that belong to no tenant."""

    rows: Mapping[str, Mapping[str, Content]]
    files: Mapping[str, Mapping[str, Content]]

    def differences(self, later: "Fingerprint") -> dict[str, list[str]]:
        """What is not as it was, in words, by tenant; tenants without a difference are left out."""
        found: dict[str, list[str]] = {}
        for kind, before, after in (("table", self.rows, later.rows), ("file", self.files, later.files)):
            for tenant in sorted({*before, *after}):
                lines = _compare(kind, before.get(tenant, {}), after.get(tenant, {}))
                if lines:
                    found.setdefault(tenant, []).extend(lines)
        return found

    def row_count(self, tenant: str) -> int:
        return sum(content.count for content in self.rows.get(tenant, {}).values())

    @property
    def total_rows(self) -> int:
        return sum(map(self.row_count, self.rows))

    @property
    def total_files(self) -> int:
        return sum(map(len, self.files.values()))


@dataclass
class _Tally:
    count: int = 0
    hash: Any = field(default_factory=hashlib.sha256)


def has_data(stack: Stack) -> bool:
    """Whether the sample's tables are there."""
    with closing(_connect(stack)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.tenants') IS NOT NULL")
        return bool(cursor.fetchone()[0])


def take(stack: Stack) -> Fingerprint:
    """The fingerprint of everything, now. Rows are read in one snapshot; nothing should write meanwhile."""
    with closing(_connect(stack)) as connection:
        rows = _rows(connection)
    return Fingerprint(rows, _files(stack))


def _connect(stack: Stack) -> Any:
    connection = psycopg2.connect(stack.dsn(postgres.ADMIN))  # a superuser: row security must hide nothing
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    return connection


def _rows(connection: Any) -> dict[str, dict[str, Content]]:
    found: dict[str, dict[str, Content]] = {}
    with connection.cursor() as cursor:
        cursor.execute("SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = ISO")
        for table, (joins, tenant, order) in _TABLES.items():
            query = f"SELECT coalesce({tenant}, ''), t.* FROM public.{table} AS t {joins} ORDER BY {order}"
            sink = _Sink()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", sink)
            for slug, tally in sink.tallies.items():
                found.setdefault(slug, {})[table] = Content(tally.count, tally.hash.hexdigest())
    return found


class _Sink:
    """Takes COPY text as it comes; the first field of each line says whose it is."""

    def __init__(self) -> None:
        self.tallies: dict[str, _Tally] = {}
        self._rest = b""

    def write(self, data: bytes) -> int:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            slug, _, row = line.partition(b"\t")
            tally = self.tallies.setdefault(slug.decode(), _Tally())
            tally.count += 1
            tally.hash.update(row + b"\n")
        return len(data)


def _files(stack: Stack) -> dict[str, dict[str, Content]]:
    found: dict[str, dict[str, Content]] = {}
    for store in stores(stack).values():
        keys = list(_file_keys(store))
        contents = side_by_side(partial(_read, store), keys, name="files", threads=16)
        for key, content in zip(keys, contents, strict=True):
            found.setdefault(key.split("/")[1], {})[key] = content
    return found


def stores(stack: Stack) -> dict[str, S3Store]:
    """The files' bucket of each region."""
    return {
        region: S3Store(
            f"sbh-files-{region}",
            endpoint=stack.s3_endpoint,
            region=region,
            access_key_id=object_server.ACCESS_KEY,
            secret_access_key=Layout(stack.dir).secret(object_server.secret_file(Layout(stack.dir))),
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        for region in object_server.REGIONS
    }


def _file_keys(store: S3Store) -> Iterator[str]:
    """Keys of the tenants' own files: what is in their folders, but for the backups."""
    for page in obstore.list(store, "files"):
        for meta in page:
            if meta["path"].split("/")[2] != "backups":
                yield meta["path"]


def _read(store: S3Store, key: str) -> Content:
    answer = obstore.get(store, key)
    body = bytes(answer.bytes())
    attributes = repr(sorted((str(name), str(value)) for name, value in answer.attributes.items()))
    return Content(len(body), hashlib.sha256(attributes.encode() + b"\0" + body).hexdigest())


def _compare(kind: str, before: Mapping[str, Content], after: Mapping[str, Content]) -> list[str]:
    lines = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        unit = "rows" if kind == "table" else "bytes"
        if was and now:
            same = was.count == now.count
            lines.append(f"{kind} {name}: " + ("changed" if same else f"{was.count} {unit} became {now.count}"))
        else:
            lines.append(f"{kind} {name}: " + ("is gone" if was else "is new"))
    return lines


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a repository from outside: how many objects and bytes, and one of their keys."""

    name: str
    objects: int
    bytes: int
    example: str


def repository(stack: Stack, tenant: str) -> list[Folder]:
    """The folders of the tenant's repository, with the settings that the stack wrote. Raises EmbeddedError if empty."""
    prefix = f"files/{tenant}/backups"
    found: dict[str, list[tuple[str, int]]] = {}
    for store in stores(stack).values():
        for page in obstore.list(store, prefix):
            for meta in page:
                rest = meta["path"].removeprefix(f"{prefix}/")
                folder = f"{rest.partition('/')[0]}/" if "/" in rest else rest
                found.setdefault(folder, []).append((rest, meta["size"]))
    if not found:
        raise EmbeddedError("There is no repository", on=prefix, remedy=f"sbh backup create {tenant}")
    return [
        Folder(name, len(objects), sum(size for _, size in objects), max(objects)[0])
        for name, objects in sorted(found.items())
    ]
