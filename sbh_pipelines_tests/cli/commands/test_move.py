"""`sbh tenants move` between two sites on real servers: a second database, filled from the platform backup, and buckets of its own."""

import base64
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.site.moves import say_move
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import find_tenant
from sbh_pipelines.embedded.sample import fingerprint
from sbh_pipelines.embedded.servers import object_server, postgres
from sbh_pipelines.embedded.servers.layout import Layout, write_private
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import TenantId, utc_now
from sbh_pipelines.repository.catalog.moves import Move, MoveState
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.buckets import fresh_bucket

MOVED, STAYS = "tenant-5", "tenant-1"


class Sites:
    """Settings files of both sites, and what their tenants have, read without the engine."""

    def __init__(self, stack: Stack, here: Path, there: Path, database: str, files: str) -> None:
        self.stack, self.here, self.there = stack, str(here), str(there)
        self._database, self._files = database, files

    def rows(self, database: str) -> dict[str, dict[str, fingerprint.Content]]:
        with closing(psycopg2.connect(make_dsn(self.stack.dsn(postgres.ADMIN), dbname=database))) as connection:
            return fingerprint._rows(connection)

    @property
    def rows_here(self) -> dict[str, dict[str, fingerprint.Content]]:
        return self.rows(postgres.DATABASE)

    @property
    def rows_there(self) -> dict[str, dict[str, fingerprint.Content]]:
        return self.rows(self._database)

    def files_here(self, tenant: str) -> dict[str, bytes]:
        return self._read(f"sbh-files-{self._region(tenant)}", tenant)

    def files_there(self, tenant: str) -> dict[str, bytes]:
        return self._read(self._files.replace("{region}", self._region(tenant)), tenant)

    def _region(self, tenant: str) -> str:
        with closing(psycopg2.connect(self.stack.dsn(postgres.ADMIN))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT region FROM tenants WHERE slug = %s", (tenant,))
            return str(cursor.fetchone()[0])

    def _read(self, bucket: str, tenant: str) -> dict[str, bytes]:
        client, prefix = self.stack.s3_client(), f"files/{tenant}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        own = [key for key in keys if not key.startswith(f"{prefix}backups/")]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in own}


@pytest.fixture
def sites(sbh: Sbh, settings_file: Path, sample_stack: Stack, tmp_path: Path) -> Iterator[Sites]:
    """The second site has the schema, the shared rows and tenant-1 of the first."""
    name = f"second_{uuid.uuid4().hex[:8]}"
    admin = make_dsn(sample_stack.dsn(postgres.ADMIN), dbname=name)
    with ExitStack() as stack:
        connection = stack.enter_context(closing(psycopg2.connect(sample_stack.dsn(postgres.ADMIN))))
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        stack.callback(connection.cursor().execute, f"DROP DATABASE {name} WITH (FORCE)")
        for tenant in (MOVED, STAYS):
            assert sbh("backup", "create", tenant, "-q").status == 0
        assert sbh("platform", "backup", "-q").status == 0
        filled = sbh("platform", "restore", "--into", admin, "-t", STAYS, "--no-files", "--confirm", "--json")
        assert filled.status == 0, filled.out
        buckets = {f"two-{kind}": f"two-{kind}-{uuid.uuid4().hex[:6]}-{{region}}" for kind in ("backups", "files")}
        for template in buckets.values():
            for region in object_server.REGIONS:
                stack.enter_context(fresh_bucket(sample_stack, template.replace("{region}", region)))
        key_file = tmp_path / "second.key"
        write_private(key_file, base64.b64encode(os.urandom(32)).decode())
        text = settings_file.read_text().partition("[journal]")[0]
        here, there = settings_file.with_name("move_1.toml"), settings_file.with_name("move_2.toml")
        stack.callback(here.unlink)
        stack.callback(there.unlink)
        here.write_text(f'{text}\n[site]\nname = "eu_1"\n')
        text = text.replace(f"dbname={postgres.DATABASE} ", f"dbname={name} ")
        text = text.replace(
            "[storage]\n", f'[storage]\nbucket = "{buckets["two-backups"]}"\nprefix = "second/{{tenant}}/"\n'
        )
        text = text.replace("[files]\n", f'[files]\nbucket = "{buckets["two-files"]}"\n')
        text = text.replace(str(Layout(sample_stack.dir).backup_key), str(key_file))
        there.write_text(f'{text}\n[site]\nname = "eu_2"\n')
        first = Site(load_settings(settings_file), utc_now)
        # Other tests have all tenants of the stack.
        here_again = Move(MoveState.HERE, "eu_2", "", "", "")
        stack.callback(say_move, first, find_tenant(first.settings, TenantId(MOVED)), here_again, "test")
        yield Sites(sample_stack, here, there, name, buckets["two-files"])


def test_a_tenant_is_moved_and_its_history_goes_on(sbh: Sbh, sites: Sites) -> None:
    command = ("tenants", "move", MOVED, "--from", sites.here, "--to", sites.there)
    before, others = sites.rows_here, sites.rows_there
    files = sites.files_here(MOVED)
    assert files
    shown = sbh(*command, "--dry-run")
    assert shown.status == 0, shown.out + shown.err
    assert "not begun" in shown.out
    assert sbh(*command, "--json").code == "SBH-205"
    assert sites.rows_there == others
    first = sbh("--settings", sites.here, "backup", "list", MOVED, "-q").out.split()

    moved = sbh(*command, "--confirm", "--json")
    assert moved.status == 0, moved.out
    proof = moved.document["proof"]
    assert proof["rows"] == sum(one.count for one in before[MOVED].values()) - _left_out(before)
    assert proof["files"] == len(files)
    assert _kept(sites.rows_there[MOVED]) == _kept(before[MOVED])
    assert {tenant: rows for tenant, rows in sites.rows_there.items() if tenant != MOVED} == others
    assert sites.files_there(MOVED) == files == sites.files_here(MOVED)
    assert sites.rows_here == before

    there = sbh("--settings", sites.there, "backup", "list", MOVED, "-q").out.split()
    assert set(first) < set(there)
    old = sbh("--settings", sites.there, "backup", "validate", first[-1], "-t", MOVED, "--deep", "-q")
    assert old.out == "valid\n"
    gone = sbh("--settings", sites.here, "backup", "create", MOVED, "--json")
    assert "SBH-219" in gone.out
    listed = sbh("--settings", sites.here, "tenants", "list")
    assert "went to another site" in listed.out
    assert "eu_2" in listed.out
    fleet = sbh("fleet", sites.here, sites.there, "--json").document
    assert [(t["site"], t["missed"]) for t in fleet["tenants"] if t["tenant_id"] == MOVED] == [("eu_2", False)]
    assert fleet["sites"][0]["moved"] == {MOVED: "eu_2"}
    again = sbh(*command, "--confirm")
    assert again.status == 0
    assert "eu_2" in again.out
    ended = sbh("tenants", "move", MOVED, "--to", sites.there, "--arrived", "--confirm", "--json")
    assert ended.code == "SBH-220"
    for wrong in (("--arrived", "--from", sites.here), ("--arrived", "--give-up"), ()):
        assert sbh("tenants", "move", MOVED, "--to", sites.there, *wrong, "--json").code == "SBH-200"
    for site, event in ((sites.here, "tenant.moved"), (sites.there, "tenant.arrived")):
        events = sbh("--settings", site, "audit", "list", MOVED, "--json").document["events"]
        assert event in [one["event"] for one in events]
        assert sbh("--settings", site, "audit", "verify", MOVED, "-q").status == 0


def _left_out(rows: dict[str, dict[str, fingerprint.Content]]) -> int:
    """Rows of the table that no backup holds."""
    return sum(content.count for table, content in rows[MOVED].items() if table == "sessions")


def _kept(rows: dict[str, fingerprint.Content]) -> dict[str, fingerprint.Content]:
    return {table: content for table, content in rows.items() if table != "sessions"}
