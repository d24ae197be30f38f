"""The sample SaaS: the same arguments give the same data, and the data have what makes restoring hard."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import psycopg2
import pytest

from sbh_pipelines.embedded.sample import data as sample
from sbh_pipelines.embedded.sample import schema
from sbh_pipelines.embedded.sample.data import SampleSummary
from sbh_pipelines.embedded.servers import stack
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError

TENANTS, ROWS, FILES = 5, 4000, 60


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack.running(kms=False, fsync=False) as running:
        yield running


@pytest.fixture
def other_servers() -> Iterator[Stack]:
    """Empty, and of one test only."""
    with stack.running(kms=False, fsync=False) as running:
        yield running


@pytest.fixture(scope="module")
def made(servers: Stack) -> tuple[SampleSummary, str, str]:
    """The summary and the hashes of rows and files of one generation."""
    return generated(servers, seed=7)


@pytest.fixture
def cursor(servers: Stack, made: object) -> Iterator[Any]:
    with closing(psycopg2.connect(servers.dsn())) as connection, connection, connection.cursor() as opened:
        yield opened


def generated(servers: Stack, seed: int) -> tuple[SampleSummary, str, str]:
    summary = sample.generate(servers, tenants=TENANTS, rows=ROWS, files=FILES, seed=seed)
    return summary, hash_rows(servers), hash_files(servers)


def hash_rows(servers: Stack) -> str:
    digest = hashlib.sha256()
    with closing(psycopg2.connect(servers.dsn())) as connection, connection.cursor() as reader:
        reader.execute("SET timezone = 'UTC'")
        for table in schema.TABLES:
            text = BytesIO()
            reader.copy_expert(f"COPY {table} TO STDOUT", text)
            digest.update(text.getvalue())
    return digest.hexdigest()


def hash_files(servers: Stack) -> str:
    s3, digest = servers.s3_client(), hashlib.sha256()
    for bucket in ("sbh-files-eu-west-1", "sbh-files-us-east-1"):
        for entry in s3.list_objects_v2(Bucket=bucket, Prefix="files/")["Contents"]:
            digest.update(entry["Key"].encode() + entry["ETag"].encode())
    return digest.hexdigest()


def drop_all(servers: Stack) -> None:
    with closing(psycopg2.connect(servers.dsn())) as connection, connection, connection.cursor() as owner:
        owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_a_second_generation_is_refused(servers: Stack, made: object) -> None:
    with pytest.raises(EmbeddedError, match="There is data already"):
        sample.generate(servers)


def test_sizes_are_skewed_and_every_tenant_has_users(cursor: Any) -> None:
    cursor.execute("SELECT count(*) FROM analytics GROUP BY tenant_id ORDER BY tenant_id")
    sizes = [count for (count,) in cursor.fetchall()]
    assert len(sizes) == TENANTS
    assert sizes[0] > 2 * sizes[-1]
    cursor.execute("SELECT count(DISTINCT tenant_id) FROM users")
    assert cursor.fetchone() == (TENANTS,)


def test_rows_of_tenants_lie_mixed_in_the_heap(cursor: Any) -> None:
    cursor.execute("SELECT count(DISTINCT tenant_id) FROM (SELECT tenant_id FROM tasks ORDER BY ctid LIMIT 50) page")
    assert cursor.fetchone()[0] >= 4


def test_rows_refer_only_to_rows_of_their_own_tenant(cursor: Any) -> None:
    cursor.execute(
        "SELECT count(*) FROM tasks t JOIN projects p ON p.id = t.project_id LEFT JOIN users u ON u.id = t.assignee_id"
        " WHERE p.tenant_id <> t.tenant_id OR u.tenant_id <> t.tenant_id"
    )
    assert cursor.fetchone() == (0,)
    cursor.execute("SELECT count(*) FROM comments c JOIN comments r ON r.id = c.reply_to WHERE r.task_id <> c.task_id")
    assert cursor.fetchone() == (0,)


def test_rows_of_files_tell_the_truth_about_their_objects(servers: Stack, cursor: Any) -> None:
    cursor.execute("SELECT t.region, storage_key, size, sha256 FROM files f JOIN tenants t ON t.id = f.tenant_id")
    rows = cursor.fetchall()
    assert len(rows) == FILES
    for region, key, size, digest in rows:
        body = servers.s3_client().get_object(Bucket=f"sbh-files-{region}", Key=key)["Body"].read()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (size, digest)


def test_the_applications_next_insert_gets_a_free_number(cursor: Any) -> None:
    cursor.execute("INSERT INTO users (tenant_id, email, name) VALUES (1, 'new@example.com', 'New') RETURNING id")
    number = cursor.fetchone()[0]
    cursor.execute("SELECT max(id) FROM users")
    assert cursor.fetchone() == (number,)
    cursor.connection.rollback()


def test_the_audit_trail_refuses_changes(cursor: Any) -> None:
    with pytest.raises(psycopg2.errors.RaiseException, match="append-only"):
        cursor.execute("DELETE FROM audit_logs WHERE tenant_id = 1")
    cursor.connection.rollback()


def test_the_same_seed_gives_the_same_rows_and_files_and_another_seed_does_not(
    other_servers: Stack, made: tuple[SampleSummary, str, str]
) -> None:
    assert generated(other_servers, seed=7) == made
    drop_all(other_servers)
    summary, rows, files = generated(other_servers, seed=8)
    assert summary.rows == made[0].rows
    assert rows != made[1]
    assert files != made[2]


def test_the_fleet_has_many_tenants_scattered_and_little_skew(other_servers: Stack) -> None:
    with closing(psycopg2.connect(other_servers.dsn())) as connection:
        counts = sample.fleet(connection, tenants=50, scale=0.004)
        assert counts == {"events": 12000, "messages": 8000, "orders": 2400}
        with connection, connection.cursor() as reader:
            reader.execute("SELECT count(*) FROM events GROUP BY tenant_id ORDER BY 1")
            sizes = [count for (count,) in reader.fetchall()]
            assert len(sizes) == 50
            assert sizes[-1] < 12 * sizes[0]


def test_what_is_logged_of_a_change_says_whose_row_it_is(cursor: Any) -> None:
    """Every table but the cache and the shared one: identity by the primary key, an index or the whole row."""
    cursor.execute(
        "SELECT relname::text, relreplident::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    identities = dict(cursor.fetchall())
    by_key = {table for table, identity in identities.items() if identity == "d"}
    assert by_key == {"plans", "sessions", "tenants", "tenant_settings"}
    assert {table for table, identity in identities.items() if identity == "f"} == {"analytics", "audit_logs"}
