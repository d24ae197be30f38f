"""What is put on record of the web UI: launches, in the audit trail of the tenant whose partition was chosen, else in the
platform's; and what was denied, in the platform's. Both in the server's log as well.

Where the trail cannot be written the log says so, and a launch goes on: the run's own work is recorded by the service,
and fails there if it must be.
"""

import logging
import threading
from typing import TYPE_CHECKING

from sbh_pipelines.errors import AccessDenied, InvalidId, SbhError, UnknownTenant
from sbh_pipelines.orchestration.guarded_ui.guard import Record
from sbh_pipelines.orchestration.guarded_ui.mutations import MANAGE
from sbh_pipelines.orchestration.guarded_ui.operations import Launch
from sbh_pipelines.security.policy import ALL_TENANTS, PERMISSIONS, UserContext
from sbh_pipelines.settings import Settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService

_LONGEST_SHOWN = 128

log = logging.getLogger("sbh_pipelines.ui")


def recorder(settings: Settings) -> Record:
    """Thread-safe; the service is built at the first use."""
    built: list[BackupService] = []
    building = threading.Lock()

    def service() -> "BackupService":
        with building:
            if not built:
                from sbh_pipelines.backup.service import BackupService  # its drivers are slow to import

                built.append(BackupService(settings))
            return built[0]

    def record(user: UserContext, denied: AccessDenied | None, launches: list[Launch]) -> None:
        who = f"{user.user_id!a} ({user.role.name.lower()})"
        try:
            if denied:
                log.warning("denied: %s: %s: %s", who, denied.what, denied.why)
                action = denied.what.split(" ")[0]
                service().launches.permit_platform(user, action if action in PERMISSIONS else MANAGE)
        except AccessDenied:  # asked again so that it is recorded, as a denial of every face is
            return
        except SbhError as error:
            log.error("the audit trail could not be written: %s", error)
        for launch in launches:
            log.warning("launched: %s: %s %s", who, ascii(launch.job), ascii(launch.partition or ""))
            try:
                _track(service(), user, launch)
            except SbhError as error:
                log.error("the audit trail could not be written: %s", error)

    return record


def _track(service: "BackupService", user: UserContext, launch: Launch) -> None:
    props = {"job": launch.job, "action": launch.action, "role": user.role.name.lower()}
    if launch.partition:
        try:
            service.audit.track(launch.partition, "run.launched", user.user_id, "ui", props)
            return
        except (InvalidId, UnknownTenant):  # the tag is whatever was sent: a made-up one keeps no launch off the record
            props["partition"] = launch.partition[:_LONGEST_SHOWN]
    service.audit.track(ALL_TENANTS, "run.launched", user.user_id, "ui", props)
