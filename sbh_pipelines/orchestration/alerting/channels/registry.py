"""All alert channels. A new one is a file beside this, and a line in `CHANNELS`."""

from functools import partial

from sbh_pipelines.orchestration.alerting.channels import log, mail, pagerduty, slack, sns, webhook
from sbh_pipelines.orchestration.alerting.channels.apprise import apprise_channels
from sbh_pipelines.orchestration.alerting.channels.channel import Channel, ChannelKind
from sbh_pipelines.settings import AlertSettings

CHANNELS: tuple[ChannelKind, ...] = (
    log.CHANNEL,
    webhook.CHANNEL,
    slack.CHANNEL,
    mail.CHANNEL,
    sns.CHANNEL,
    pagerduty.CHANNEL,
)
"""In the order in which an alert is sent to them."""


def configured_channels(settings: AlertSettings) -> list[Channel]:
    """The channels that the settings configure, each with the least severity that it is sent."""
    ours = [
        Channel(
            kind.shown,
            partial(kind.send, settings),
            settings.least_severity.get(kind.name, "info") if kind.name else "info",
        )
        for kind in CHANNELS
        if kind.configured(settings)
    ]
    return ours + apprise_channels(settings)
