"""Slack, by an incoming webhook: a heading, the words, and a button to the run."""

from sbh_pipelines.orchestration.alerting.alert import RECOVERED, TEST, Alert
from sbh_pipelines.orchestration.alerting.channels.channel import ChannelKind, post, secret_given
from sbh_pipelines.settings import AlertSettings
from sbh_pipelines.settings.secrets import resolve

_HEADING, _SECTION, _FIELD = 150, 2900, 1900  # characters that Slack takes in each kind of block
Block = dict[str, object]
_SIGNS = {"info": ":information_source:", "warning": ":warning:", "error": ":x:", "critical": ":rotating_light:"}


def send_to_slack(settings: AlertSettings, alert: Alert) -> None:
    post(resolve(settings, "slack_url") or "", message(alert), "alerts.slack_url")


def message(alert: Alert) -> Block:
    """The message's blocks; `text` is what notifications show."""
    sign = ":white_check_mark:" if alert.state in (RECOVERED, TEST) else _SIGNS[alert.severity]
    blocks: list[Block] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(alert.title, _HEADING)}},
        {"type": "section", "text": {"type": "mrkdwn", "text": f"{sign} {_escaped(_body(alert), _SECTION)}"}},
    ]
    if alert.remedy and alert.state != RECOVERED:
        blocks.append(_section(f"*What to do next*\n{_escaped(alert.remedy, _FIELD)}"))
    where = f"{alert.severity} · {alert.job}" + (f" · run {alert.run_id}" if alert.run_id else "") + f" · {alert.at}"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": _escaped(where, _FIELD)}]})
    if alert.link:
        button = {"type": "button", "text": {"type": "plain_text", "text": "Open in Dagster"}, "url": alert.link}
        blocks.append({"type": "actions", "elements": [button]})
    return {"text": _escaped(alert.title, _SECTION), "blocks": blocks}


def _section(text: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _body(alert: Alert) -> str:
    lines = [alert.message or alert.subject]
    lines += [f"• {record.tenant}: [{record.code}] {record.what}" for record in alert.failed_tenants[:10]]
    if len(alert.failed_tenants) > 10:
        lines.append(f"… and {len(alert.failed_tenants) - 10} more tenants")
    return "\n".join(lines)


def _cut(text: str, length: int) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= length else one_line[: length - 1] + "…"


def _escaped(text: str, length: int) -> str:
    """Cut, then escaped: a name in a database must not address a channel or become a link."""
    short = text if len(text) <= length // 2 else text[: length // 2 - 1] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


CHANNEL = ChannelKind("slack", "Slack", lambda settings: secret_given(settings, "slack_url"), send_to_slack)
