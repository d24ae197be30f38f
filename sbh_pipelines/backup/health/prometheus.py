"""Metrics in Prometheus' text format, from one examination.

Numbers of backups go down when retention forgets some, so they are gauges, whatever their names end with. Series by tenant
are bounded by `health.most_tenants`: tenants with trouble come first, then by slug; `sbh_tenants_without_series` counts
the others. The sums by type and region have all tenants in them.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from sbh_pipelines import __version__
from sbh_pipelines.backup.health.examination import Examination, drill_passed
from sbh_pipelines.backup.health.findings import (
    ALL_CHECKS,
    DRILLS,
    LAST,
    RETENTION,
    point_missed,
)
from sbh_pipelines.backup.health.observation import Observation, TypeSums
from sbh_pipelines.backup.health.report import DEGRADED, HEALTHY, UNHEALTHY, status, sums_by_type
from sbh_pipelines.model import Tenant, parse_timestamp
from sbh_pipelines.repository.format import FORMAT_VERSION
from sbh_pipelines.settings import Settings


def exposition(settings: Settings, examination: Examination) -> str:
    """The text that a scrape is answered with; content type `text/plain; version=0.0.4`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Examined(settings, examination))
    return generate_latest(registry).decode()


class _Gauges:
    """The families being filled, in the order of their first sample."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}

    def family(self, name: str, says: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
        return self._families.setdefault(name, GaugeMetricFamily(name, says, labels=list(labels)))

    def set(self, name: str, says: str, value: float | None, **labels: str) -> None:
        """None: there is no sample."""
        family = self.family(name, says, tuple(labels))
        if value is not None:
            family.add_metric(list(labels.values()), float(value))

    def all(self) -> Iterator[Metric]:
        yield from self._families.values()


class _Examined(Collector):
    def __init__(self, settings: Settings, examination: Examination) -> None:
        self._settings, self._examination = settings, examination
        self._wrong: dict[str, set[str]] = {}  # checks that do not hold, by tenant
        for finding in examination.findings:
            self._wrong.setdefault(finding.tenant, set()).add(finding.check)

    def collect(self) -> Iterator[Metric]:
        gauges = _Gauges()
        self._whole(gauges)
        self._sums(gauges)
        for seen in self._shown(gauges):
            self._tenant(gauges, seen)
        yield from gauges.all()
        yield self._durations()

    def _whole(self, gauges: _Gauges) -> None:
        found, now = self._examination, self._examination.examined_at.timestamp()
        python = platform.python_version()
        gauges.set(
            "sbh_build_info",
            "Always 1: the release.",
            1,
            version=__version__,
            python=python,
            format=str(FORMAT_VERSION),
        )
        service = status(found)
        for each in (HEALTHY, DEGRADED, UNHEALTHY):
            gauges.set("sbh_health_status", "1 for the state that holds.", each == service, status=each)
        false = {finding.check for finding in found.findings}
        for check in ALL_CHECKS:
            gauges.set("sbh_health_check", "1 where the check holds for all tenants.", check not in false, check=check)
        gauges.family("sbh_health_issues", "Findings.", ("check", "severity"))
        for (check, severity), number in sorted(Counter((f.check, f.severity) for f in found.findings).items()):
            gauges.set("sbh_health_issues", "Findings.", number, check=check, severity=severity)
        for region, state in sorted(found.regions.items()):
            gauges.set("sbh_storage_up", "1 where the region's bucket answers.", state.store, region=region)
            gauges.set("sbh_key_up", "1 where the region's key unwraps.", state.key, region=region)
        gauges.set("sbh_tenants", "Tenants that can be backed up.", len(found.tenants))
        gauges.set("sbh_tenants_unusable", "Tenants that cannot be backed up.", found.unusable)
        gauges.set("sbh_tenants_not_looked_at", "Tenants of which nothing was learned this time.", len(found.unseen))
        oldest = min((seen.observed_at.timestamp() for seen in found.observations.values()), default=now)
        gauges.set("sbh_metrics_age_seconds", "Age of the oldest look in these metrics.", max(now - oldest, 0.0))

    def _sums(self, gauges: _Gauges) -> None:
        found = self._examination
        observations = list(found.observations.values())
        sums, failed = sums_by_type(observations)
        for kind, own in sorted(sums.items()):
            self._outcome(gauges, "sbh_fleet_backups", kind, own.count, failed.pop(kind, 0))
            gauges.set("sbh_fleet_logical_bytes", "What the backups would bring back.", own.logical, type=kind)
            gauges.set("sbh_fleet_stored_bytes", "What the backups added to the store.", own.stored, type=kind)
            newest = own.newest.timestamp() if own.newest else None
            gauges.set("sbh_fleet_last_backup_success_timestamp_seconds", "The newest backup.", newest, type=kind)
        for kind, number in sorted(failed.items()):
            self._outcome(gauges, "sbh_fleet_backups", kind, 0, number)
        empty = sum(seen.newest is None and seen.error is None for seen in observations)
        gauges.set("sbh_tenants_without_backup", "Tenants that have no backup.", empty)
        gauges.set(
            "sbh_fleet_backups_damaged", "Manifests that cannot be read.", sum(seen.damaged for seen in observations)
        )
        gauges.set("sbh_fleet_drills", "Drills on record.", sum(seen.drills for seen in observations))
        drilled = [_seconds(d.finished_at) for seen in observations if (d := seen.newest_drill) and d.finished_at]
        gauges.set("sbh_fleet_last_drill_timestamp_seconds", "The newest drill.", max(drilled, default=None))
        overdue = any(f.check == DRILLS and f.kind == "drill_overdue" for f in found.findings)
        gauges.set("sbh_drill_overdue", "1 where there was no drill for too long.", overdue)
        self._tiers(gauges)

    def _tiers(self, gauges: _Gauges) -> None:
        found = self._examination
        ages: dict[str, list[float]] = {}
        missed: Counter[str] = Counter()
        for tenant in found.tenants:
            if tenant.id in found.ages:
                tier, age = self._settings.data_type(tenant.tier), found.ages[tenant.id]
                ages.setdefault(tier, []).extend([] if age is None else [age])
                missed[tier] += point_missed(self._settings, tenant, age)
        for tier, objective in sorted(self._settings.drill.recovery_point_objectives_s.items()):
            gauges.set("sbh_recovery_point_objective_seconds", "What was promised.", objective, tier=tier)
            worst = max(ages.get(tier, []), default=None)
            gauges.set("sbh_recovery_point_age_worst_seconds", "Of the tenant that would lose most.", worst, tier=tier)
            gauges.set("sbh_rpo_missed_tenants", "Tenants that miss their objective.", missed[tier], tier=tier)

    def _shown(self, gauges: _Gauges) -> list[Observation]:
        found, limit = self._examination, self._settings.health.most_tenants
        observations = [found.observations[t.id] for t in found.tenants if t.id in found.observations]
        observations.sort(key=lambda seen: (str(seen.tenant.id) not in self._wrong, seen.tenant.id))
        shown = observations[:limit] if self._settings.health.tenant_metrics else []
        gauges.set(
            "sbh_tenants_without_series", "Tenants left out of series by tenant.", len(observations) - len(shown)
        )
        return sorted(shown, key=lambda seen: seen.tenant.id)

    def _tenant(self, gauges: _Gauges, seen: Observation) -> None:
        tenant, name = seen.tenant, str(seen.tenant.id)
        for kind in sorted({*seen.sums, *seen.failed}):
            own = seen.sums.get(kind, TypeSums())
            self._outcome(gauges, "sbh_backups_total", kind, own.count, seen.failed.get(kind, 0), tenant=name)
            newest = own.newest.timestamp() if own.newest else None
            gauges.set("sbh_last_backup_success_timestamp_seconds", "The newest one.", newest, tenant=name, type=kind)
            gauges.set("sbh_backups_size_bytes", "Sum of their sizes.", own.size, tenant=name, type=kind)
            gauges.set("sbh_backups_stored_bytes", "What they added to the store.", own.stored, tenant=name, type=kind)
        newest_backup = seen.newest
        if newest_backup is not None and newest_backup.figures is not None:
            figures = newest_backup.figures
            gauges.set("sbh_last_backup_logical_bytes", "What it would bring back.", figures.logical, tenant=name)
            gauges.set("sbh_last_backup_rows", "Rows in the newest backup.", figures.rows, tenant=name)
            gauges.set("sbh_last_backup_files", "Files in the newest backup.", figures.files, tenant=name)
            gauges.set("sbh_last_backup_duration_seconds", "How long it took.", figures.seconds, tenant=name)
        failure = seen.newest_failure
        gauges.set(
            "sbh_last_backup_failure_timestamp_seconds",
            "The newest failure on record.",
            failure.failed_at.timestamp() if failure and failure.failed_at else None,
            tenant=name,
        )
        wrong = self._wrong.get(name, set())
        if seen.error is None:
            gauges.set(
                "sbh_last_backup_successful", "0 where it failed, or there is none.", LAST not in wrong, tenant=name
            )
            gauges.set("sbh_backups_damaged", "Manifests that cannot be read.", seen.damaged, tenant=name)
            gauges.set("sbh_backup_size_unusual", "1 where the newest one is odd.", bool(seen.unusual), tenant=name)
            gauges.set("sbh_retention_overdue_backups", "Backups the policy drops.", seen.doomed, tenant=name)
            gauges.set("sbh_retention_enforced", "0 where they ought to be gone.", RETENTION not in wrong, tenant=name)
        self._point(gauges, tenant)
        passed = drill_passed(seen)
        gauges.set("sbh_last_drill_passed", "Whether the newest drill did.", passed, tenant=name)
        drill = seen.newest_drill
        drilled = _seconds(drill.finished_at) if drill and drill.finished_at else None
        gauges.set("sbh_last_drill_timestamp_seconds", "The newest drill.", drilled, tenant=name)

    def _point(self, gauges: _Gauges, tenant: Tenant) -> None:
        age = self._examination.ages.get(tenant.id)
        if tenant.id not in self._examination.ages or self._settings.recovery_point_objective_s(tenant.tier) is None:
            return
        labels = {"tenant": str(tenant.id), "tier": self._settings.data_type(tenant.tier)}
        gauges.set("sbh_recovery_point_age_seconds", "What would be lost now.", age, **labels)
        missed = point_missed(self._settings, tenant, age)
        gauges.set("sbh_rpo_missed", "1 where that is more than the objective and its grace.", missed, **labels)

    def _durations(self) -> Metric:
        family = SummaryMetricFamily(
            "sbh_backup_duration_seconds", "Backups with a recorded duration.", labels=["type"]
        )
        sums, _ = sums_by_type(self._examination.observations.values())
        for kind, own in sorted(sums.items()):
            family.add_metric([kind], count_value=own.timed, sum_value=own.seconds)
        return family

    @staticmethod
    def _outcome(gauges: _Gauges, name: str, kind: str, good: int, bad: int, **labels: str) -> None:
        says = "Backups that are there, and failures on record."
        gauges.set(name, says, good, **labels, type=kind, outcome="success")
        gauges.set(name, says, bad, **labels, type=kind, outcome="failure")


def _seconds(text: str) -> float:
    return parse_timestamp(text).timestamp()
