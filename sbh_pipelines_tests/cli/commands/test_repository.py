"""`sbh repository prune` on real servers."""

from pathlib import Path

import pytest

from sbh_pipelines_tests.cli.conftest import Sbh


def test_a_plan_is_shown_and_carried_out(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    dry = sbh("repository", "prune", "tenant-6", "--dry-run", "--json")
    assert dry.status == 0
    (plan,) = dry.document["pruned"]
    assert plan["dry_run"] is True
    assert plan["packs_before"] > 0
    assert "put" not in plan["requests"]
    (done,) = sbh("repository", "prune", "tenant-6", "--json").document["pruned"]
    assert done["packs_deleted"] == 0  # all is young
    assert done["backups"] >= 1
    assert sbh("backup", "validate", backed_up, "--tenant", "tenant-6", "--deep", "--json").document["valid"]
    shown = sbh("repository", "prune", "tenant-6")
    assert "1 repository pruned" in shown.out
    assert sbh("repository", "prune", "tenant-6", "--quiet").out == "tenant-6\n"


def test_of_several_one_that_fails_fails_alone(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    ended = sbh("repository", "prune", "tenant-6", "nobody", "--dry-run", "--json")
    assert ended.status == 11
    assert [report["tenant_id"] for report in ended.document["pruned"]] == ["tenant-6"]
    assert ended.document["failed"][0]["error"]["code"] == "SBH-202"
    assert "nobody" in sbh("repository", "prune", "tenant-6", "nobody", "--dry-run").out


def test_all_tenants(sbh: Sbh, settings_file: Path, backed_up: str) -> None:
    """Those without backups are said to have none."""
    reports = sbh("repository", "prune", "--all", "--dry-run", "--json").document["pruned"]
    assert "tenant-6" in [report["tenant_id"] for report in reports]
    assert all("note" in report or report["packs_before"] for report in reports)


def test_with_all_tenants_the_journals_are_seen_to(
    sbh: Sbh, settings_file: Path, backed_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "true")
    assert "journals" not in sbh("repository", "prune", "tenant-6", "--dry-run", "--json").document
    (journal, *_) = sbh("repository", "prune", "--all", "--dry-run", "--json").document["journals"]
    assert (journal["dry_run"], journal["removed"], journal["issues"]) == (True, [], [])
    assert "The change journal, as it would be" in sbh("repository", "prune", "--all", "--dry-run").out


@pytest.mark.parametrize("arguments", [(), ("tenant-6", "--all")])
def test_tenants_or_all_must_be_said(sbh: Sbh, settings_file: Path, arguments: tuple[str, ...]) -> None:
    assert sbh("repository", "prune", *arguments, "--json").code == "SBH-200"


def test_a_malformed_slug_is_refused(sbh: Sbh, settings_file: Path) -> None:
    assert sbh("repository", "prune", "../tenant-6", "--json").code == "SBH-201"


def test_on_a_real_store_what_is_retired_goes(
    sbh: Sbh, settings_file: Path, backed_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small packs are merged and the old ones deleted, by the times and the listings of an S3 server."""
    monkeypatch.setenv("SBH_PRUNE__MIN_AGE_HOURS", "0")
    monkeypatch.setenv("SBH_PRUNE__SMALL_PACKS", "2")
    reports = [sbh("repository", "prune", "tenant-6", "--json").document["pruned"][0] for _ in range(2)]
    assert reports[0]["packs_rewritten"] > 1
    assert reports[1]["packs_deleted"] == reports[0]["packs_rewritten"]
    assert reports[1]["bytes_freed"] > 0
    assert sbh("backup", "validate", backed_up, "--tenant", "tenant-6", "--deep", "--json").document["issues"] == []
