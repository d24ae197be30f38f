"""A believable SaaS, the same for the same arguments: every row, every byte of every file, every timestamp.

Sizes are skewed: tenant-1 is the largest, each next one smaller (Zipf). Rows of different tenants lie mixed in the
tables, as they do where tenants work at the same time. Rows are made inside the server, files here. `fleet` makes the
large, regular database that the benchmarks read.
"""

import hashlib
import io
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore
import psycopg2
from obstore.store import S3Store

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.embedded.sample import schema
from sbh_pipelines.embedded.sample.fleet import fleet
from sbh_pipelines.embedded.sample.rows import Shares, load_rows
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.object_server import ACCESS_KEY, REGIONS, secret_file
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError

__all__ = ["SampleSummary", "create_schema", "fleet", "generate", "region", "slug"]

_UPLOADS_AT_ONCE = 16
_TEXT_KINDS = (("report", "csv"), ("notes", "txt"), ("export", "json"))
_BINARY_KINDS = (("photo", "jpg"), ("scan", "pdf"), ("Übersicht 2025 – Käufe", "pdf"))
_TEXT_BLOCK = 256 * 1024
_WORDS = "order invoice draft total customer paid open region north south review item price net tax due note"
_LAST_UPLOAD = datetime(2025, 6, 1, tzinfo=UTC)
_MEAN_LOG_SIZE, _SIGMA_LOG_SIZE, _LARGEST = 9.2, 1.4, 8 * 1024 * 1024  # bytes; half the files are below 10 KB


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """The sample data that was made.

    Attributes:
        tenants: Their slugs.
        rows: Rows by table.
        files: How many.
        file_bytes: Bytes of all files.
    """

    tenants: tuple[str, ...]
    rows: dict[str, int]
    files: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class _File:
    tenant: int
    name: str
    key: str
    body: bytes


def create_schema(connection: Any) -> None:
    """The empty tables with all their rules, committed; `connection` is the owner's."""
    with connection, connection.cursor() as cursor:
        schema.create_tables(cursor)
        schema.create_rules(cursor)


def generate(
    stack: Stack,
    *,
    tenants: int = 8,
    rows: int = 60_000,
    files: int = 400,
    seed: int = 7,
    progress: Callable[[str], None] | None = None,
) -> SampleSummary:
    """Make the tables, about `rows` rows in them, and `files` objects in the region buckets.

    The database part is one transaction, after the files: where it fails, running it again puts the same files over
    the same keys. Raises EmbeddedError where the tables exist already.
    """
    say = progress or (lambda _: None)
    with closing(psycopg2.connect(stack.dsn(postgres.OWNER))) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('public.tenants') IS NOT NULL")
            if cursor.fetchone()[0]:
                raise EmbeddedError(
                    "There is data already",
                    on=f"database {postgres.DATABASE} of {stack.dir}",
                    remedy="use another directory, or drop the tables first",
                )
        shares = Shares(tenants)
        listed, size = _upload(stack, shares, files, seed)
        say(f"{files} files, {size / 2**20:.1f} MiB")
        with connection, connection.cursor() as cursor:
            schema.create_tables(cursor)
            load_rows(cursor, shares, rows, seed, say)
            columns = "tenant_id, uploaded_by, name, storage_key, size, sha256, created_at"
            cursor.copy_expert(f"COPY files ({columns}) FROM STDIN", listed)
            schema.create_rules(cursor)
            say("keys, indexes and triggers")
            counts = {}
            for table in schema.TABLES:
                cursor.execute(f"SELECT count(*) FROM {table}")
                counts[table] = cursor.fetchone()[0]
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM (ANALYZE) {', '.join(schema.TABLES)}")
    return SampleSummary(tuple(map(slug, range(1, tenants + 1))), counts, files, size)


def slug(tenant: int) -> str:
    return f"tenant-{tenant}"


def region(tenant: int) -> str:
    """Every fourth tenant is American."""
    return REGIONS[1] if tenant % 4 == 0 else REGIONS[0]


def make_file(i: int, shares: Shares, seed: int, text: bytes) -> _File:
    """File `i`: text that compresses or bytes that do not, most of them small, a few empty, a few of several MiB."""
    chance = random.Random(f"{seed}/{i}")  # noqa: S311  # nosec B311  # it must be repeatable
    tenant = i if i <= shares.tenants else shares.pick(chance.random())
    size = 0 if i % 97 == 13 else min(_LARGEST, int(chance.lognormvariate(_MEAN_LOG_SIZE, _SIGMA_LOG_SIZE)))
    stem, extension = chance.choice(_TEXT_KINDS if chance.random() < 0.5 else _BINARY_KINDS)
    if (stem, extension) in _TEXT_KINDS:
        start = chance.randrange(len(text))
        body = (f"# {stem} {i} of {slug(tenant)}\n".encode() + text[start:] + text * (size // len(text) + 1))[:size]
    else:
        body = chance.randbytes(size)
    name = f"{stem}-{i}.{extension}"
    return _File(tenant, name, f"files/{slug(tenant)}/uploads/{chance.randrange(256):02x}/{name}", body)


def _upload(stack: Stack, shares: Shares, files: int, seed: int) -> tuple[io.StringIO, int]:
    """Put the files; their rows as COPY text in the order of their numbers, and their size together, bytes."""
    stores = {name: _store(stack, name) for name in REGIONS}
    text = _text(seed)

    def put(i: int) -> tuple[str, int]:
        file = make_file(i, shares, seed, text)
        store = stores[region(file.tenant)]
        if i % 23 == 5:  # some files have an earlier version
            obstore.put(store, file.key, file.body[: len(file.body) // 2], use_multipart=False)
        obstore.put(store, file.key, file.body, use_multipart=False)
        digest = hashlib.sha256(file.body).hexdigest()
        uploader = file.tenant  # the first user of each tenant has the tenant's number
        created = _LAST_UPLOAD - timedelta(minutes=i)
        row = (file.tenant, uploader, file.name, file.key, len(file.body), digest, created.isoformat())
        return "\t".join(map(str, row)) + "\n", len(file.body)

    done = side_by_side(put, range(1, files + 1), name="upload", threads=_UPLOADS_AT_ONCE)
    return io.StringIO("".join(line for line, _ in done)), sum(size for _, size in done)


def _store(stack: Stack, where: str) -> S3Store:
    return S3Store(
        f"sbh-files-{where}",
        endpoint=stack.s3_endpoint,
        region=where,
        access_key_id=ACCESS_KEY,
        secret_access_key=Layout(stack.dir).secret(secret_file(Layout(stack.dir))),
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _text(seed: int) -> bytes:
    """Lines of words and numbers that compress about as well as real exports do."""
    chance = random.Random(f"{seed}/text")  # noqa: S311  # nosec B311  # it must be repeatable
    words = _WORDS.split()
    lines = io.StringIO()
    while lines.tell() < _TEXT_BLOCK:
        lines.write(",".join((str(chance.randrange(10**6)), *chance.choices(words, k=6), f"{chance.random():.4f}\n")))
    return lines.getvalue().encode()[:_TEXT_BLOCK]
