"""`sbh platform` on real servers: the backup, and everything rebuilt in an empty database."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.layout import Layout
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.cli.conftest import Sbh, sql


@pytest.fixture
def empty(sample_stack: Stack) -> Iterator[str]:
    """The name of an empty database."""
    name = f"cli_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(sample_stack.dsn(postgres.ADMIN))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        yield name
        connection.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_backed_up_listed_and_rebuilt(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, empty: str, tmp_path: Path
) -> None:
    """The password of the target comes from a file."""
    tenants = [f"tenant-{n}" for n in range(1, 7)]
    assert sbh("backup", "create", "--all", "--json").status == 0
    made = sbh("platform", "backup", "--json")
    assert made.status == 0, made.out
    assert made.document["components"]["shared"]["tables"] == ["public.plans"]
    backup = made.document["id"]
    assert backup in [m["id"] for m in sbh("platform", "list", "--json").document["backups"]]
    assert sbh("platform", "validate", "--deep", "--quiet").out == "valid\n"
    assert "shared rows" in sbh("platform", "list").out
    assert "without their passwords" in sbh("platform", "backup").out

    port = sample_stack.ports["postgres"]
    into = f"host=127.0.0.1 port={port} dbname={empty} user={postgres.ADMIN}"
    password = tmp_path / "password"
    password.write_text(Layout(sample_stack.dir).secret(Layout(sample_stack.dir).password_file(postgres.ADMIN)) + "\n")
    command = ("platform", "restore", "--into", into, "--platform", backup, "--password-file", str(password))
    assert sbh(*command, "--json").code == "SBH-205"
    for wrong in (f"{into} password=hidden", "postgresql://u:hidden@127.0.0.1/x", "no such thing"):
        refused = sbh("platform", "restore", "--into", wrong, "--confirm", "--json")
        assert refused.code == "SBH-200"
        assert "hidden" not in refused.out + refused.err
    assert sbh(*command, "--until", "soon", "--confirm", "--json").code == "SBH-200"
    assert sbh(*command, "--tenant", "nobody", "--confirm", "--json").code == "SBH-202"
    ended = sbh(*command, "--confirm", "--json")
    assert ended.status == 0, ended.out
    assert [t["tenant_id"] for t in ended.document["tenants"] if t["status"] == "restored"] == tenants
    assert ended.document["ddl_only"] == ["public.sessions"]
    assert password.read_text().strip() not in ended.out + ended.err
    counted = "SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM attachments), (SELECT count(*) FROM plans)"
    found = []
    for name in (postgres.DATABASE, empty):
        dsn = make_dsn(sample_stack.dsn(postgres.ADMIN), dbname=name)
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(counted)
            found.append(cursor.fetchone())
    assert found[0] == found[1]
    assert sbh(*command, "--confirm", "--json").code == "SBH-701"


def test_a_tenant_that_cannot_be_recovered_is_shown(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, empty: str, backed_up: str
) -> None:
    """The exit status says so, and the others are there."""
    fresh = "INSERT INTO tenants SELECT 77, 'unsaved', name, region, tier, settings, plan_id FROM tenants LIMIT 1"
    with sql(sample_stack, fresh, after="DELETE FROM tenants WHERE id = 77"):
        assert sbh("platform", "backup", "--quiet").status == 0
    into = make_dsn(sample_stack.dsn(postgres.ADMIN), dbname=empty)
    command = ("platform", "restore", "--into", into, "-t", "tenant-6", "-t", "unsaved", "--no-files", "--confirm")
    ended = sbh(*command)
    assert ended.status == 11
    assert "restored" in ended.out
    assert "SBH-203" in ended.out
    assert "incomplete" in ended.out
    again = sbh("platform", "restore", "--into", into, "-t", "tenant-6", "--no-files", "--confirm", "--json")
    assert (again.status, again.document["status"]) == (0, "completed")
