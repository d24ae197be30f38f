"""Sending an alert through every channel that wants it, three times if need be."""

import logging
import smtplib
import time
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sbh_pipelines.errors import AlertError, SbhError
from sbh_pipelines.orchestration.alerting.alert import TEST, Alert
from sbh_pipelines.orchestration.alerting.channels.mail import send_mail
from sbh_pipelines.orchestration.alerting.channels.pagerduty import send_to_pagerduty
from sbh_pipelines.orchestration.alerting.channels.slack import send_to_slack
from sbh_pipelines.orchestration.alerting.channels.sns import publish
from sbh_pipelines.orchestration.alerting.channels.webhook import send_to_webhook
from sbh_pipelines.orchestration.alerting.conditions import SEVERITIES, Severity
from sbh_pipelines.settings import AlertSettings

_ATTEMPTS = 3
FIRST_PAUSE_S = 0.5

log = logging.getLogger("sbh.alerts")


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to reach people. `send` raises when the alert was not taken."""

    name: str
    send: Callable[[Alert], None]
    least: Severity = "info"

    def wants(self, alert: Alert) -> bool:
        """A recovery has the severity of what it ends, and so goes where that went."""
        return alert.state == TEST or SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.least)


def channels(settings: AlertSettings) -> list[Channel]:
    """Every configured channel. Secrets are resolved when an alert is sent."""
    found = [Channel("log", _log)]

    def add(name: str, configured: bool, send: Callable[[AlertSettings, Alert], None], shown: str) -> None:
        if configured:
            least = settings.least_severity.get(name, "info")  # type: ignore[call-overload]
            found.append(Channel(shown, partial(send, settings), least))

    add("webhook", _given(settings, "webhook_url"), send_to_webhook, "webhook")
    add("slack", _given(settings, "slack_url"), send_to_slack, "Slack")
    add("mail", bool(settings.smtp_host and settings.mail_to), send_mail, "e-mail")
    add("sns", bool(settings.sns_topic_arn), publish, "SNS")
    add("pagerduty", _given(settings, "pagerduty_key"), send_to_pagerduty, "PagerDuty")
    return found


def _given(settings: AlertSettings, name: str) -> bool:
    return any(getattr(settings, name + suffix) for suffix in ("", "_file", "_secret"))


def try_all(alert: Alert, through: Sequence[Channel], pause_s: float = FIRST_PAUSE_S) -> dict[str, str | None]:
    """By channel that wants the alert, why it was not taken, or None. Raises nothing: no channel keeps another from it."""
    outcome: dict[str, str | None] = {}
    for channel in through:
        if not channel.wants(alert):
            continue
        try:
            _persistently(channel, alert, pause_s)
            outcome[channel.name] = None
        except Exception as error:
            outcome[channel.name] = harmless(error)
    return outcome


def raise_undelivered(outcome: dict[str, str | None], on: str) -> None:
    failures = [f"{name}: {why}" for name, why in outcome.items() if why is not None]
    if failures:
        raise AlertError(
            "An alert did not get through",
            on=on,
            why="; ".join(failures),
            remedy="correct the section [alerts] of the settings, and try it: `sbh alerts test`",
        )


def _persistently(channel: Channel, alert: Alert, pause_s: float) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            channel.send(alert)
            return
        except Exception:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(pause_s * 2 ** (attempt - 1))


def harmless(error: Exception) -> str:
    """What may be shown of a channel's error: its kind and status. Its text may quote an address or a password."""
    if isinstance(error, SbhError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{type(error).__name__}, SMTP status {error.smtp_code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return type(error.reason).__name__
    code = getattr(error, "response", None)
    if isinstance(code, dict):
        return f"{type(error).__name__}, {code.get('Error', {}).get('Code', '')}"
    return type(error).__name__


_LEVELS: dict[str, int] = {"info": logging.INFO, "warning": logging.WARNING}


def _log(alert: Alert) -> None:
    level = logging.INFO if alert.state in ("recovered", TEST) else _LEVELS.get(alert.severity, logging.ERROR)
    log.log(level, alert.text())
