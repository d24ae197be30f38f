"""What the events of one trail add up to in a period: counts, recovery points and the gaps between them, drills, restores."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from sbh_pipelines.model import RECOVERED, parse_timestamp
from sbh_pipelines.repository.trail.event import AuditEvent

MOST_NAMED = 50  # restores, and the like, that are named for each tenant
_OF_RESTORES = ("restore.completed", "restore.failed", "restore.undone", "backup.exported")


@dataclass(frozen=True, slots=True)
class RecoveryTime:
    """How long drills of one scenario took.

    Attributes:
        worst_s: The longest that passed, s; None where none did.
        missed: How many took longer than the objective.
        objective_s: The time that the settings allow, s.
    """

    worst_s: float | None
    missed: int
    objective_s: float | None

    def and_also(self, worst_s: float | None, missed: int) -> "RecoveryTime":
        """With more of them."""
        times = [time for time in (self.worst_s, worst_s) if time is not None]
        return replace(self, worst_s=max(times, default=None), missed=self.missed + missed)


@dataclass(frozen=True, slots=True)
class RestoreEvent:
    """A restore that ended in the period.

    Attributes:
        at: Time of its event, UTC.
        event: How it ended: restore.completed, restore.failed or restore.undone.
        user_id: Who did it.
        restore_id: Its id.
        backup_id: From which backup.
        mode: How rows were merged.
        seconds: How long it took, s.
    """

    at: str
    event: str
    user_id: str
    restore_id: str | None
    backup_id: str | None
    mode: str | None
    seconds: float | None


@dataclass
class TrailFigures:
    """The events of one trail that fall into the period.

    Attributes:
        since: The period's first moment.
        until: The moment before which it ends.
        counts: Events by name.
        types: Backups by type.
        users: Restores and exports by who did them.
        points: Recovery points of backups in the period.
        restores: Restores that ended in it, the first of them.
        times: How long drills took, by scenario.
        late: Backups whose event was recorded late.
        invalid: Validations that found damage.
        drills_passed: Drills that passed.
        unchanged: Times that a tenant was found unchanged.
        before: The last recovery point before the period.
    """

    since: datetime
    until: datetime
    counts: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    points: list[str] = field(default_factory=list)
    restores: list[RestoreEvent] = field(default_factory=list)
    times: dict[str, RecoveryTime] = field(default_factory=dict)
    late: int = 0
    invalid: int = 0
    drills_passed: int = 0
    unchanged: int = 0
    before: str | None = None

    def add(self, event: AuditEvent) -> None:
        """What the application tracks itself is no figure."""
        if not event.inner:
            return
        name, props = event.event, event.props
        recovered = props.get("purpose") == RECOVERED  # such a one is as old as what it was made of
        if name == "backup.created" and props.get("recovery_point") and not recovered:
            self._add_point(str(props["recovery_point"]))
        if not self.since <= parse_timestamp(event.at) < self.until:
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
            for scenario in props.get("scenarios") or ():
                self._add_drill(scenario)
        elif name in _OF_RESTORES:
            self.users[event.user_id] += 1
            if name != "backup.exported" and len(self.restores) < MOST_NAMED:
                told = (props.get(key) for key in ("restore_id", "backup_id", "mode", "seconds"))
                self.restores.append(RestoreEvent(event.at, name, event.user_id, *told))

    def _add_point(self, point: str) -> None:
        moment = parse_timestamp(point)
        if moment < self.since:
            self.before = point
        elif moment < self.until:
            self.points.append(point)

    def _add_drill(self, drilled: Mapping[str, Any]) -> None:
        scenario, passed = str(drilled.get("scenario")), drilled.get("status") == "passed"
        known = self.times.get(scenario) or RecoveryTime(None, 0, None)
        seconds = float(drilled["seconds"]) if passed and drilled.get("seconds") is not None else None
        known = replace(known, objective_s=drilled.get("objective_s"))
        self.times[scenario] = known.and_also(seconds, int(drilled.get("met") is False))

    def gaps(self, end: datetime) -> list[float]:
        """Seconds between recovery points of backups, to the end of the period or now. Unchanged ticks are not in it."""
        marks = [parse_timestamp(p) for p in ([self.before] if self.before else []) + sorted(self.points)]
        marks = [max(mark, self.since) for mark in marks]
        return [(b - a).total_seconds() for a, b in pairwise([*marks, end])]
