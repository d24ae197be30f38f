"""`sbh backup create --at` and `sbh restore … @TIME` against the real stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import utc_now
from sbh_pipelines_tests.cli.conftest import Sbh, sql

TENANT = "tenant-2"


@pytest.fixture
def journal(sbh: Sbh, settings_file: Path) -> Iterator[Sbh]:
    """A journal that was just set up, and a backup after it; given up afterwards, so that no slot stays."""
    assert sbh("backup", "create", TENANT, "--quiet").status == 0
    done = sbh("journal", "setup", "--json")
    assert done.status == 0, done.out
    assert sbh("backup", "create", TENANT, "--quiet").status == 0
    yield sbh
    assert sbh("journal", "drop", "--confirm", "sbh_journal", "--json").status == 0


def test_a_bad_transaction_is_found_looked_at_and_undone(journal: Sbh, sample_stack: Stack) -> None:
    since = utc_now().isoformat()  # the server's is this machine's clock
    with sql(
        sample_stack,
        "UPDATE users SET name = 'good' WHERE tenant_id = 2",
        "UPDATE users SET name = 'bad' WHERE tenant_id = 2",
    ):
        assert journal("journal", "drain", "-q").status == 0
        found = journal("journal", "show", TENANT, "--since", since, "--table", "users", "--json")
        (bad,) = found.document["transactions"]
        plan = journal("restore", "diff", f"@xid:{bad['xid']}", "-t", TENANT, "--json")
        assert plan.status == 0, plan.out
        assert plan.document["moment"]["first_out"]["xid"] == bad["xid"]
        shown = journal("restore", "diff", f"@xid:{bad['xid']}", "-t", TENANT)
        for words in ("put together from", "first left out", "last transaction in", plan.document["backup_id"]):
            assert words in shown.out
        assert (
            journal("backup", "create", TENANT, "--before", str(bad["xid"]), "-q").out.strip()
            == plan.document["backup_id"]
        )
        assert "put together for a moment" in journal("backup", "show", plan.document["backup_id"], "-t", TENANT).out
        done = journal("restore", "run", f"@xid:{bad['xid']}", "-t", TENANT, "--tables", "users", "--confirm", "--json")
        assert done.status == 0, done.out
        assert done.document["backup_id"] == plan.document["backup_id"]
        assert done.document["rows_updated"] > 0


def test_a_moment_is_asked_for_in_one_way_and_of_one_tenant(journal: Sbh) -> None:
    for arguments in (
        ("--at", "2026-01-15T14:32", "--before", "812345"),
        ("--tables", "users"),
        ("tenant-3", "--at", "2026-01-15T14:32"),
        ("--at", "yesterday"),
        ("--before", "two"),
        ("--lsn", "16"),
    ):
        refused = journal("backup", "create", TENANT, *arguments, "--json")
        assert (refused.status, refused.code[:5]) == (2, "SBH-2"), refused.out
    early = journal("backup", "create", TENANT, "--at", "2020-01-15T14:32", "--json")
    assert (early.status, early.code) == (8, "SBH-622"), early.out
    late = journal("backup", "create", TENANT, "--at", "2099-01-15T14:32", "--json")
    assert late.code == "SBH-622"
    assert f"sbh backup create {TENANT} --at 20" in late.document["error"]["remedy"]
