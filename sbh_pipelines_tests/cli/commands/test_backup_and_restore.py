"""`sbh backup` and `sbh restore` on real servers."""

import json
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.cli.conftest import Sbh, sql

HOSTILE = (
    "../tenant-1", "tenant-1/../tenant-2", "tenant'1", 'tenant"1', "tenant-1; DROP TABLE users", "ténant", "租户",
    "\0", "tenant-1\0", "tenant-1\n", " tenant-1", "", ".", "..", "[red]x", "\x1b[31mred", "\udcff", "t" * 1000, "{tenant}",
    "%s", "tenant..1", "*",
)  # fmt: skip


@pytest.mark.parametrize("slug", HOSTILE, ids=ascii)
@pytest.mark.parametrize("command", ["create", "list", "show", "validate", "restore"])
def test_hostile_slugs_are_refused(sbh: Sbh, settings_file: Path, command: str, slug: str) -> None:
    """No name that is not a slug gets as far as a server, and none drives the terminal."""
    arguments = {
        "create": ("backup", "create", slug),
        "list": ("backup", "list", slug),
        "show": ("backup", "show", "latest", "--tenant", slug),
        "validate": ("backup", "validate", "latest", "--tenant", slug),
        "restore": ("restore", "run", "latest", "--tenant", slug, "--confirm"),
    }[command]
    ended = sbh(*arguments, "--json")
    assert (ended.status, ended.code) == (2, "SBH-201")
    shown = sbh(*arguments)
    assert shown.status == 2
    assert "Traceback" not in shown.err
    assert "\x1b[31m" not in shown.err
    assert len(shown.err) < 1000


@pytest.mark.parametrize("backup", [*HOSTILE, "backup_2024", "backup_20240115_1200/../../x"], ids=ascii)
def test_hostile_backup_ids_are_refused(sbh: Sbh, settings_file: Path, backup: str) -> None:
    for noun, verb, *more in (("backup", "show"), ("backup", "validate"), ("restore", "run", "--confirm")):
        ended = sbh(noun, verb, backup, "--tenant", "tenant-6", *more, "--json")
        assert ended.status == 2, (noun, verb)
        assert ended.code in ("SBH-201", "SBH-203")


def test_a_slug_that_looks_like_an_option_is_a_usage_error(sbh: Sbh, settings_file: Path) -> None:
    assert sbh("backup", "list", "--evil", "--json").status == 2
    ended = sbh("backup", "list", "--", "--json")
    assert ended.status == 2
    assert "SBH-201" in ended.err  # after `--` it is a value, so the error is text


def test_unknown_ones_are_named(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    assert sbh("backup", "list", "nobody", "--json").code == "SBH-202"
    assert sbh("backup", "show", "backup_20010101_0000", "--tenant", "tenant-6", "--json").code == "SBH-203"
    assert sbh("restore", "status", "restore_20010101_000000_abcdef", "-t", "tenant-6", "--json").code == "SBH-204"


def test_a_backup_is_made_listed_shown_and_validated(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    listed = sbh("backup", "list", "tenant-6", "--json").document
    assert backed_up in [manifest["id"] for manifest in listed]
    assert sbh("backup", "list", "tenant-6", "--quiet").out.split() == [manifest["id"] for manifest in listed]
    shown = sbh("backup", "show", "latest", "--tenant", "tenant-6", "--json").document
    assert shown["id"] == listed[0]["id"]
    assert sbh("backup", "status", "latest", "--tenant", "tenant-6", "--json").document["status"] == "completed"
    # `latest` and a time name a backup wherever an id does, and what is neither is told in words.
    now = f"@{listed[0]['recovery_point']['time']}"
    for named in ("latest", now):
        assert sbh("backup", "pin", named, "-t", "tenant-6", "-q").out.split() == [f"pin-{listed[0]['id']}"]
        assert sbh("backup", "unpin", named, "-t", "tenant-6").out.startswith(listed[0]["id"])
        assert sbh("backup", "status", named, "-t", "tenant-6", "--json").document["backup_id"] == listed[0]["id"]
        assert sbh("backup", "forget", "tenant-6", "--backup", named, "--json").code == "SBH-207"
    assert sbh("backup", "pin", "@2020-01-01", "-t", "tenant-6", "--json").code == "SBH-203"
    assert sbh("backup", "pin", "newest", "-t", "tenant-6", "--json").code == "SBH-201"
    for deep in ((), ("--deep",)):
        ended = sbh("backup", "validate", "latest", "--tenant", "tenant-6", "--json", *deep)
        assert ended.status == 0
        assert ended.document["valid"] is True
    for command in (
        ("list", "tenant-6"),
        ("show", "latest", "-t", "tenant-6"),
        ("validate", "latest", "-t", "tenant-6"),
    ):
        ended = sbh("backup", *command)
        assert ended.status == 0
        assert listed[0]["id"] in ended.out


def test_a_damaged_manifest_is_listed_as_an_error(
    sbh: Sbh, settings_file: Path, backed_up: str, sample_stack: Stack
) -> None:
    """The others are listed all the same."""
    client = sample_stack.s3_client()
    place = {"Bucket": "sbh-files-eu-west-1", "Key": "files/tenant-6/backups/manifests/backup_20200101_0000.json"}
    client.put_object(**place, Body=b"{}")
    try:
        ended = sbh("backup", "list", "tenant-6", "--json")
        assert ended.status == 8
        assert backed_up in [item.get("id") for item in ended.document]
        (error,) = [item["error"] for item in ended.document if "error" in item]
        assert "backup_20200101_0000" in error["on"]
        assert "backup_20200101_0000" in sbh("backup", "list", "tenant-6").out.replace("\n", "")
    finally:
        client.delete_object(**place)


def test_a_description_is_kept_and_is_no_markup(sbh: Sbh, settings_file: Path) -> None:
    text = "[red]before[/red] the 'migration' – ü \x1b[31m"
    ended = sbh("backup", "create", "tenant-6", "--description", text, "--json")
    assert ended.document["backups"][0]["description"] == text
    shown = sbh("backup", "show", "latest", "--tenant", "tenant-6").out
    assert "[red]before[/red] the 'migration' – ü" in shown
    assert "\x1b[31m" not in shown


def test_in_a_batch_one_tenant_fails_alone_and_the_exit_is_11(
    sbh: Sbh, settings_file: Path, sample_stack: Stack
) -> None:
    add = "INSERT INTO tenants (slug, name, region, tier, plan_id) SELECT 'afar', 'Afar', 'mars-1', 'archive', min(id) FROM plans"
    with sql(sample_stack, add, after="DELETE FROM tenants WHERE slug = 'afar'"):
        ended = sbh("backup", "create", "tenant-6", "afar", "tenant-6", "--json")
        assert ended.status == 11
        assert [manifest["tenant_id"] for manifest in ended.document["backups"]] == ["tenant-6"]
        (failed,) = ended.document["failed"]
        assert (failed["tenant_id"], failed["error"]["code"]) == ("afar", "SBH-120")
        shown = sbh("backup", "create", "tenant-6", "afar")
        assert shown.status == 11
        assert "SBH-120" in shown.out
        assert sbh("backup", "create", "afar", "--json").status == 3


def test_a_damaged_backup_is_not_valid_and_exits_8(sbh: Sbh, settings_file: Path, sample_stack: Stack) -> None:
    assert sbh("backup", "create", "tenant-5", "--json").status == 0
    s3, bucket = sample_stack.s3_client(), "sbh-files-eu-west-1"
    # Every pack: which of them the newest backup needs is not seen from outside.
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="files/tenant-5/backups/packs/")["Contents"]]
    packs = {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    try:
        for key in packs:
            s3.delete_object(Bucket=bucket, Key=key)
        ended = sbh("backup", "validate", "latest", "--tenant", "tenant-5", "--json")
        assert ended.status == 8
        assert ended.document["valid"] is False
        assert ended.document["issues"]
        shown = sbh("backup", "validate", "latest", "--tenant", "tenant-5")
        assert shown.status == 8
        assert "SBH-6" in shown.out
    finally:
        for key, body in packs.items():
            s3.put_object(Bucket=bucket, Key=key, Body=body)
    assert sbh("backup", "validate", "latest", "--tenant", "tenant-5", "--deep", "--json").status == 0


def test_a_restore_needs_its_confirmation(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    for arguments in (("--json",), ()):
        ended = sbh("restore", "run", "latest", "--tenant", "tenant-6", *arguments)
        assert ended.status == 2
    assert sbh("restore", "run", "latest", "--tenant", "tenant-6", "--json").code == "SBH-205"


def test_a_restore_brings_the_rows_back(sbh: Sbh, settings_file: Path, sample_stack: Stack, backed_up: str) -> None:
    where = "WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'tenant-6')"
    with sql(sample_stack, f"DELETE FROM payments {where}", f"UPDATE users SET name = 'nobody' {where}"):
        ended = sbh("restore", "run", "latest", "--tenant", "tenant-6", "--confirm", "--json")
    assert ended.status == 0, ended.out
    report = ended.document
    assert report["status"] == "completed"
    assert report["rows_inserted"] > 0
    assert report["rows_updated"] > 0
    status = sbh("restore", "status", report["restore_id"], "--tenant", "tenant-6", "--json").document
    assert (status["status"], status["progress"]) == ("completed", 100)
    again = sbh("restore", "run", "latest", "--tenant", "tenant-6", "--confirm")
    assert again.status == 0
    assert "0 inserted, 0 updated, 0 deleted" in again.out


@pytest.mark.parametrize(("typed", "status"), [("tenant-6\n", 0), ("tenant-5\n", 2), ("yes\n", 2), ("\n", 2)])
def test_on_a_terminal_the_slug_must_be_typed(settings_file: Path, backed_up: str, typed: str, status: int) -> None:
    """The prompt goes to standard error, so that a redirected standard output does not hide it; with --samples the plan too."""
    controller, terminal = pty.openpty()
    code = "import sys; from sbh_pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["restore", "run", "latest", "--tenant", "tenant-6", "--tables", "users", "--samples", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal
    ) as process:
        import os

        os.close(terminal)
        os.write(controller, typed.encode())
        shown = b""
        while True:
            try:
                shown += os.read(controller, 4096)
            except OSError:  # the terminal's other side is closed
                break
        process.wait()
        os.close(controller)
    assert process.returncode == status
    assert shown.index(b"public.users") < shown.index(b"Type the tenant's slug")
    assert (b"SBH-205" in shown) == (status == 2)


def test_all_tenants_at_once(sbh: Sbh, settings_file: Path) -> None:
    ended = sbh("backup", "create", "--all", "--json")
    assert ended.status == 0, json.dumps(ended.document["failed"])
    assert [manifest["tenant_id"] for manifest in ended.document["backups"]] == [f"tenant-{n}" for n in range(1, 7)]


def test_files_that_are_not_there_are_told_wherever_a_backup_is(
    sbh: Sbh, settings_file: Path, sample_stack: Stack
) -> None:
    """Counted, and some named, of the tenant that lacks them; the backup is whole all the same."""
    add = (
        "INSERT INTO files (tenant_id, name, storage_key, size, sha256) SELECT id, 'lost', 'files/tenant-4/lost ' || n, 1, '' FROM tenants, generate_series(1, 7) n"
        " WHERE slug = 'tenant-4'"
    )
    with sql(sample_stack, add, after="DELETE FROM files WHERE storage_key LIKE 'files/tenant-4/lost %'"):
        made = sbh("backup", "create", "tenant-3", "tenant-4")
    assert made.status == 0
    told = "7 files that rows refer to were not in the bucket"
    some = "files/tenant-4/lost 1, files/tenant-4/lost 2, files/tenant-4/lost 3, files/tenant-4/lost 4, files/tenant-4/lost 5, and 2 more"
    assert f"tenant-4: {told}: {some}" in made.out
    assert "tenant-3: " not in made.out
    assert f"{told}: {some}" in sbh("backup", "show", "latest", "-t", "tenant-4").out
    listed = sbh("backup", "list", "tenant-4").out
    assert "missing files" in listed
    assert told in listed
    validated = sbh("backup", "validate", "latest", "-t", "tenant-4")
    assert validated.status == 0
    assert f"{told}: {some}. The backup is whole without them." in validated.out
    assert "source_files_present" in sbh("health", "tenant-4").out
    assert sbh("backup", "create", "tenant-4", "-q").status == 0  # none is missing any more
    assert "missing files" in sbh("backup", "list", "tenant-4").out
    assert told not in sbh("backup", "list", "tenant-4").out
