"""Teams, Discord, Telegram, Opsgenie and a hundred others, through the library apprise: an address for each.

Each address is a channel of its own, so that one that is down is tried again alone.
"""

import logging
from collections.abc import Callable
from functools import partial

from pydantic import SecretStr

from sbh_pipelines.errors import AlertError, SbhError
from sbh_pipelines.orchestration.alerting.alert import RECOVERED, Alert
from sbh_pipelines.orchestration.alerting.channels.channel import Channel, secret_given
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.secrets import resolve

_TYPES = {"info": "info", "warning": "warning", "error": "failure", "critical": "failure"}

# They log addresses, which hold tokens, and what is posted: nothing of that may reach a log.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
logging.getLogger("urllib3.connectionpool").setLevel(logging.WARNING)


def apprise_channels(settings: AlertSettings) -> list[Channel]:
    """A channel for each address of the settings, named by its place in the list and its kind of service.

    Where the addresses cannot be read, one channel that says so when it is to send.
    """
    if not secret_given(settings, "apprise_urls"):
        return []
    least = settings.least_severity.get("apprise", "info")
    try:
        addresses = (resolve(settings, "apprise_urls") or "").split()
    except SbhError as error:
        return [Channel("apprise", _raising(error), least)]
    return [
        Channel(f"apprise {nth} ({_kind(address)})", partial(send_by_apprise, SecretStr(address)), least)
        for nth, address in enumerate(addresses, start=1)
    ]


def send_by_apprise(address: SecretStr, alert: Alert) -> None:
    """Raises AlertError: the library is missing, the address is none that it knows, or the alert was not taken."""
    try:
        from apprise import Apprise, AppriseAsset
    except ImportError:
        raise AlertError(
            "Cannot send through apprise",
            why="the package is not installed",
            remedy="pip install 'sbh-pipelines[alerts]'",
        ) from None
    # An answer may not lead elsewhere, and nothing of an alert is read as an emoji's name.
    asset = AppriseAsset(app_id="SBH Pipelines", http_redirects=False, interpret_emojis=False, async_mode=False)
    service = Apprise.instantiate(address.get_secret_value(), asset=asset, suppress_exceptions=True)
    if service is None:
        raise AlertError(
            "An address in alerts.apprise_urls is not one",
            on=_kind(address.get_secret_value()),
            why="apprise knows no such service, or a part of the address is missing",
            remedy="correct it: `apprise --details` lists the services, and how their addresses are written",
        )
    kind = "success" if alert.state == RECOVERED else _TYPES[alert.severity]
    if not service.notify(body=alert.text(), title=" ".join(alert.title.split()), notify_type=kind):
        raise AlertError(
            "A service did not take an alert",
            on=_kind(address.get_secret_value()),
            why="apprise does not say why, for its words would hold the address",
            remedy="try the address by itself, on a machine where it may be shown: `apprise -vv --body test ADDRESS`",
        )


def _kind(address: str) -> str:
    """The name before `://`; nothing else of an address may be shown."""
    scheme, found, _ = address.partition("://")
    return scheme.lower() if found and scheme.isalnum() else "no service"


def _raising(error: SbhError) -> Callable[[Alert], None]:
    def send(_: Alert) -> None:
        raise error

    return send
