"""Sends a test through every channel and prints which took it, as one JSON document: what `sbh alerts test` runs."""

import json
import sys

from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import timestamp, utc_now
from sbh_pipelines.orchestration.alerting.alert import TEST, Alert
from sbh_pipelines.orchestration.alerting.channels.delivery import try_all
from sbh_pipelines.orchestration.alerting.channels.registry import configured_channels
from sbh_pipelines.settings import load_settings


def main(severity: str = "critical", settings_file: str | None = None) -> int:
    try:
        settings = load_settings(settings_file)
    except SbhError as error:
        print(json.dumps({"error": error.as_dict()}))
        return error.exit_status
    alert = Alert(
        subject="a test of the alerts of SBH Pipelines",
        message="Nothing is wrong. Whoever reads this is told when something is.",
        job="sbh alerts test",
        run_id="",
        at=timestamp(utc_now()),
        event=TEST,
        severity=severity,  # type: ignore[arg-type]
        state=TEST,
        key=f"test/{timestamp(utc_now())}",
        remedy="nothing",
        link=settings.alerts.dagster_url or "",
        site=settings.site.name,
    )
    print(json.dumps({"channels": try_all(alert, configured_channels(settings.alerts))}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
