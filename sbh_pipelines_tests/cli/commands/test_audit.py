"""`sbh audit` and `sbh report compliance` on real servers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.cli.commands.report import last_quarter
from sbh_pipelines.model import Tenant
from sbh_pipelines.repository.trail.event import PLATFORM
from sbh_pipelines.security.policy import UserContext
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.site import site_of

TENANT = "tenant-4"


@pytest.fixture
def tenant(sample_service: BackupService, admin: UserContext) -> Iterator[Tenant]:
    """A tenant with a trail of its own, whole at the beginning and at the end."""
    found = sample_service.tenants.find(TENANT)
    _clean(sample_service, found)
    sample_service.create_backup(TENANT, admin)
    yield found
    _clean(sample_service, found)


def _clean(service: BackupService, tenant: Tenant) -> None:
    store, prefix = site_of(service).backup_store(tenant)
    store.delete([info.key for info in store.list(prefix)])
    heads, below = site_of(service).audit_store(tenant.region)
    heads.delete([f"{below}heads/{tenant.id}.json"])


def test_events_are_listed_page_by_page(sbh: Sbh, settings_file: Path, tenant: Tenant) -> None:
    """Newest first, as a table and as JSON, by pattern, user and time; the list itself is recorded."""
    assert sbh("backup", "list", TENANT).status == 0
    found = sbh("audit", "list", TENANT, "--json")
    assert found.status == 0
    names = [event["event"] for event in found.document["events"]]
    assert names == ["audit.accessed", "backup.accessed", "backup.created", "key.created"]
    assert {event["via"] for event in found.document["events"][:2]} == {"cli"}
    page = sbh("audit", "list", TENANT, "--limit", "2", "--json").document
    following = sbh("audit", "list", TENANT, "--limit", "9", "--cursor", page["next"], "--json").document
    assert [e["seq"] for e in page["events"] + following["events"]] == [5, 4, 3, 2, 1]
    assert following["next"] is None
    (created,) = sbh("audit", "list", TENANT, "--event", "backup.c*", "--user", "tester", "--json").document["events"]
    assert created["props"]["type"] == "full"
    assert sbh("audit", "list", TENANT, "--since", "2999-01-01", "--json").document["events"] == []
    assert sbh("audit", "list", TENANT, "--until", "2020-01-01", "--json").document["events"] == []
    shown = sbh("audit", "list", TENANT)
    assert "backup.created" in shown.out
    assert "2 backup.created" in sbh("audit", "list", TENANT, "-q").out.splitlines()


def test_a_whole_trail_is_told_from_a_broken_one(
    sbh: Sbh, settings_file: Path, tenant: Tenant, sample_service: BackupService
) -> None:
    """Exit 8 with the number of the event, for one, for all, and by a note of an earlier end."""
    whole = sbh("audit", "verify", TENANT, "--json")
    assert (whole.status, whole.document["valid"]) == (0, True)
    assert "whole" in sbh("audit", "verify", TENANT).out
    assert sbh("audit", "verify", "--platform").status == 0
    trail = site_of(sample_service).trails.of(tenant)
    kept = trail.store.get(trail.link_key(2))
    trail.store.delete([trail.link_key(2)])
    broken = sbh("audit", "verify", TENANT, "--json")
    assert broken.status == 8
    assert {issue["code"] for issue in broken.document["issues"]} == {"SBH-606"}
    assert any("seq 2" in issue["on"] for issue in broken.document["issues"])
    assert "broken" in sbh("audit", "verify", TENANT).out
    everything = sbh("audit", "verify", "--all", "--json")
    assert everything.status == 8
    trails = {found["tenant_id"]: found for found in everything.document["trails"]}
    assert trails[TENANT]["valid"] is False
    assert trails[PLATFORM]["valid"] is True
    assert "broken" in sbh("audit", "verify", "--all").out
    trail.store.create(trail.link_key(2), kept)
    note = f"{whole.document['seq']}:{whole.document['hash']}"
    assert sbh("audit", "verify", TENANT, "--expect", note).status == 0
    assert sbh("audit", "verify", TENANT, "--expect", f"1:{'0' * 64}").status == 8
    assert sbh("audit", "verify", TENANT, "--expect", "nonsense", "--json").code == "SBH-200"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_exported_trail_is_verified_from_its_file(
    sbh: Sbh, settings_file: Path, tenant: Tenant, tmp_path: Path, kind: str
) -> None:
    """Without the store; a changed file is found; a file that exists is not overwritten."""
    file = tmp_path / f"trail.{kind}"
    assert sbh("audit", "export", TENANT, "--to", str(file), "--format", kind).status == 0
    assert file.stat().st_mode & 0o077 == 0
    checked = sbh("audit", "verify", "--file", str(file), "--json")
    assert (checked.status, checked.document["events"]) == (0, 3)
    assert sbh("audit", "export", TENANT, "--to", str(file), "--json").code == "SBH-200"
    file.write_text(file.read_text().replace("tester", "nobody"))
    assert sbh("audit", "verify", "--file", str(file)).status == 8
    file.write_text("not a trail\n")
    assert sbh("audit", "verify", "--file", str(file), "--json").code == "SBH-601"


def test_hostile_arguments_are_refused_clearly(sbh: Sbh, settings_file: Path, tmp_path: Path) -> None:
    """Slugs, times, files."""
    assert sbh("audit", "list", "../acme", "--json").code == "SBH-201"
    assert sbh("audit", "list", "nobody", "--json").code == "SBH-202"
    assert sbh("audit", "list", TENANT, "--since", "yesterday", "--json").code == "SBH-200"
    assert sbh("audit", "verify", "--json").code == "SBH-200"
    assert sbh("audit", "verify", TENANT, "--all", "--json").code == "SBH-200"
    assert sbh("audit", "verify", "--platform", "--region", "mars", "--json").code == "SBH-200"
    assert sbh("audit", "verify", "--file", str(tmp_path / "missing"), "--json").code == "SBH-200"
    assert sbh("audit", "export", TENANT, "--to", str(tmp_path / "no" / "\0"), "--json").status != 0


def test_the_compliance_report_has_the_figures_of_the_period(
    sbh: Sbh, settings_file: Path, tenant: Tenant, tmp_path: Path
) -> None:
    """True ones, as a table, as JSON and as Markdown; what is not known is said not to be."""
    assert sbh("backup", "validate", "latest", "--tenant", TENANT).status == 0
    period = ("--from", "2020-01-01", "--to", "2999-01-01")
    file = tmp_path / "report.md"
    ended = sbh("report", "compliance", *period, TENANT, "--write", str(file), "--json")
    assert ended.status == 0
    (line,) = ended.document["tenants"]
    assert (line["tenant_id"], line["backups"]["made"], line["backups"]["full"]) == (TENANT, 1, 1)
    assert (line["validated"], line["invalid"], line["audit"]["valid"]) == (1, 0, True)
    evidence = {control["subject"]: control["evidence"] for control in ended.document["controls"]}
    assert evidence["Backups are made"].startswith("1 backup of 1 tenant made, 0 failed")
    assert evidence["Time to recover"] == "not known: no drill in the period"
    assert evidence["The trail is whole"].startswith("1 of 1 trail verified whole")
    assert f"| {TENANT} | {tenant.region} | 1 | 0 |" in file.read_text()
    shown = sbh("report", "compliance", *period, TENANT)
    assert "Legal holds" in shown.out
    assert sbh("report", "compliance", *period, TENANT, "--write", str(file), "--json").code == "SBH-200"
    before = sbh("report", "compliance", "--from", "2020-01-01", "--to", "2020-02-01", TENANT, "--json").document
    assert before["totals"]["backups_made"] == 0
    assert sbh("report", "compliance", "--from", "2020-02-01", "--to", "2020-01-01", "--json").code == "SBH-200"
    assert json.loads(sbh("report", "compliance", *period, "--json").out)["platform"] is not None
    by_default = sbh("report", "compliance", TENANT)
    assert by_default.status == 0
    assert "the last full quarter; --from and --to choose another period" in by_default.out
    assert sbh("report", "compliance", "--from", "2020-01-01", "--json").code == "SBH-200"


@pytest.mark.parametrize(
    ("now", "since", "until"),
    [
        ("2024-01-01", "2023-10-01", "2024-01-01"),
        ("2024-03-31", "2023-10-01", "2024-01-01"),
        ("2024-04-01", "2024-01-01", "2024-04-01"),
        ("2024-12-31", "2024-07-01", "2024-10-01"),
    ],
)
def test_the_last_full_quarter(now: str, since: str, until: str) -> None:
    found = last_quarter(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [moment.date().isoformat() for moment in found] == [since, until]
