"""PagerDuty's Events API v2: an alert triggers an incident, its recovery resolves it, by the same key."""

import hashlib

from sbh_pipelines.orchestration.alerting.alert import RECOVERED, TEST, Alert
from sbh_pipelines.orchestration.alerting.channels.channel import ChannelKind, post, secret_given
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.secrets import resolve

_LONGEST_SUMMARY, _LONGEST_KEY = 1024, 255


def send_to_pagerduty(settings: AlertSettings, alert: Alert) -> None:
    """A test is triggered and resolved at once: it proves the key, and no incident stays."""
    key = resolve(settings, "pagerduty_key") or ""
    for action in ("trigger", "resolve") if alert.state == TEST else (_action(alert),):
        post(settings.pagerduty_endpoint_url, event(alert, key, action), "alerts.pagerduty_endpoint_url")


def _action(alert: Alert) -> str:
    return "resolve" if alert.state == RECOVERED else "trigger"


def event(alert: Alert, routing_key: str, action: str) -> dict[str, object]:
    document: dict[str, object] = {
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": _short(alert.dedup_key),
    }
    if action == "trigger":
        document["payload"] = {
            "summary": " ".join(alert.title.split())[:_LONGEST_SUMMARY],
            "source": alert.job or "sbh-pipelines",
            "severity": alert.severity,
            "class": alert.event,
            "component": "sbh-pipelines",
            "custom_details": {"text": alert.text()[:20_000], "run_id": alert.run_id, "what_to_do_next": alert.remedy},
        }
        if alert.link:
            document["links"] = [{"href": alert.link, "text": "Open in Dagster"}]
    return document


def _short(key: str) -> str:
    """Keys that are too long keep their beginning, and a digest that tells them apart."""
    if len(key) <= _LONGEST_KEY:
        return key
    return key[: _LONGEST_KEY - 33] + "/" + hashlib.sha256(key.encode()).hexdigest()[:32]


CHANNEL = ChannelKind(
    "pagerduty", "PagerDuty", lambda settings: secret_given(settings, "pagerduty_key"), send_to_pagerduty
)
