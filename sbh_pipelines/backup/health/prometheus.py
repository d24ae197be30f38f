"""Metrics in Prometheus' text format, from one examination.

Numbers of backups go down when retention forgets some, so they are gauges, whatever their names end with. Series by tenant
are bounded by `health.most_tenants`: tenants with trouble come first, then by slug; `sbh_tenants_without_series` counts
the others. The sums by type and region have all tenants in them.
"""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from sbh_pipelines import __version__
from sbh_pipelines.backup.copies.status import WORST_FIRST
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

_SLOT_STATES = ("reserved", "extended", "unreserved", "lost", "none")
_OF_COPIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sbh_copy_objective_seconds": ("How old recovery points there may become.", ("copy",)),
    "sbh_copy_worst_lag_seconds": ("Of the tenant whose recovery point there is oldest.", ("copy",)),
    "sbh_copy_tenants": ("Tenants by how they stand at the copy.", ("copy", "standing")),
    "sbh_copy_steps_failed": ("Steps of regions that the last run could not do: catalog, trail, journal.", ("copy",)),
    "sbh_copy_misplaced_tenants": ("Tenants whose backups lie there and may not.", ("copy",)),
    "sbh_copy_lag_seconds": ("Age of the tenant's recovery point that was verified there.", ("tenant", "copy")),
}
_OF_THE_JOURNAL: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sbh_journal_lag_seconds": ("Since the journal was drained.", ("region",)),
    "sbh_journal_segments": ("Stored objects of the journal.", ("region",)),
    "sbh_journal_bytes": ("Their size.", ("region",)),
    "sbh_journal_tables": ("Tables that are told up to the last drain.", ("region",)),
    "sbh_journal_gaps_total": ("Gaps on record.", ("region",)),
    "sbh_journal_held_bytes": ("Of the server's log, that the slot holds.", ()),
    "sbh_journal_limit_bytes": ("At which the slot is dropped.", ()),
    "sbh_journal_slot_state": ("1 for the state that holds.", ("state",)),
    "sbh_journal_broken": ("1 where the next drain has to begin anew.", ()),
    "sbh_pitr_tenants": ("Tenants all of whose rows are told since their newest backup.", ()),
    "sbh_pitr_tenants_without": ("The others.", ()),
    "sbh_pitr_worst_seconds_behind": ("Of the tenant that is told least far.", ()),
    "sbh_pitr_seconds_behind": ("Since when the tenant's rows are in no journal.", ("tenant",)),
}


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
        self._journal(gauges)
        self._copies(gauges)
        for seen in self._shown(gauges):
            self._tenant(gauges, seen)
        for metric in (*gauges.all(), self._durations()):
            yield self._of_site(metric)

    def _of_site(self, metric: Metric) -> Metric:
        """With the site as a label, where it has a name: several sites' metrics may be gathered under one job."""
        if name := self._settings.site.name:
            metric.samples = [sample._replace(labels={"site": name, **sample.labels}) for sample in metric.samples]
        return metric

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
        missing = sum(seen.files_missing for seen in observations)
        gauges.set("sbh_fleet_files_missing", "Files that rows refer to and newest backups lack.", missing)
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

    def _journal(self, gauges: _Gauges) -> None:
        """No samples where the journal is off, or the caller sees one tenant only."""
        journal = self._examination.journal
        for name, (says, labels) in _OF_THE_JOURNAL.items():
            gauges.family(name, says, labels)

        def put(name: str, value: float | None, **labels: str) -> None:
            gauges.set(name, _OF_THE_JOURNAL[name][0], value, **labels)

        for region, told in sorted(journal.regions.items()):
            put("sbh_journal_lag_seconds", told.behind_s, region=region)
            put("sbh_journal_segments", told.segments, region=region)
            put("sbh_journal_bytes", told.bytes, region=region)
            put("sbh_journal_tables", told.tables, region=region)
            put("sbh_journal_gaps_total", told.gaps, region=region)
        if (outlook := journal.outlook) is not None:
            put("sbh_journal_held_bytes", outlook.held_bytes)
            put("sbh_journal_limit_bytes", outlook.limit_bytes)
            state = outlook.slot.wal_status if outlook.slot is not None else "none"
            for each in _SLOT_STATES:
                put("sbh_journal_slot_state", each == state, state=each)
            put("sbh_journal_broken", outlook.found is not None)
        if journal.regions:
            put("sbh_pitr_tenants", len(journal.behind))
            put("sbh_pitr_tenants_without", len(self._examination.observations) - len(journal.behind))
            put("sbh_pitr_worst_seconds_behind", max(journal.behind.values(), default=None))

    def _copies(self, gauges: _Gauges) -> None:
        """No samples where there are no copies, or the caller sees one tenant only."""
        for name, (says, labels) in _OF_COPIES.items():
            gauges.family(name, says, labels)

        def put(name: str, value: float | None, **labels: str) -> None:
            gauges.set(name, _OF_COPIES[name][0], value, **labels)

        for copy in self._examination.copies.copies:
            put("sbh_copy_objective_seconds", copy.objective_s, copy=copy.name)
            put("sbh_copy_worst_lag_seconds", copy.worst_lag_s, copy=copy.name)
            standings = Counter(line.standing for line in copy.tenants)
            for standing in WORST_FIRST:
                put("sbh_copy_tenants", standings[standing], copy=copy.name, standing=standing)
            put("sbh_copy_steps_failed", len(copy.steps), copy=copy.name)
            put("sbh_copy_misplaced_tenants", sum(line.misplaced for line in copy.tenants), copy=copy.name)

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
            says = "Files that rows of it refer to and that were not there."
            gauges.set("sbh_last_backup_files_missing", says, figures.missing, tenant=name)
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
        behind = self._examination.journal.behind.get(tenant.id)
        gauges.set("sbh_pitr_seconds_behind", _OF_THE_JOURNAL["sbh_pitr_seconds_behind"][0], behind, tenant=name)
        for copy, lag in sorted(self._examination.copies.lags(tenant.id).items()):
            says = _OF_COPIES["sbh_copy_lag_seconds"][0]
            gauges.set("sbh_copy_lag_seconds", says, lag, tenant=name, copy=copy)
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
