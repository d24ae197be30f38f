"""A topic of Amazon SNS. boto3 is imported when it is used."""

from sbh_pipelines.orchestration.alerting.alert import Alert
from sbh_pipelines.orchestration.alerting.channels.channel import TIMEOUT_S, ChannelKind
from sbh_pipelines.settings import AlertSettings

_LONGEST_SUBJECT = 100
_LONGEST = 250_000  # bytes; SNS takes 256 KiB


def publish_to_sns(settings: AlertSettings, alert: Alert) -> None:
    import boto3  # only sites that use SNS pay for its import
    from botocore.config import Config

    arn = settings.sns_topic_arn or ""
    region = arn.split(":")[3] if arn.count(":") >= 5 else None
    subject = " ".join(alert.title.split()).encode("ascii", "replace").decode()[:_LONGEST_SUBJECT]
    attributes = {"severity": alert.severity, "state": alert.state, "event": alert.event}
    once = Config(connect_timeout=TIMEOUT_S / 2, read_timeout=TIMEOUT_S / 2, retries={"total_max_attempts": 1})
    boto3.client("sns", region_name=region, endpoint_url=settings.sns_endpoint_url, config=once).publish(
        TopicArn=arn,
        Subject=subject,
        Message=alert.text().encode()[:_LONGEST].decode(errors="ignore"),
        MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()},
    )


CHANNEL = ChannelKind("sns", "SNS", lambda settings: bool(settings.sns_topic_arn), publish_to_sns)
