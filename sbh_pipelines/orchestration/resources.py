"""The backup service as a Dagster resource, built at its first use, so that loading and launching read no settings."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from sbh_pipelines.model import Tenant
from sbh_pipelines.residency import backup_place
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import load_settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService

USER_TAG = "user"


class BackupServiceResource(dg.ConfigurableResource["BackupServiceResource"]):
    """Gives ops, schedules and sensors the one backup service."""

    settings_path: str | None = Field(
        default=None,
        description="Settings file. Empty: the file named by the environment variable SBH_SETTINGS, else sbh.toml in"
        " the working directory.",
    )
    step_retries: int = Field(
        default=4,
        ge=0,
        le=10,
        description="Repeats of a step that failed for every tenant of the batch with transient errors.",
    )
    step_retry_wait_s: float = Field(
        default=20.0,
        ge=0,
        le=120,
        description="Wait before the first of these repeats, s; doubles each time. By default they outlast the lease that"
        " a killed run leaves behind.",
    )

    _service: "BackupService | None" = PrivateAttr(None)
    _building: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def service(self) -> "BackupService":
        """The service. Raises SettingsError when the settings are missing or wrong."""
        with self._building:
            if self._service is None:
                from sbh_pipelines.backup.service import BackupService  # its drivers are slow to import

                self._service = BackupService(load_settings(self.settings_path))
            return self._service

    def location(self, tenant: Tenant, key: str) -> str:
        """Where an object of the tenant's repository is, as a URL (`s3://…`) or, with local storage, a path.

        `key` is relative to the repository, e.g. `manifests/backup_20240115_1200.json`. Raises ResidencyError.
        """
        settings = self.service.settings
        place = backup_place(settings, tenant)
        root = "s3:/" if settings.storage.kind == "s3" else str(settings.storage.path)
        return f"{root}/{place.bucket}/{place.prefix}{key}"


def user_of(tags: Mapping[str, str]) -> UserContext:
    """Who a run acts for: the run tag `user`, else `dagster`. Access to Dagster itself is what grants the role."""
    return UserContext(user_id=tags.get(USER_TAG) or "dagster", tenant_id=ALL_TENANTS, role=Role.ADMIN)
