"""The embedded servers: what `up`, `status` and `down` promise, as root and as an ordinary user, alone and together."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from botocore.exceptions import ClientError

from sbh_pipelines.database.session.targets import journal_database
from sbh_pipelines.embedded.servers import copy_server, process, stack
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError
from sbh_pipelines.settings import load_settings

BUCKET = "sbh-files-eu-west-1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Stack]:
    with stack.running(fsync=False) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Closed to all but us, as pytest's own folders are; emptied of servers and files afterwards."""
    path = Path(tempfile.mkdtemp(prefix="sbh-test-"))
    yield path / "stack"
    stack.down(path / "stack")
    shutil.rmtree(path)


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def pids(where: Path) -> dict[str, int | None]:
    return {server.name: server.pid for server in stack.status(where).servers}


def test_status_names_every_running_server(shared: Stack) -> None:
    now = stack.status(shared.dir)
    assert now.running
    assert {server.name for server in now.servers} == {"postgres", "objects", "kms"}
    assert all(server.running and server.pid and server.address for server in now.servers)
    assert now.data_bytes > 10 * 2**20


def test_a_second_up_starts_nothing_and_gives_the_same_addresses(shared: Stack) -> None:
    before = pids(shared.dir)
    assert stack.up(shared.dir) == shared
    assert stack.connect_to(shared.dir) == shared
    assert pids(shared.dir) == before


def test_the_settings_file_is_valid_and_its_secrets_are_private_files(shared: Stack) -> None:
    settings = load_settings(shared.settings)
    assert settings.keys.provider == "local"
    assert settings.storage.endpoint_url == shared.s3_endpoint
    assert settings.keys.kms_endpoint_url == shared.kms_endpoint
    secrets = [settings.database.password_file, settings.storage.secret_access_key_file, settings.keys.key_file]
    for file in secrets:
        assert file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = Path(str(settings.database.password_file)).read_text().strip()
    assert query(f"{settings.database.dsn} password={password}", "SELECT current_user") == [("sbh_backup",)]


def test_postgres_is_18_decodes_logically_and_wants_a_password(shared: Stack) -> None:
    assert query(shared.dsn(), "SELECT current_setting('server_version_num')::int / 10000") == [(18,)]
    assert query(shared.dsn(), "SHOW wal_level") == [("logical",)]
    with pytest.raises(psycopg2.OperationalError, match="password"):
        query(f"host=127.0.0.1 port={shared.ports['postgres']} dbname=app user=sbh_admin password=wrong", "SELECT 1")


def test_the_backup_role_may_do_its_work_and_owns_nothing(shared: Stack) -> None:
    query(shared.dsn(), "CREATE TABLE guarded (id int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
    query(shared.dsn(), "INSERT INTO guarded VALUES (1)")
    role = shared.dsn("sbh_backup")
    assert query(role, "SET row_security = off; SELECT id FROM guarded") == [(1,)]
    query(role, "SET session_replication_role = replica; DELETE FROM guarded; CREATE TEMP TABLE t (); CREATE SCHEMA s")
    assert query(role, "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'sbh_backup'") == [(False, True)]


def test_the_role_of_the_journal_may_replicate_and_publish_the_applications_tables(shared: Stack) -> None:
    query(shared.dsn(), "CREATE TABLE published (id int PRIMARY KEY)")
    role = shared.dsn("sbh_journal")
    query(role, "CREATE PUBLICATION tried FOR TABLE published")
    query(role, "SELECT pg_create_logical_replication_slot('tried', 'pgoutput', true)")
    query(role, "DROP PUBLICATION tried")
    settings = load_settings(shared.settings)
    assert settings.journal.enabled
    password = Path(str(settings.journal.password_file)).read_text().strip()
    database = journal_database(settings)
    assert query(f"{database.dsn} password={password}", "SELECT current_user, current_database()") == [
        ("sbh_journal", "app")
    ]
    assert database.password_file != settings.database.password_file


def test_file_buckets_are_versioned_and_the_locked_one_keeps_what_it_must(shared: Stack) -> None:
    s3 = shared.s3_client()
    for bucket in (BUCKET, "sbh-files-us-east-1", "sbh-locked-eu-west-1"):
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    lock = s3.get_object_lock_configuration(Bucket="sbh-locked-eu-west-1")
    assert lock["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"


def test_create_only_and_conditional_puts_are_refused_as_on_s3(shared: Stack) -> None:
    s3 = shared.s3_client()
    etag = s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="once", Body=b"2", IfNoneMatch="*")
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"3", IfMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="once", Body=b"4", IfMatch=etag)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="sbh-files-mars", Key="once", Body=b"1")


def test_kms_wraps_under_the_alias_in_every_region(shared: Stack) -> None:
    for region in ("eu-west-1", "us-east-1"):
        kms, context = shared.kms_client(region), {"tenant": "tenant-1"}
        key = kms.generate_data_key(KeyId="alias/sbh-backup", KeySpec="AES_256", EncryptionContext=context)
        plain = kms.decrypt(CiphertextBlob=key["CiphertextBlob"], EncryptionContext=context)["Plaintext"]
        assert plain == key["Plaintext"]


def test_a_restart_keeps_rows_objects_ports_and_the_users_settings(folder: Path) -> None:
    first = stack.up(folder, kms=False, fsync=False)
    query(first.dsn(), "CREATE TABLE kept AS SELECT 42 AS n")
    first.s3_client().put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    first.settings.write_text(first.settings.read_text().replace("[storage]", "[storage]\ntimeout_s = 7"))
    stack.down(folder)
    assert not stack.status(folder).running
    with pytest.raises(EmbeddedError, match="sbh stack up"):
        stack.connect_to(folder)
    second = stack.up(folder, kms=False, fsync=False)
    assert second == first
    assert query(second.dsn(), "SELECT n FROM kept") == [(42,)]
    assert second.s3_client().get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"
    assert load_settings(second.settings).storage.timeout_s == 7


def test_two_stacks_run_side_by_side_and_a_taken_port_is_replaced_in_the_settings(shared: Stack, folder: Path) -> None:
    """The second stack remembers the ports of the first, as a copied directory would."""
    layout = Layout(folder)
    layout.create()
    layout.save_ports(shared.ports)
    layout.settings.write_text(
        f"# mine\n[database]\ndsn = 'host=127.0.0.1 port={shared.ports['postgres']} dbname=app'\n"
    )
    other = stack.up(folder, kms=False, fsync=False)
    moved = {name for name, port in other.ports.items() if port != shared.ports[name]}
    assert moved == set(shared.ports) - {"kms"}  # which this stack does without
    assert layout.settings.read_text().startswith("# mine\n")
    assert f"port={other.ports['postgres']} " in layout.settings.read_text()
    query(other.dsn(), "CREATE TABLE only_here ()")
    assert query(shared.dsn(), "SELECT to_regclass('only_here')") == [(None,)]


def test_the_store_is_lost_and_the_copy_and_the_database_are_not(folder: Path) -> None:
    """Objects and key are gone, and so are its sockets and ports: an empty store is then where it was, with another key."""
    first = stack.up(folder, kms=False, copy=True, fsync=False)
    layout, place = Layout(folder), copy_server.layout_of(Layout(folder))
    query(first.dsn(), "CREATE TABLE kept AS SELECT 42 AS n")
    first.s3_client().put_object(Bucket=BUCKET, Key="lost", Body=b"lost")
    copied = copy_server.client(layout, first.ports)
    copied.put_object(Bucket="sbh-copy-eu-west-1", Key="copied", Body=b"copied")
    key, key_there = layout.backup_key.read_text(), place.backup_key.read_text()
    assert stack.lose_store(folder) > 0
    assert not layout.objects.exists()
    assert not layout.backup_key.exists()
    running = {server.name: server.running for server in stack.status(folder).servers}
    assert running == {"postgres": True, "objects": False, "kms": False, "copy": True}
    with pytest.raises(EmbeddedError, match="no S3 server to lose"):
        stack.lose_store(folder)
    assert stack.up(folder, kms=False, fsync=False) == first
    assert first.s3_client().list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    assert copied.get_object(Bucket="sbh-copy-eu-west-1", Key="copied")["Body"].read() == b"copied"
    assert query(first.dsn(), "SELECT n FROM kept") == [(42,)]
    assert layout.backup_key.read_text() != key
    assert place.backup_key.read_text() == key_there


def test_the_settings_have_the_stacks_copies_and_keep_what_is_above_them(folder: Path) -> None:
    """One copy; after a loss that one to be read, and the next; none once they are dropped, with their server and all it has."""
    first = stack.up(folder, kms=False, copy=True, fsync=False)
    first.settings.write_text(first.settings.read_text().replace("[storage]", "[storage]\ntimeout_s = 7"))

    def copies() -> list[tuple[str, str]]:
        settings = load_settings(first.settings)
        assert settings.storage.timeout_s == 7
        assert all(copy.key_file and copy.key_file.exists() for copy in settings.copies)
        return [(copy.name, copy.kind) for copy in settings.copies]

    assert copies() == [("dr", "managed")]
    stack.down(folder)
    assert stack.up(folder, kms=False, fsync=False) == first
    stack.begin_next_copy(folder)
    assert copies() == [("dr", "external"), ("dr-2", "managed")]
    assert stack.drop_copies(folder)
    assert copies() == []
    assert not copy_server.layout_of(Layout(folder)).root.exists()
    assert not stack.drop_copies(folder)
    assert {server.name for server in stack.status(folder).servers} == {"postgres", "objects", "kms"}
    stack.up(folder, kms=False, copy=True, fsync=False)
    assert copies() == [("dr", "managed")]


def test_two_ups_at_once_make_one_stack(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stack.up(folder, kms=False, fsync=False), range(2))
    assert first == second


def test_a_pid_that_another_process_has_now_is_not_ours(folder: Path) -> None:
    layout = Layout(folder)
    layout.create()
    recorded = {"name": "objects", "pid": os.getpid(), "started": 1, "boot": "another", "ports": {"s3": 1}}
    (layout.run / "objects.json").write_text(json.dumps(recorded))
    assert process.find(layout, "objects") is None
    stack.down(folder)  # must not signal us


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(folder: Path) -> None:
    layout = Layout(folder)
    layout.create()
    daemon = process.spawn("objects", ["/bin/sh", "-c", "echo out of luck; exit 1"], layout, {})
    with pytest.raises(EmbeddedError, match="out of luck"):
        process.wait_until(lambda: False, daemon, layout)


def test_the_block_takes_its_stack_down_when_it_fails() -> None:
    seen: list[Stack] = []
    with pytest.raises(RuntimeError, match="inside"), stack.running(kms=False, fsync=False) as running:  # noqa: PT012
        seen.append(running)
        raise RuntimeError("inside")
    assert not seen[0].dir.exists()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(seen[0].dsn())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_can_run_a_stack(as_nobody: Callable[[str], str]) -> None:
    program = """
import os, tempfile
from sbh_pipelines.embedded.servers import stack
with stack.running(kms=False, fsync=False) as running:
    import psycopg2
    psycopg2.connect(running.dsn()).close()
    print(os.getuid(), len(running.s3_client().list_buckets()["Buckets"]), stack.status(running.dir).running)
"""
    assert as_nobody(program).split() == ["65534", "3", "True"]


@pytest.fixture
def as_nobody() -> Callable[[str], str]:
    """Run a program as uid 65534. It keeps the capability to pass closed folders, so that it finds its Python."""
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("no setpriv here")
    flags = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    flags += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]
    env = {
        **os.environ,
        "HOME": "/nonexistent",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run(program: str) -> str:
        done = subprocess.run([tool, *flags, sys.executable, "-c", program], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
