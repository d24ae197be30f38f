"""What the audit trails and the repositories show for a period, in the words of the controls that auditors ask about.

Every trail is read whole, and so verified, and its events of the period are counted. Nothing is estimated: what cannot be
known is null, and the text says so. docs/compliance.md maps the figures to controls, and says what stays the reader's duty.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from sbh_pipelines.backup.audit.verify import verify_trail
from sbh_pipelines.backup.create.recovery_points import recovery_points
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import Tenant, TenantId, parse_timestamp, timestamp
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.trail.event import PLATFORM
from sbh_pipelines.repository.trail.trail import INNER

_MOST_NAMED = 50  # restores, and the like, that are named for each tenant


@dataclass
class Tally:
    """The events of one trail that fall into the period."""

    since: datetime
    until: datetime
    counts: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)  # of restores and exports
    points: list[str] = field(default_factory=list)
    restores: list[dict[str, Any]] = field(default_factory=list)
    times: dict[str, dict[str, Any]] = field(default_factory=dict)  # by scenario, as drills measured
    late: int = 0
    invalid: int = 0
    drills_passed: int = 0
    unchanged: int = 0
    _before: str | None = None  # the last recovery point before the period

    def see(self, event: Mapping[str, Any]) -> None:
        if event["source"] != INNER or event["via"] == "analytics":
            return  # the application's own word
        at, name, props = parse_timestamp(event["at"]), event["event"], event["props"]
        if name == "backup.created" and props.get("recovery_point"):
            self._point(str(props["recovery_point"]))
        if not self.since <= at < self.until:
            return
        self.counts[name] += 1
        if name == "backup.created":
            self.types[str(props.get("type"))] += 1
            self.late += bool(props.get("late"))
        elif name == "backup.validated":
            self.invalid += not props.get("valid")
        elif name == "backup.checked":
            self.unchanged += int(props.get("unchanged") or 0)
        elif name == "drill.completed":
            self.drills_passed += props.get("status") == "passed"
            for one in props.get("scenarios") or ():
                self._drilled(one)
        elif name in ("restore.completed", "restore.failed", "restore.undone", "backup.exported"):
            self.users[event["user_id"]] += 1
            if name != "backup.exported" and len(self.restores) < _MOST_NAMED:
                told = {k: props.get(k) for k in ("restore_id", "backup_id", "mode", "seconds")}
                self.restores.append({"at": event["at"], "event": name, "user_id": event["user_id"], **told})

    def _point(self, point: str) -> None:
        moment = parse_timestamp(point)
        if moment < self.since:
            self._before = point
        elif moment < self.until:
            self.points.append(point)

    def _drilled(self, one: Mapping[str, Any]) -> None:
        known = self.times.setdefault(str(one.get("scenario")), {"worst_s": None, "missed": 0, "objective_s": None})
        known["objective_s"] = one.get("objective_s")
        if one.get("status") == "passed" and one.get("seconds") is not None:
            known["worst_s"] = max(float(one["seconds"]), known["worst_s"] or 0.0)
        known["missed"] += one.get("met") is False

    def gaps(self, end: datetime) -> list[float]:
        """Seconds between recovery points of backups, to the end of the period or now. Unchanged ticks are not in it."""
        marks = [parse_timestamp(p) for p in ([self._before] if self._before else []) + sorted(self.points)]
        marks = [max(mark, self.since) for mark in marks]
        return [(b - a).total_seconds() for a, b in pairwise([*marks, end])]


def compliance_report(
    site: Site, tenants: Sequence[Tenant], since: datetime, until: datetime, *, with_platform: bool
) -> dict[str, Any]:
    """{from, to, at, settings, totals, tenants: [one line each], platform: {...} | None, errors: [{tenant_id, ...}]}.

    A trail that cannot be read is in `errors`, and its tenant in no figure.
    """
    end = min(until, site.clock())
    lines, errors = [], []
    with_row = [tenant for tenant in tenants if tenant.key]  # those that are gone have nothing to lose now
    ages = {p.tenant_id: p.age_s for p in recovery_points(site, with_row).recovery_points}
    for tenant in tenants:
        try:
            lines.append(_line(site, tenant, since, until, end, ages.get(str(tenant.id))))
        except SbhError as error:
            errors.append({"tenant_id": str(tenant.id), "region": tenant.region, "error": error.as_dict()})
    platform = _platform(site, since, until) if with_platform else None
    return {
        "from": timestamp(since),
        "to": timestamp(until),
        "at": timestamp(site.clock()),
        "settings": _settings(site),
        "totals": _totals(lines),
        "tenants": lines,
        "platform": platform,
        "errors": errors,
    }


def _line(
    site: Site, tenant: Tenant, since: datetime, until: datetime, end: datetime, age: float | None
) -> dict[str, Any]:
    tally = Tally(since, until)
    verified = verify_trail(site, tenant, None, tally.see)
    counts = tally.counts
    objective = site.settings.recovery_point_objective_s(tenant.tier)
    gaps = tally.gaps(end)
    return {
        "tenant_id": str(tenant.id),
        "region": tenant.region,
        "backups": {
            "made": counts["backup.created"],
            **tally.types,
            "failed": counts["backup.failed"],
            "late": tally.late,
        },
        "recovery_point": {
            "objective_s": objective,
            "longest_gap_s": max(gaps) if gaps else None,  # between backups; a tenant that did not change needs none
            "gaps_over": sum(gap > objective for gap in gaps) if gaps and objective else None,
            "age_s": age,
        },
        "validated": counts["backup.validated"],
        "invalid": tally.invalid,
        "drills": counts["drill.completed"],
        "drills_passed": tally.drills_passed,
        "recovery_time": tally.times,
        "restores": {
            kind: counts[f"restore.{kind}"] for kind in ("planned", "started", "completed", "failed", "undone")
        },
        "restored": tally.restores,
        "users": dict(tally.users.most_common(_MOST_NAMED)),
        "accessed": counts["backup.accessed"],
        "exported": counts["backup.exported"],
        "deleted": counts["backup.deleted"],
        "pruned": counts["repository.pruned"],
        "holds": {"placed": counts["hold.placed"], "released": counts["hold.released"], "now": _holds(site, tenant)},
        "approvals": {k: counts[f"restore.{k}"] for k in ("requested", "approved", "rejected", "break_glass")},
        "keys_rotated": counts["key.rotated"],
        "erased": counts["tenant.erased"],
        "denied": counts["access.denied"],
        "audit": {name: verified[name] for name in ("valid", "events", "late", "seq", "hash", "broken", "unrecorded")},
    }


def _holds(site: Site, tenant: Tenant) -> int:
    store, prefix = site.backup_store(tenant)
    return sum(1 for info in store.list(prefix + Keys.HOLDS) if info.key.startswith(f"{prefix}{Keys.HOLDS}legal-"))


def _platform(site: Site, since: datetime, until: datetime) -> dict[str, Any]:
    """Of all regions' trails of the platform together."""
    tally, trails = Tally(since, until), []
    for region in site.settings.storage.regions:
        try:
            verified = verify_trail(site, Tenant(TenantId(PLATFORM), "", region, ""), None, tally.see)
        except SbhError as error:
            trails.append({"region": region, "valid": None, "error": error.as_dict()})
            continue
        trails.append({name: verified[name] for name in ("region", "valid", "events", "seq", "hash", "broken")})
    counts = tally.counts
    return {
        "backups": {"made": counts["platform.backup_created"], "failed": counts["platform.backup_failed"]},
        "restores": {kind: counts[f"platform.restore_{kind}"] for kind in ("started", "completed", "failed")},
        "unchanged": tally.unchanged,
        "policy_changes": counts["policy.changed"],
        "keys_rotated": counts["key.rotated"],
        "denied": counts["access.denied"],
        "audits_verified": counts["audit.verified"],
        "audit": trails,
    }


def _totals(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def added(*path: str) -> int:
        total = 0
        for line in lines:
            value: Any = line
            for name in path:
                value = value[name]
            total += int(value or 0)
        return total

    gaps = [(line["recovery_point"]["longest_gap_s"], line["tenant_id"]) for line in lines]
    worst = max(((gap, tenant) for gap, tenant in gaps if gap is not None), default=(None, None))
    times: dict[str, dict[str, Any]] = {}
    for line in lines:
        for scenario, one in line["recovery_time"].items():
            known = times.setdefault(scenario, {**one, "missed": 0, "worst_s": None})
            if one["worst_s"] is not None:
                known["worst_s"] = max(one["worst_s"], known["worst_s"] or 0.0)
            known["missed"] += one["missed"]
    return {
        "tenants": len(lines),
        "backups_made": added("backups", "made"),
        "backups_failed": added("backups", "failed"),
        "longest_gap_s": worst[0],
        "longest_gap_of": worst[1],
        "gaps_over": added("recovery_point", "gaps_over"),
        "validated": added("validated"),
        "invalid": added("invalid"),
        "drills": added("drills"),
        "drills_passed": added("drills_passed"),
        "recovery_time": times,
        "restores_completed": added("restores", "completed"),
        "restores_failed": added("restores", "failed"),
        "restores_undone": added("restores", "undone"),
        "exported": added("exported"),
        "accessed": added("accessed"),
        "deleted": added("deleted"),
        "holds_placed": added("holds", "placed"),
        "holds_released": added("holds", "released"),
        "holds_now": added("holds", "now"),
        "approved": added("approvals", "approved"),
        "break_glass": added("approvals", "break_glass"),
        "keys_rotated": added("keys_rotated"),
        "erased": added("erased"),
        "denied": added("denied"),
        "trails_valid": sum(bool(line["audit"]["valid"]) for line in lines),
        "trails_broken": [line["tenant_id"] for line in lines if not line["audit"]["valid"]][:_MOST_NAMED],
        "events_late": added("audit", "late"),
    }


def _settings(site: Site) -> dict[str, Any]:
    """What is in force now, as far as the settings say it."""
    settings = site.settings
    return {
        "key_provider": settings.keys.provider,
        "regions": list(settings.storage.regions),
        "storage": settings.storage.kind,
        "server_side_encryption": getattr(settings.storage, "sse", None),
        "object_lock_days": settings.audit.object_lock_days,
        "object_lock_mode": settings.audit.object_lock_mode if settings.audit.object_lock_days else None,
        "audit_required": settings.audit.required,
        "tokens": settings.auth.mode,
        "safety_backup": settings.restore.safety_backup,
    }
