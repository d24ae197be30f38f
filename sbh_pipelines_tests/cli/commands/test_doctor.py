"""`sbh doctor` in a world that is really broken: each break is found, named, and mended by the remedy it prints."""

from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.cli.conftest import Sbh, sql


def findings(document: Any, level: str) -> list[dict[str, str]]:
    return [finding for finding in document["findings"] if finding["level"] == level]


def the_only(document: Any, level: str, words: str) -> dict[str, str]:
    (found,) = [finding for finding in findings(document, level) if words in finding["what"]]
    return found


def test_a_sound_world_has_no_error(sbh: Sbh, settings_file: Path) -> None:
    ended = sbh("doctor", "--write", "--json")
    assert ended.status == 0
    assert ended.document["ok"] is True
    assert [finding["what"] for finding in findings(ended.document, "warning")] == [
        "Data keys are wrapped by a file on this machine"
    ]
    areas = {finding["area"] for finding in ended.document["findings"]}
    known = {"settings", "machine", "database", "clocks", "platform", "tenancy", "tenants", "storage", "keys"}
    known |= {"transit", "residency", "journal"}
    assert areas == known
    statuses = {table["name"]: table["status"] for table in ended.document["tables"]}
    assert statuses["tasks"] == "owned"
    assert statuses["attachments"] == "inherited"
    assert statuses["plans"] == "shared"
    assert statuses["sessions"] == "excluded"
    assert statuses["tenants"] == "tenants"
    shown = sbh("doctor")
    assert shown.status == 0
    assert "0 errors, 1 warning" in shown.out


def test_a_pg_dump_that_will_not_do_is_named(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A warning where it is missing or too old: tenants can be backed up all the same. An error where it has a known hole."""
    monkeypatch.setenv("SBH_PLATFORM__PG_DUMP", "/nowhere/pg_dump")
    ended = sbh("doctor", "--json")
    assert ended.status == 0
    assert "platform.pg_dump" in the_only(ended.document, "warning", "pg_dump cannot be run")["remedy"]
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 17.6'\n")
    old.chmod(0o755)
    monkeypatch.setenv("SBH_PLATFORM__PG_DUMP", str(old))
    assert "the server: 18" in the_only(sbh("doctor", "--json").document, "warning", "older than the server")["detail"]
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 17.5'\n")
    assert "17.6" in the_only(sbh("doctor", "--json").document, "error", "known hole")["remedy"]


def test_write_leaves_nothing_behind(sbh: Sbh, settings_file: Path, sample_stack: Stack) -> None:
    assert sbh("doctor", "--write", "--json").status == 0
    for bucket in ("sbh-files-eu-west-1", "sbh-files-us-east-1"):
        assert "Contents" not in sample_stack.s3_client().list_objects_v2(Bucket=bucket, Prefix="_doctor/")


def test_an_unmapped_and_an_ambiguous_table_are_errors(sbh: Sbh, settings_file: Path, sample_stack: Stack) -> None:
    make = (
        'CREATE TABLE "New Things" (id int PRIMARY KEY)',
        "CREATE TABLE transfers (id int PRIMARY KEY, a bigint REFERENCES users, b bigint REFERENCES projects)",
    )
    with sql(sample_stack, *make, after='DROP TABLE "New Things", transfers'):
        ended = sbh("doctor", "--json")
        assert ended.status == 3
        unmapped = the_only(ended.document, "error", "public.New Things is unmapped")
        assert 'in [database]: shared = ["plans", "public.New Things"]' in unmapped["remedy"]
        ambiguous = the_only(ended.document, "error", "public.transfers is ambiguous")
        assert "[[database.links]]" in ambiguous["remedy"]
        shown = sbh("doctor")
        assert shown.status == 3
        assert "to mend it: " in shown.out
    assert sbh("doctor", "--json").status == 0


def test_rows_of_no_tenant_are_counted(sbh: Sbh, settings_file: Path, sample_stack: Stack) -> None:
    make = (
        "CREATE TABLE loose (id int PRIMARY KEY, tenant_id bigint)",
        "INSERT INTO loose VALUES (1, NULL), (2, NULL), (3, 999999), (4, 1)",
        "CREATE TABLE loose_notes (id int PRIMARY KEY, task_id bigint REFERENCES tasks)",
        "INSERT INTO loose_notes VALUES (1, NULL)",
        "GRANT ALL ON loose, loose_notes TO sbh_backup",
    )
    with sql(sample_stack, *make, after="DROP TABLE loose, loose_notes"):
        ended = sbh("doctor", "--json")
        assert ended.status == 0  # a backup can be made; what it leaves out is said
        assert the_only(ended.document, "warning", "Rows of no tenant in public.loose: 2")
        assert the_only(ended.document, "warning", "Rows of unlisted tenants in public.loose: 1")
        assert the_only(ended.document, "warning", "Rows of no tenant in public.loose_notes: 1")


def test_missing_privileges_name_their_grant_and_the_grant_mends_it(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "SBH_DATABASE__DSN",
        sample_stack.dsn("sbh_backup").replace("user=sbh_backup", "user='Poor Role'").partition(" passfile")[0],
    )
    monkeypatch.setenv("SBH_DATABASE__PASSWORD", "poor")
    make = (
        "CREATE ROLE \"Poor Role\" LOGIN PASSWORD 'poor'",
        'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "Poor Role"',
        'REVOKE SELECT ON payments FROM "Poor Role"',
        "REVOKE TEMPORARY ON DATABASE app FROM PUBLIC",
    )
    undo = 'DROP OWNED BY "Poor Role"; DROP ROLE "Poor Role"; GRANT TEMPORARY ON DATABASE app TO PUBLIC'
    with sql(sample_stack, *make, after=undo):
        ended = sbh("doctor", "--json")
        assert ended.status == 3
        errors = findings(ended.document, "error")
        for words in (
            "see all rows",
            "keep triggers from firing",
            "create temporary tables",
            "public.payments: backups fail",
        ):
            assert the_only(ended.document, "error", words)["remedy"].endswith(";")
        assert the_only(ended.document, "error", "public.tasks: restores fail")["detail"] == "INSERT, UPDATE, DELETE"
        # Only a hint: restores work without it, but for --into-schema.
        grant = the_only(ended.document, "ok", "may not create schemas")["detail"]
        remedies = [error["remedy"] for error in errors if error["area"] == "database"]
        with sql(sample_stack, *remedies, grant):
            assert the_only(sbh("doctor", "--json").document, "ok", "may create schemas")
            assert sbh("doctor", "--json").status == 0


def test_a_shared_table_that_tenants_rows_refer_to_must_be_held(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore keeps the row there until it commits; the grant that is printed is enough, and less is not."""
    dsn = sample_stack.dsn("sbh_backup").replace("user=sbh_backup", "user=poor").partition(" passfile")[0]
    monkeypatch.setenv("SBH_DATABASE__DSN", dsn)
    monkeypatch.setenv("SBH_DATABASE__PASSWORD", "poor")
    make = (
        "CREATE ROLE poor LOGIN BYPASSRLS PASSWORD 'poor'",
        "GRANT SET ON PARAMETER session_replication_role TO poor",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO poor",
        "GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA public TO poor",
        "REVOKE UPDATE ON plans FROM poor",
    )
    with sql(sample_stack, *make, after="DROP OWNED BY poor; DROP ROLE poor"):
        found = the_only(sbh("doctor", "--json").document, "error", "may not hold rows of public.plans")
        assert found["remedy"] == 'GRANT UPDATE ON "public"."plans" TO "poor";'
        with sql(sample_stack, found["remedy"]):
            assert not findings(sbh("doctor", "--json").document, "error")


def test_a_tenant_where_its_data_may_not_lie_is_named(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_RESIDENCY__TENANTS", '{"tenant-1": ["us-east-1"]}')
    monkeypatch.setenv("SBH_RESIDENCY__MOVED", '["tenant-2"]')
    document = sbh("doctor", "--json").document
    found = the_only(document, "error", "in regions where their data may not lie")
    assert found["detail"] == "tenant-1 (eu-west-1)"
    assert "tenant-2" in the_only(document, "warning", "move to another region is accepted")["detail"]


def test_bad_tenants_are_named(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_TENANTS__TABLE", "customers")
    monkeypatch.setenv("SBH_DATABASE__SHARED", '["plans", "tenants"]')
    make = (
        "CREATE TABLE customers (id bigint PRIMARY KEY, slug text, region text, tier text)",
        "INSERT INTO customers VALUES (1, 'tenant-1', 'eu-west-1', 'critical'), (2, '../etc', 'eu-west-1', NULL),"
        " (3, 'twice', 'eu-west-1', 'archive'), (4, 'twice', 'eu-west-1', 'archive'), (5, 'Case', 'eu-west-1', 'gold'),"
        " (6, 'case', 'eu-west-1', 'archive'), (7, 'afar', 'mars-1', 'archive'), (8, NULL, 'eu-west-1', 'archive')",
    )
    with sql(sample_stack, *make, after="DROP TABLE customers"):
        ended = sbh("doctor", "--json")
    assert ended.status == 3
    assert (
        the_only(ended.document, "error", "Tenants that cannot be backed up, for want of a valid slug: 2")["detail"]
        == "2='../etc', 8=None"
    )
    assert (
        the_only(ended.document, "error", "Tenants that share a slug, so that their backups would mix: 1")["detail"]
        == "twice"
    )
    assert "afar (mars-1)" in the_only(ended.document, "error", "regions where no backup")["detail"]
    assert the_only(ended.document, "warning", "only by case")["detail"] == "case"
    assert the_only(ended.document, "warning", "tier that no policy knows")["detail"] == "Case (gold)"


@pytest.mark.parametrize(
    ("name", "value", "level", "words"),
    [
        ("SBH_STORAGE__BUCKET", "no-such-bucket-{region}", "error", "No such bucket"),
        ("SBH_STORAGE__ENDPOINT_URL", "http://127.0.0.1:1", "error", "Cannot reach the store"),
        ("SBH_STORAGE__SECRET_ACCESS_KEY", "wrong", "error", "The store refused"),
        ("SBH_STORAGE__ENDPOINT_URL", "http://s3.example.invalid", "error", "storage.endpoint_url is not encrypted"),
        ("SBH_KEYS__KMS_ENDPOINT_URL", "http://kms.example.invalid", "error", "keys.kms_endpoint_url is not encrypted"),
        ("SBH_RESIDENCY__PROVE", "always", "error", "Nothing proves in which region"),
        ("SBH_DATABASE__DSN", "host=127.0.0.1 port=1", "error", "Cannot connect to the database"),
        ("SBH_DATABASE__PASSWORD", "wrong", "error", "Cannot connect to the database"),
        ("SBH_DATABASE__SCHEMAS", '["none"]', "error", "A setting names a table that does not exist"),
        ("SBH_TENANTS__TABLE", "customers", "error", "The tenants table does not exist"),
        ("SBH_TENANTS__REGION", "planet", "error", "The tenants table has no such column"),
        ("SBH_KEYS__KEY_FILE", "/nonexistent/key", "error", "Cannot read keys.key_file"),
        ("SBH_STORAGE__BUCKET", "sbh-locked-eu-west-1", "warning", "Data keys are wrapped"),
    ],
)
def test_one_thing_broken_is_found_and_the_rest_is_still_checked(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, level: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    ended = sbh("doctor", "--json")
    assert ended.status == (3 if level == "error" else 0)
    found = [finding for finding in findings(ended.document, level) if words in finding["what"]]
    assert found
    assert all(finding["remedy"] for finding in found)
    areas = {finding["area"] for finding in ended.document["findings"]}
    assert {"settings", "machine", "database", "storage", "keys"} <= areas


def test_a_wrong_key_file_is_an_error(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("c2hvcnQ=")
    key.chmod(0o644)
    monkeypatch.setenv("SBH_KEYS__KEY_FILE", str(key))
    ended = sbh("doctor", "--json")
    assert ended.status == 3
    assert the_only(ended.document, "error", "The key file is not a key")
    assert (
        the_only(ended.document, "warning", "Others on this machine can read keys.key_file")["remedy"]
        == f"chmod 600 {key}"
    )


def test_kms_is_tried_in_every_region(sbh: Sbh, embedded_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_SETTINGS", str(embedded_stack.settings))
    monkeypatch.setenv("SBH_KEYS__PROVIDER", "aws-kms")
    document = sbh("doctor", "--json").document
    (*fine,) = [finding for finding in document["findings"] if finding["area"] == "keys"]
    assert [finding["level"] for finding in fine] == ["ok", "ok"]
    monkeypatch.setenv("SBH_KEYS__KMS_KEY_ID", "alias/no-such-key")
    document = sbh("doctor", "--json").document
    assert [finding["what"] for finding in document["findings"] if finding["area"] == "keys"] == [
        "The KMS key does not exist"
    ] * 2


def test_secrets_that_others_can_read_are_pointed_out(sbh: Sbh, sample_stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "sbh.toml"
    file.write_text(
        sample_stack.settings.read_text().replace(
            'password_file = "', f'password = "hush"\npassword_file = "{sample_stack.dir}/'
        )
    )
    file.chmod(0o644)
    ended = sbh("doctor", "--settings", str(file), "--json")
    finding = the_only(ended.document, "warning", "Others on this machine can read secrets in the settings file")
    assert finding["detail"] == "database.password, journal.password"
    assert "hush" not in ended.out


def test_invalid_settings_are_an_error_of_the_settings(sbh: Sbh, tmp_path: Path) -> None:
    file = tmp_path / "sbh.toml"
    file.write_text("[database]\nnonsense = 1\n")
    ended = sbh("doctor", "--settings", str(file), "--json")
    assert (ended.status, ended.code) == (3, "SBH-100")


def test_a_local_directory_is_checked(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SBH_STORAGE__KIND", "local")
    monkeypatch.setenv("SBH_STORAGE__PATH", str(tmp_path / "store"))
    assert the_only(sbh("doctor", "--json").document, "warning", "does not exist yet")
    (tmp_path / "store").mkdir()
    ended = sbh("doctor", "--write", "--json")
    assert ended.status == 0
    assert [f["what"] for f in ended.document["findings"] if f["area"] == "storage" and f["level"] == "ok"] == [
        "The directory for backups can be written",
        "Objects can be written and read in sbh-files-eu-west-1",
        "Objects can be written and read in sbh-files-us-east-1",
    ]
