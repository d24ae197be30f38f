"""Sends alerts about conditions. What was sent is kept in Dagster's storage, and what a channel did not take is owed to it.

The memory is kept under a name of its own and not as a sensor's cursor: it outlives a cursor that is reset and a code
location that is renamed, and two sensors can share it; each site has its own. Alerts are sent first and remembered then: a
process killed in between tells twice rather than never.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from sbh_pipelines.model import timestamp, utc_now
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.delivery import raise_undelivered, try_all
from sbh_pipelines.orchestration.alerting.channels.registry import configured_channels
from sbh_pipelines.orchestration.alerting.conditions import Condition, Kind, Memory, Notice, step
from sbh_pipelines.orchestration.common.names import site
from sbh_pipelines.settings import AlertSettings

_OWED_S = 24 * 3600.0
_MOST_OWED = 100
_ONE_AT_A_TIME: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by name; all sensors share a process


@dataclass(frozen=True, slots=True)
class Owed:
    """An alert that a channel did not take, to be sent there again.

    Attributes:
        since: when it was made, seconds since the epoch.
        alert: the alert.
        channels: names of the channels that it is owed to.
    """

    since: float
    alert: Alert
    channels: list[str]

    def as_dict(self) -> dict[str, object]:
        return {"since": self.since, "alert": self.alert.as_dict(), "channels": self.channels}


Build = Callable[[Notice], Alert]
Now = Callable[[], float]


class AlertSender:
    """Sends the alerts of one kind of sensor; `name` is that of its memory, `job` what alerts name as their source."""

    def __init__(
        self, instance: dg.DagsterInstance, name: str, job: str, settings: AlertSettings, now: Now = time.time
    ) -> None:
        self._instance, self._job, self._settings = instance, job, settings
        self._key = "/".join(filter(None, ("sbh/alerts", site().name, name)))
        self._now = now

    def open_keys(self) -> set[str]:
        """The keys of the conditions that are open, whether an alert was sent or not."""
        return set(Memory.from_dict(self._load().get("memory")).open)

    def report(
        self,
        active: Iterable[Condition],
        *,
        unknown: Callable[[str], bool] = lambda key: False,
        build: Build | None = None,
        besides: Iterable[Alert] = (),
    ) -> list[Alert]:
        """Send the alerts that these conditions call for, and return them. `besides` are alerts that are sent as they are.

        Raises AlertError where a channel did not take one: it is sent there again at the next call, for a day.
        """
        with _ONE_AT_A_TIME[self._key]:
            document, now = self._load(), self._now()
            notices, memory = step(
                active,
                Memory.from_dict(document.get("memory")),
                now,
                remind_after_s=self._settings.remind_hours * 3600,
                together=self._settings.together,
                unknown=unknown,
            )
            alerts = [(build or self.alert)(notice) for notice in notices]
            alerts = [replace(alert, site=site().name) for alert in (*alerts, *besides)]
            owed, outcome = self._send(alerts, document.get("owed"), now)
            if alerts or owed or memory.as_dict() != document.get("memory") or document.get("owed"):
                self._save({"memory": memory.as_dict(), "owed": [entry.as_dict() for entry in owed]})
        raise_undelivered(outcome, f"{len(owed):,} alerts wait for a channel")
        return alerts

    def alert(self, notice: Notice) -> Alert:
        """The alert for a notice."""
        first = notice.conditions[0] if notice.conditions else None
        run_id = first.run_id if first is not None and notice.count == 1 else ""
        return Alert(
            subject=notice.subject,
            message=_message(notice),
            job=self._job,
            run_id=run_id,
            at=timestamp(utc_now()),
            tenants=notice.count,
            event=notice.key.partition("/")[0].partition(".")[0],
            severity=notice.severity,
            state=str(notice.kind),
            key=notice.key,
            remedy=notice.remedy,
            link=run_link(self._settings, run_id),
            since=_moment(notice.since),
        )

    def _send(self, alerts: list[Alert], waiting: Any, now: float) -> tuple[list[Owed], dict[str, str | None]]:
        """What is owed afterwards, and by channel why. A channel that failed is not tried again in the same call."""
        through = {channel.name: channel for channel in configured_channels(self._settings)}
        outcome: dict[str, str | None] = {}
        owed: list[Owed] = []
        queue = [entry for entry in _read_owed(waiting) if now - entry.since < _OWED_S]
        queue += [Owed(now, alert, [c.name for c in through.values() if c.wants(alert)]) for alert in alerts]
        for entry in queue:
            alert = entry.alert
            names = [name for name in entry.channels if name in through]
            ready = [through[name] for name in names if outcome.get(name) is None]
            failed = {name: why for name, why in try_all(alert, ready).items() if why is not None}
            outcome |= failed
            left = [name for name in names if outcome.get(name) is not None]
            if left:
                owed.append(replace(entry, channels=left))
        return owed[-_MOST_OWED:], outcome

    def _load(self) -> dict[str, Any]:
        text = self._instance.run_storage.get_cursor_values({self._key}).get(self._key)
        try:
            document = json.loads(text) if text else {}
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def _save(self, document: Mapping[str, object]) -> None:
        self._instance.run_storage.set_cursor_values({self._key: json.dumps(document, separators=(",", ":"))})


def run_link(settings: AlertSettings, run_id: str) -> str:
    """The page of a run, where `alerts.dagster_url` says where Dagster is."""
    if not settings.dagster_url:
        return ""
    root = settings.dagster_url.rstrip("/")
    return f"{root}/runs/{run_id}" if run_id else root


def with_state(alert: Alert, notice: Notice) -> Alert:
    """An alert made otherwise, as the notice has it."""
    return replace(alert, state=str(notice.kind), key=notice.key, severity=notice.severity, since=_moment(notice.since))


def _message(notice: Notice) -> str:
    if notice.kind is Kind.RECOVERED:
        return f"Not found any more; it was found first at {_moment(notice.since)}."
    if notice.count == 1:
        return notice.conditions[0].message
    lines = [f"{notice.count:,} in all, of them:"]
    lines += [f"- {c.tenant or c.key.partition('/')[2]}: {c.message}" for c in notice.conditions]
    return "\n".join(lines)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _read_owed(waiting: Any) -> list[Owed]:
    """What cannot be read is owed no more."""
    found = []
    for entry in waiting if isinstance(waiting, list) else ():
        try:
            found.append(
                Owed(float(entry["since"]), Alert.from_dict(entry["alert"]), [str(c) for c in entry["channels"]])
            )
        except (KeyError, TypeError, ValueError):
            continue
    return found
