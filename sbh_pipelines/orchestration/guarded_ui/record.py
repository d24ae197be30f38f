"""What is put on record of the web UI: launches, in the audit trail of the tenant whose partition was chosen, else in the
platform's, as are those of other sites; and sign-ins and what was denied, in the platform's. In the server's log as well.

Where the trail cannot be written the log says so, and a launch or a sign-in goes on: the run's own work is recorded by the
service, and fails there if it must be.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sbh_pipelines.errors import AccessDenied, InvalidId, SbhError, UnknownTenant
from sbh_pipelines.orchestration.guarded_ui.guard import Record
from sbh_pipelines.orchestration.guarded_ui.login import VIA, SignIn
from sbh_pipelines.orchestration.guarded_ui.mutations import MANAGE
from sbh_pipelines.orchestration.guarded_ui.operations import Launch
from sbh_pipelines.security.policy import ALL_TENANTS, PERMISSIONS, UserContext
from sbh_pipelines.settings import Settings, SiteSettings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService

_LONGEST_SHOWN = 128

log = logging.getLogger("sbh_pipelines.ui")


def recorder(settings: Settings) -> Record:
    """Thread-safe; the service is built at the first use."""
    service = _Service(settings)

    def record(user: UserContext, denied: AccessDenied | None, launches: list[Launch]) -> None:
        who = f"{user.user_id!a} ({user.role.name.lower()})"
        try:
            if denied:
                log.warning("denied: %s: %s: %s", who, denied.what, denied.why)
                action = denied.what.split(" ")[0]
                service.get().launches.permit_platform(user, action if action in PERMISSIONS else MANAGE)
        except AccessDenied:  # asked again so that it is recorded, as a denial of every face is
            return
        except SbhError as error:
            log.error("the audit trail could not be written: %s", error)
        for launch in launches:
            log.warning("launched: %s: %s %s", who, ascii(launch.job), ascii(launch.partition or ""))
            try:
                _track(service.get(), settings.site, user, launch)
            except SbhError as error:
                log.error("the audit trail could not be written: %s", error)

    return record


@contextmanager
def sign_ins(settings: Settings) -> Iterator[SignIn]:
    """As `recorder`. Of a flood of them the trail gets the first and their number: see `audit.repeats_s`."""
    service = _Service(settings, folds=True)

    def record(user: UserContext | None, why: str) -> None:
        who = "somebody" if user is None else f"{user.user_id!a} ({user.role.name.lower()})"
        log.warning("not let in: %s: %s" if why else "signed in: %s%s", who, why)
        try:
            if user is None or why:
                service.get().tokens.sign_in_denied(VIA, why, user)
            else:
                service.get().tokens.signed_in(user)
        except SbhError as error:
            log.error("the audit trail could not be written: %s", error)

    try:
        yield record
    finally:
        try:
            service.end()
        except SbhError as error:
            log.error("the audit trail could not be written: %s", error)


class _Service:
    """The service, built at the first use. Thread-safe. `folds`: repeats are counted, until the end."""

    def __init__(self, settings: Settings, *, folds: bool = False) -> None:
        self._settings, self._folds, self._lock = settings, folds, threading.Lock()
        self._built: BackupService | None = None

    def get(self) -> "BackupService":
        with self._lock:
            if self._built is None:
                from sbh_pipelines.backup.service import BackupService  # its drivers are slow to import

                self._built = BackupService(self._settings)
                if self._folds:
                    self._built.audit.fold_repeats()
            return self._built

    def end(self) -> None:
        """Record what was counted. Raises what recording raises."""
        if self._built is not None:
            self._built.audit.end_repeats()


def _track(service: "BackupService", own: SiteSettings, user: UserContext, launch: Launch) -> None:
    props = {"job": launch.job, "action": launch.action, "role": user.role.name.lower()}
    if launch.site != own.name:  # whose tenants may have the names of ours
        props |= {"site": launch.site, "partition": (launch.partition or "")[:_LONGEST_SHOWN]}
    elif launch.partition:
        try:
            service.audit.track(launch.partition, "run.launched", user.user_id, "ui", props)
            return
        except (InvalidId, UnknownTenant):  # the tag is whatever was sent: a made-up one keeps no launch off the record
            props["partition"] = launch.partition[:_LONGEST_SHOWN]
    service.audit.track(ALL_TENANTS, "run.launched", user.user_id, "ui", props)
