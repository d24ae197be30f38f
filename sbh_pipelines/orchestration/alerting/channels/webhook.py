"""Any HTTP server: gets the alert as it is, as JSON."""

from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.channel import ChannelKind, post, secret_given
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.secrets import resolve


def send_to_webhook(settings: AlertSettings, alert: Alert) -> None:
    post(resolve(settings, "webhook_url") or "", alert.as_dict(), "alerts.webhook_url")


CHANNEL = ChannelKind("webhook", "webhook", lambda settings: secret_given(settings, "webhook_url"), send_to_webhook)
