"""What an alert channel is, and the HTTP POST of JSON that most of them are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from sbh_pipelines import outgoing
from sbh_pipelines.errors import AlertError
from sbh_pipelines.orchestration.alerting.alert import TEST, Alert
from sbh_pipelines.orchestration.alerting.conditions import SEVERITIES
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.alerts import ChannelName, Severity

TIMEOUT_S = 6.0  # a tick of a sensor has a minute for all channels


@dataclass(frozen=True, slots=True)
class ChannelKind:
    """One way to reach people: what the file of a channel defines as `CHANNEL`.

    Attributes:
        name: name in the settings (`alerts.least_severity`); None for the log, which takes every alert.
        shown: name in errors, and in what `sbh alerts test` prints.
        configured: whether the settings say where to send to.
        send: sends one alert, once; raises where it was not taken. Secrets are resolved here, not before.
    """

    name: ChannelName | None
    shown: str
    configured: Callable[[AlertSettings], bool]
    send: Callable[[AlertSettings, Alert], None]


@dataclass(frozen=True, slots=True)
class Channel:
    """A configured channel.

    Attributes:
        name: its name as it is shown.
        send: sends one alert; raises where it was not taken.
        least: the least severity that it is sent.
    """

    name: str
    send: Callable[[Alert], None]
    least: Severity = "info"

    def wants(self, alert: Alert) -> bool:
        """Whether the alert is severe enough. A recovery has the severity of what it ends, and goes where that went."""
        return alert.state == TEST or SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.least)


def secret_given(settings: AlertSettings, name: str) -> bool:
    """Whether a secret is set, itself or by a file or a secret manager."""
    return any(getattr(settings, name + suffix) for suffix in ("", "_file", "_secret"))


def post(url: str, document: object, setting: str) -> None:
    """Raises AlertError (the address is not one) and the errors of `outgoing.post`, whose text may hold the address."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise AlertError(f"{setting} is not an http or https address", remedy="correct it")
    outgoing.post(url, document, TIMEOUT_S)
