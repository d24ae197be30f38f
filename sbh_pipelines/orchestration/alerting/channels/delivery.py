"""Delivery of an alert through several channels, three times if need be; and what may be shown of an error."""

import smtplib
import time
import urllib.error
from collections.abc import Sequence

from sbh_pipelines.errors import AlertError, SbhError
from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.channel import Channel

_ATTEMPTS = 3
FIRST_PAUSE_S = 0.5


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
