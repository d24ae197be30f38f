"""`sbh restore`: look, restore a part, undo, look beside, on real servers; and what its options refuse without any."""

import re
import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.options import as_typed, requested, run_command
from sbh_pipelines.cli.show.plan import scope_text
from sbh_pipelines.cli.show.restores import bar
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import MergeMode
from sbh_pipelines_tests.cli.conftest import Sbh, sql

TENANT = ("--tenant", "tenant-6")
MINE = "tenant_id = (SELECT id FROM tenants WHERE slug = 'tenant-6')"
CHANGES = ("insert", "update", "delete")


def rows(stack: Stack, query: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(stack.dsn(postgres.ADMIN))) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def test_what_diff_shows_run_does_and_undo_takes_back(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str
) -> None:
    """One part of the tenant; `latest` is never the backup that the restore made first."""
    names = f"SELECT id, name FROM users WHERE {MINE} ORDER BY id"
    before = rows(sample_stack, names)
    with sql(sample_stack, f"UPDATE users SET name = 'nobody' WHERE {MINE}"):
        plan = sbh("restore", "diff", "latest", *TENANT, "--tables", "users", "--samples", "1", "--json")
    assert plan.status == 0
    (users,) = plan.document["tables"]
    assert [users[change] for change in CHANGES] == [0, len(before), 0]
    shown = sbh("restore", "diff", "latest", *TENANT, "--tables", "users", "--samples", "1")
    assert "name: nobody -> " in shown.out
    assert "tables users" in shown.out
    assert f"Next: sbh restore run {backed_up} --tenant tenant-6 --tables users --confirm" in shown.out
    assert sbh("restore", "diff", "latest", *TENANT, "--tables", "users", "--quiet").out == "different\n"

    ended = sbh("restore", "run", "latest", *TENANT, "--tables", "users", "--confirm")
    assert ended.status == 0, ended.err
    assert f"0 inserted, {len(before)} updated, 0 deleted" in ended.out
    (undo,) = [line.removeprefix("To undo it: ") for line in ended.out.splitlines() if line.startswith("To undo it")]
    assert rows(sample_stack, names) == before
    same = sbh("restore", "diff", "latest", *TENANT, "--tables", "users")
    assert "Nothing to do" in same.out
    assert backed_up in same.out

    newest = sbh("restore", "list", *TENANT, "--json").document[0]
    assert newest["restore_id"] in undo
    assert newest["safety_backup_id"] != backed_up
    told = sbh("restore", "status", newest["restore_id"], *TENANT).out
    assert "[########################] 100 %" in told
    assert newest["safety_backup_id"] in told
    listed = [line for line in sbh("backup", "list", TENANT[1]).out.splitlines() if "(safety)" in line]
    assert [newest["safety_backup_id"] in line for line in listed].count(True) == 1
    assert f"{backed_up} " not in "".join(listed)
    assert "made before a restore" in sbh("backup", "show", newest["safety_backup_id"], *TENANT).out
    assert undo in told
    planned = sbh("restore", "undo", newest["restore_id"], *TENANT, "--dry-run")
    assert f"Next: {undo}" in planned.out
    assert sbh("restore", "undo", newest["restore_id"], *TENANT, "--json").code == "SBH-205"
    undone = sbh(*shlex.split(undo)[1:], "--json")
    assert undone.document["rows_updated"] == len(before)
    assert {name for _, name in rows(sample_stack, names)} == {"nobody"}
    listed = sbh("restore", "list", *TENANT).out.splitlines()
    assert [newest["restore_id"] in line for line in listed].count(True) == 2  # its own line, and that of its undoing
    assert "undoes" in next(line for line in listed if undone.document["restore_id"] in line)
    again = sbh("restore", "run", "latest", *TENANT, "--confirm", "--no-safety-backup", "--json").document
    assert (again["backup_id"], again["safety_backup_id"]) == (backed_up, None)
    assert rows(sample_stack, names) == before


def test_what_a_restore_would_refuse(sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str) -> None:
    """The exit status of diff is the one that run would have; the reason and its remedy are told."""
    moved = f"UPDATE files SET id = id + 10000000 WHERE id = (SELECT min(id) FROM files WHERE {MINE})"
    back = f"UPDATE files SET id = id - 10000000 WHERE id > 10000000 AND {MINE}"
    options = ("latest", *TENANT, "--tables", "files", "--mode", "missing-only")
    with sql(sample_stack, moved, after=back):
        for command in (("diff", *options), ("run", *options, "--confirm")):
            assert sbh("restore", *command, "--json").status == 9
        shown = sbh("restore", "diff", *options)
    assert shown.status == 9
    assert "A restore would refuse: 1 problem" in shown.out
    assert "SBH-703" in shown.out
    assert "Conflicts" in shown.out
    assert "Next:" not in shown.out
    rename = "ALTER TABLE users RENAME COLUMN {} TO {}"
    with sql(sample_stack, rename.format("name", "alias"), after=rename.format("alias", "name")):
        drifted = sbh("restore", "diff", "latest", *TENANT, "--tables", "users")
        assert drifted.status == 5
        assert "Schema differences" in drifted.out
        assert "SBH-305" in drifted.out
        assert sbh("restore", "diff", "latest", *TENANT, "--tables", "users", "--quiet").out == "refused\n"


def test_an_old_state_beside_the_live_one(sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str) -> None:
    """Into a new schema, without a confirmation: nothing is overwritten. What is given is a label, and no name."""
    run = ("restore", "run", "latest", *TENANT, "--into-schema", "Old 'state")
    made = sbh(*run, "--tables", "users,public.projects", "--json").document
    schema = made["schema"]
    try:
        assert re.fullmatch(r"sbh_look_tenant_\d_\d{8}_\d{6}", schema)
        (number,) = rows(sample_stack, f"SELECT count(*) FROM {schema}.users")[0]
        assert number == rows(sample_stack, f"SELECT count(*) FROM users WHERE {MINE}")[0][0]
        again = sbh(*run, "--json")
        assert again.code == "SBH-307"
        assert sbh("restore", "looks", "-q").out == f"{schema}\n"
        assert "Old 'state" in sbh("restore", "looks", *TENANT).out
        assert sbh("restore", "drop-look", "--expired", "-q").out.strip() == ""
    finally:
        dropped = sbh("restore", "drop-look", schema, *TENANT)
    assert f"Dropped: {schema}" in dropped.out
    assert sbh("restore", "drop-look", schema, *TENANT).status == 2
    assert sbh("restore", "drop-look", schema).status == 2
    shown = sbh(*run, "--tables", "users")
    schema = shown.out.rpartition("sbh restore drop-look ")[2].split()[0]
    assert f"SET search_path TO {schema};" in shown.out
    assert sbh("restore", "drop-look", schema, *TENANT).status == 0


def test_rows_into_another_database(sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str) -> None:
    """The application's own stay as they are; there is no safety backup of what is not its."""
    with closing(psycopg2.connect(sample_stack.dsn(postgres.ADMIN), dbname="postgres")) as admin:
        admin.autocommit = True
        cursor = admin.cursor()
        cursor.execute(f"CREATE DATABASE copy TEMPLATE {postgres.DATABASE}")
        cursor.execute(f"GRANT TEMPORARY ON DATABASE copy TO {postgres.BACKUP}")
        try:
            there = sample_stack.dsn(postgres.ADMIN).replace(f"dbname={postgres.DATABASE}", "dbname=copy")
            with closing(psycopg2.connect(there)) as copy, copy, copy.cursor() as other:
                other.execute(f"DELETE FROM payments WHERE {MINE}")
            target = sample_stack.dsn(postgres.BACKUP).replace(f"dbname={postgres.DATABASE}", "dbname=copy")
            options = ("latest", *TENANT, "--into-database", target)
            shown = sbh("restore", "diff", *options)
            assert "dbname=copy" in shown.out
            ended = sbh("restore", "run", *options, "--confirm", "--json")
            assert ended.status == 0, ended.out
            assert ended.document["rows_inserted"] > 0
            assert ended.document["safety_backup_id"] is None
            assert sbh("restore", "diff", *options, "--quiet").out == "same\n"
        finally:
            cursor.execute("DROP DATABASE copy WITH (FORCE)")


SCHEMA = ("run", "latest", "--into-schema", "old")
SECRET = "host=db.invalid dbname=copy password=hunter2"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*SCHEMA, "--rows", "users where id = 1"), "--rows"),
        ((*SCHEMA, "--files", "**"), "--files"),
        ((*SCHEMA, "--mode", "missing-only", "--config-only"), "--config-only, --mode"),
        ((*SCHEMA, "--no-safety-backup"), "--no-safety-backup"),
        ((*SCHEMA, "--into-database", "dbname=copy"), "--into-database"),
        (("run", "latest", "--confirm", "--into-database", SECRET), "--password-file"),
        (("diff", "latest", "--into-database", "postgresql://u:hunter2@db.invalid/copy"), "passfile="),
        (("diff", "latest", "--into-database", "hunter2"), "libpq"),
        (("diff", "latest", "--into-database", "dbname=copy", "--files", "**"), "--files"),
        (("diff", "latest", "--password-file", "x"), "--into-database"),
        (("diff", "latest", "--tables", " , "), "--tables"),
        (("diff", "latest", "--rows", "users where id = 1", "--tables", "users"), "exclude"),
        (("diff", "latest", "--mode", "best"), "--mode"),
        (("diff", "latest", "--samples", "1000"), "samples"),
    ],
)
def test_options_that_make_no_sense_are_refused(sbh: Sbh, arguments: tuple[str, ...], says: str) -> None:
    """Before anything is looked at; and no password is repeated."""
    ended = sbh("restore", *arguments, *TENANT)
    assert ended.status == 2
    assert says in ended.err
    assert "hunter2" not in ended.err


def test_the_options_shown_ask_for_the_same() -> None:
    request = RestoreRequest(rows="users where name = 'O''Hara'", files=("a b/*", "c"), mode=MergeMode.MISSING_ONLY)
    assert run_command("b1", "t", request, "dbname=x user=y") == (
        "sbh restore run b1 --tenant t --rows 'users where name = '\"'\"'O'\"'\"''\"'\"'Hara'\"'\"'' --files 'a b/*'"
        " --files c --mode missing-only --into-database 'dbname=x user=y' --confirm"
    )
    tables = RestoreRequest.of(tables=["a", "s.b"], keep_extra_files=True, accept_schema_changes=True)
    assert as_typed(replace(tables, safety_backup=False)) == [
        "--tables", "a,s.b", "--keep-extra-files", "--accept-schema-changes", "--no-safety-backup",
    ]  # fmt: skip
    assert requested(tables="a, s.b", keep_extra_files=True, accept_schema_changes=True) == tables
    assert as_typed(requested(config_only=True, samples=3)) == ["--config-only"]
    assert requested() == RestoreRequest()


def test_figures_of_a_restore() -> None:
    assert bar(0) == "[........................]"
    assert bar(50) == "[############............]"
    assert scope_text(RestoreRequest().scope()) == "the whole tenant"
    both = RestoreRequest(tables=("a", "b"), files=("c/**",))
    assert scope_text(both.scope()) == "tables a, b; files c/**"
    assert scope_text(RestoreRequest(config_only=True).scope()) == "configuration only"
