"""Telling people that a run failed: log, webhook, e-mail, SNS. Knows nothing of Dagster.

Each channel is tried, whatever happens to the others; what did not get through is raised at the end. No address that
may hold a token, and no password, appears in a log or an error.
"""

import json
import logging
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sbh_pipelines.errors import AlertError, SbhError
from sbh_pipelines.security.secrets import resolve
from sbh_pipelines.settings import AlertSettings

_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
_TENANTS_SENT = 50  # SNS takes 256 KiB

log = logging.getLogger("sbh.alerts")


@dataclass(frozen=True, slots=True)
class Alert:
    """What happened. `failed_tenants` are records with tenant, step, code, what, on, why, remedy, transient."""

    subject: str
    message: str
    job: str
    run_id: str
    at: str
    failed_tenants: tuple[Mapping[str, Any], ...] = ()
    tenants: int = 0
    event: str = "run_failed"
    backup_type: str = ""  # of the backups that the run makes; empty where it makes none

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `text` is what chat systems show. At most 50 failed tenants, `tenants_failed` counts them all."""
        sent = [dict(record) for record in self.failed_tenants[:_TENANTS_SENT]]
        return {
            "text": self.text(),
            **asdict(self),
            "failed_tenants": sent,
            "tenants_failed": len(self.failed_tenants),
        }

    def text(self) -> str:
        source = f"job {self.job}, run {self.run_id}, {self.at}" if self.run_id else f"{self.job}, {self.at}"
        lines = [self.subject, "", self.message, "", source]
        for record in self.failed_tenants[:_TENANTS_SENT]:
            why = f": {record['why']}" if record.get("why") else ""
            remedy = f". To mend it: {record['remedy']}" if record.get("remedy") else ""
            lines.append(f"- {record['tenant']}: [{record.get('code')}] {record.get('what')}{why}{remedy}")
        if len(self.failed_tenants) > _TENANTS_SENT:
            lines.append(f"… and {len(self.failed_tenants) - _TENANTS_SENT} more tenants")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to reach people. `send` raises when the alert was not taken."""

    name: str
    send: Callable[[Alert], None]


def channels(settings: AlertSettings) -> list[Channel]:
    """Every configured channel. Secrets are resolved when an alert is sent."""
    found = [Channel("log", _log)]
    if settings.webhook_url or settings.webhook_url_file or settings.webhook_url_secret:
        found.append(Channel("webhook", partial(_webhook, settings)))
    if settings.smtp_host and settings.mail_to:
        found.append(Channel("e-mail", partial(_mail, settings)))
    if settings.sns_topic_arn:
        found.append(Channel("SNS", partial(_sns, settings)))
    return found


def send_all(alert: Alert, through: Sequence[Channel], pause_s: float = _FIRST_PAUSE_S) -> None:
    """Send through every channel, three times if need be. Raises AlertError naming those that did not take it."""
    failures = []
    for channel in through:
        try:
            _persistently(channel, alert, pause_s)
        except Exception as error:
            failures.append(f"{channel.name}: {_harmless(error)}")
    if failures:
        raise AlertError(
            "An alert did not get through",
            on=f"run {alert.run_id}",
            why="; ".join(failures),
            remedy="correct the section [alerts] of the settings; the run's own page shows what the alert says",
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


def _harmless(error: Exception) -> str:
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


def _log(alert: Alert) -> None:
    log.error(alert.text())


def _webhook(settings: AlertSettings, alert: Alert) -> None:
    url = resolve(settings, "webhook_url") or ""
    if urlsplit(url).scheme not in ("http", "https"):
        raise AlertError("alerts.webhook_url is not an http or https address", remedy="correct it")
    request = urllib.request.Request(  # noqa: S310  the scheme is checked above
        url, json.dumps(alert.as_dict()).encode(), {"Content-Type": "application/json", "User-Agent": "sbh-pipelines"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
        pass


def _mail(settings: AlertSettings, alert: Alert) -> None:
    message = EmailMessage()
    message["Subject"] = _one_line(alert.subject)
    message["From"], message["To"] = settings.mail_from, ", ".join(settings.mail_to)
    message.set_content(alert.text())
    with smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, timeout=_TIMEOUT_S) as server:
        if settings.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user:
            server.login(settings.smtp_user, resolve(settings, "smtp_password") or "")
        server.send_message(message)


def _sns(settings: AlertSettings, alert: Alert) -> None:
    import boto3  # only sites that use SNS pay for its import

    arn = settings.sns_topic_arn or ""
    region = arn.split(":")[3] if arn.count(":") >= 5 else None
    boto3.client("sns", region_name=region, endpoint_url=settings.sns_endpoint_url).publish(
        TopicArn=arn, Subject=_one_line(alert.subject).encode("ascii", "replace").decode()[:100], Message=alert.text()
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
