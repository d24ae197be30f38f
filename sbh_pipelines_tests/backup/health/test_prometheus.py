"""Metrics as Prometheus reads them, and the files in `deploy/` that ask for them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application

DEPLOY = Path(__file__).parents[3] / "deploy"
SUMMARY = "sbh_backup_duration_seconds"


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, metric: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    ]
    return found


@pytest.fixture
def service(application: Application) -> BackupService:
    made = application.service(health={"refresh_s": 0})
    made.backups.create_all([ACME, BOLT], ADMIN)
    return made


def test_the_figures_are_those_of_the_metrics(application: Application, service: BackupService) -> None:
    application.database.run("UPDATE projects SET body = 'x' WHERE tenant_id = 1", "CREATE TABLE stray (id int)")
    failed = service.backups.create_all([ACME], ADMIN)
    assert failed[0].error is not None
    application.database.run("DROP TABLE stray")
    text, known = service.health.prometheus_text(ADMIN), service.health.metrics(ADMIN)
    assert value(text, "sbh_backups_total", tenant=ACME, type="full", outcome="success") == 1
    assert value(text, "sbh_backups_total", tenant=ACME, type="full", outcome="failure") == 1
    assert value(text, "sbh_fleet_backups", type="full", outcome="success") == known.backups_successful == 2
    assert value(text, "sbh_fleet_stored_bytes", type="full") == known.stored_bytes_total
    assert value(text, SUMMARY + "_sum", type="full") == pytest.approx(2 * known.backup_duration_avg, abs=0.002)
    assert value(text, "sbh_last_backup_successful", tenant=ACME) == 0
    assert value(text, "sbh_last_backup_successful", tenant=BOLT) == 1
    assert value(text, "sbh_health_status", status="degraded") == 1
    assert value(text, "sbh_health_check", check="last_backup_successful") == 0
    assert value(text, "sbh_recovery_point_age_seconds", tenant=ACME, tier="critical") < 60
    assert value(text, "sbh_rpo_missed", tenant=ACME, tier="critical") == 0
    assert value(text, "sbh_recovery_point_objective_seconds", tier="critical") == 3600
    assert value(text, "sbh_storage_up", region="eu-west-1") == value(text, "sbh_key_up", region="eu-west-1") == 1


def test_a_store_that_is_down_is_a_metric_and_no_error(application: Application, service: BackupService) -> None:
    application.bucket.rename(application.bucket.with_name("away"))
    text = service.health.prometheus_text(ADMIN)
    assert value(text, "sbh_storage_up", region="eu-west-1") == 0
    assert value(text, "sbh_health_status", status="unhealthy") == 1
    assert value(text, "sbh_tenants_not_looked_at") == 2


@pytest.mark.parametrize(("most", "on", "shown"), [(1, True, {BOLT}), (0, True, set()), (9, False, set())])
def test_series_by_tenant_are_bounded_and_those_with_trouble_come_first(
    application: Application, most: int, on: bool, shown: set[str]
) -> None:
    """`bolt` has no backup; the sums have all tenants in them, whoever has series of his own."""
    service = application.service(health={"refresh_s": 0, "most_tenants": most, "tenant_metrics": on})
    service.create_backup(ACME, ADMIN)
    text = service.health.prometheus_text(ADMIN)
    found = {s.labels["tenant"] for f in families(text).values() for s in f.samples if "tenant" in s.labels}
    assert found == shown
    assert value(text, "sbh_tenants_without_series") == 2 - len(shown)
    assert value(text, "sbh_fleet_backups", type="full", outcome="success") == 1
    assert value(text, "sbh_tenants") == 2


def test_names_are_prometheus_names_and_every_family_is_explained(service: BackupService) -> None:
    for name, family in families(service.health.prometheus_text(ADMIN)).items():
        assert re.fullmatch(r"sbh_[a-z_]+", name)
        assert family.documentation.endswith((".", "release")), name
        labels = [tuple(sorted(sample.labels)) for sample in family.samples if not sample.name.endswith("_bucket")]
        assert len(set(labels)) <= 1, f"{name} has series with different labels"


def test_a_site_that_has_a_name_is_on_every_sample_and_in_the_recovery_report(application: Application) -> None:
    service = application.service(site={"name": "eu"})
    text = service.health.prometheus_text(ADMIN)
    assert {s.labels.get("site") for family in families(text).values() for s in family.samples} == {"eu"}
    assert service.drills.report(ADMIN).site == "eu"


def _queries(document: Any) -> Iterator[str]:
    """Whatever is asked of Prometheus in a dashboard or a file of rules."""
    if isinstance(document, dict):
        for key, inner in document.items():
            if key in ("expr", "definition") and isinstance(inner, str):
                yield inner
            else:
                yield from _queries(inner)
    elif isinstance(document, list):
        for inner in document:
            yield from _queries(inner)


def _documents() -> list[tuple[str, Any]]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
    return [("dashboard", dashboard), ("rules", yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text("utf-8")))]


@pytest.mark.parametrize(("name", "document"), _documents())
def test_what_is_asked_for_is_exported_with_the_labels_it_is_asked_by(
    service: BackupService, name: str, document: Any
) -> None:
    exported: dict[str, set[str]] = {}
    for family in families(service.health.prometheus_text(ADMIN)).values():
        exported.setdefault(family.name, set())
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    queries = list(_queries(document))
    assert len(queries) > 10
    for query in queries:
        for metric, selector in re.findall(r"\b(sbh_\w+)(\{[^}]*\})?", query):
            assert metric in exported, f"{name}: {query}"
            asked = set(re.findall(r'(\w+)\s*[=!]~?\s*"', selector))
            without_samples = not exported[metric]  # nothing of the kind has happened yet
            assert without_samples or asked <= exported[metric], f"{name}: {query}"


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana refuses: a missing title, panels with one id, panels that lie over each other, an unknown data source."""
    dashboard = dict(_documents())["dashboard"]
    assert dashboard["title"]
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 36
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all(target["expr"] for target in panel["targets"])
    assert {v["name"] for v in dashboard["templating"]["list"]} == {"datasource", "tenant"}


def test_every_rule_says_what_to_do_next() -> None:
    rules = [rule for group in dict(_documents())["rules"]["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "next"} <= set(rule["annotations"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
