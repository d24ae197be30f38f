"""The log of the process that sends: always one of the channels."""

import logging

from sbh_pipelines.orchestration.alerting.alert import RECOVERED, TEST, Alert
from sbh_pipelines.orchestration.alerting.channels.channel import ChannelKind
from sbh_pipelines.settings import AlertSettings

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}

log = logging.getLogger("sbh.alerts")


def write_to_log(_: AlertSettings, alert: Alert) -> None:
    level = logging.INFO if alert.state in (RECOVERED, TEST) else _LEVELS.get(alert.severity, logging.ERROR)
    log.log(level, alert.text())


CHANNEL = ChannelKind(None, "log", lambda settings: True, write_to_log)
