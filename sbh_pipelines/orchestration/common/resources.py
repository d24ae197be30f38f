"""The backup service as a Dagster resource, built at its first use, so that loading and launching read no settings."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from sbh_pipelines.errors import AccessDenied, SettingsError
from sbh_pipelines.model import Tenant
from sbh_pipelines.orchestration.common.names import site
from sbh_pipelines.orchestration.hosts.heartbeat import beating, beats_already
from sbh_pipelines.placement import backup_place
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings import SiteSettings, load_settings

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService

USER_TAG, ROLE_TAG, TENANT_TAG = USER_TAGS = ("user", "sbh/role", "sbh/tenant")
ISSUED_BY_TAG = "sbh/issued_by"
"""By whose tokens that of the user was issued, nearest first, as JSON; absent where nothing is known of it."""
ALL_USER_TAGS = (*USER_TAGS, ISSUED_BY_TAG)
VIA = "dagster"


class BackupServiceResource:
    """Gives ops, schedules and sensors the one backup service. Thread-safe.

    Attributes:
        step_retries: repeats of a step that failed for every tenant of the batch with transient errors.
        step_retry_wait_s: wait before the first of these repeats, s; doubles each time. By default they outlast the lease
            that a killed run leaves behind.
    """

    def __init__(
        self, settings_path: str | None = None, *, step_retries: int = 4, step_retry_wait_s: float = 20.0
    ) -> None:
        """Without `settings_path`: the file named by SBH_SETTINGS, else sbh.toml in the working directory."""
        self.step_retries, self.step_retry_wait_s = step_retries, step_retry_wait_s
        self._settings_path = settings_path
        self._service: BackupService | None = None
        self._building = threading.Lock()

    @property
    def service(self) -> "BackupService":
        """The service. Raises SettingsError when the settings are missing or wrong, or of another site by now."""
        with self._building:
            if self._service is None:
                from sbh_pipelines.backup.service import BackupService  # its drivers are slow to import

                settings = load_settings(self._settings_path)
                _require_same(settings.site, site())
                self._service = BackupService(settings)
            return self._service

    def at(self, from_copy: str | None) -> "BackupService":
        """The service over the backups of a copy; of None, over those that are made here. Raises SettingsError."""
        return self.service if from_copy is None else self.service.at_copy(from_copy)

    def location(self, tenant: Tenant, key: str) -> str:
        """Where an object of the tenant's repository is, as a URL (`s3://…`) or, with local storage, a path.

        `key` is relative to the repository, e.g. `manifests/backup_20240115_1200.json`. Raises ResidencyError.
        """
        settings = self.service.settings
        place = backup_place(settings, self.service.tenants.housed(tenant))
        root = "s3:/" if settings.storage.kind == "s3" else str(settings.storage.path)
        return f"{root}/{place.bucket}/{place.prefix}{key}"


Backups = dg.ResourceParam[BackupServiceResource]
"""How ops, schedules and sensors say that they need it."""


@contextmanager
def _of_a_worker(context: dg.InitResourceContext) -> Iterator[BackupServiceResource]:
    """The resource; while a run has it, its worker says that it lives, where the run's process does not say so itself."""
    run, instance = context.run, context.instance
    if run is None or instance is None or instance.is_ephemeral or beats_already(run.run_id):
        yield BackupServiceResource()
        return
    with beating(instance, run.run_id):
        yield BackupServiceResource()


backup_service = dg.ResourceDefinition(
    _of_a_worker,
    # No run says with which settings it works: that is decided where its worker is, by SBH_SETTINGS.
    config_schema={},
    description="The backup service, with the settings of the process: the file named by SBH_SETTINGS, else sbh.toml in the"
    " working directory. A run cannot choose another.",
)


def _require_same(now: SiteSettings, loaded: SiteSettings) -> None:
    if now != loaded:
        raise SettingsError(
            "The code location was loaded as another site",
            on=f"site.name = {now.name!r}",
            why=f"its jobs, assets and partitions are named for the site {loaded.name!r}",
            remedy="reload the code location, or start its code server anew",
        )


def user_of(tags: Mapping[str, str]) -> UserContext:
    """Who a run acts for, with which role, for which tenant: what the guarded web UI or the API wrote into its tags.

    A run without these tags was made by a schedule, a sensor, or somebody with access to Dagster itself: it may do
    everything, as the user in the tag `user`, else `dagster`. Raises AccessDenied where the tags say only half of it.
    """
    user, role, tenant = tags.get(USER_TAG) or "dagster", tags.get(ROLE_TAG), tags.get(TENANT_TAG)
    if role is None and tenant is None:
        return UserContext(user_id=user, tenant_id=ALL_TENANTS, role=Role.ADMIN, via=VIA)
    named = {known.name.lower(): known for known in Role}.get(role or "")
    if named is None or not tenant:
        raise AccessDenied(
            "The run's tags do not say for whom it acts",
            on=f"{ROLE_TAG} = {ascii(role)[:40]}, {TENANT_TAG} = {ascii(tenant)[:80]}",
            why=f"{ROLE_TAG} must be viewer, operator or admin, and {TENANT_TAG} a tenant or *",
            remedy="launch it through `sbh ui` or the API, which write both",
        )
    return UserContext(user_id=user, tenant_id=tenant, role=named, via=VIA, issued_by=_issuers(tags))


def _issuers(tags: Mapping[str, str]) -> tuple[str, ...]:
    try:
        found = json.loads(tags.get(ISSUED_BY_TAG, "[]"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise AccessDenied(
            "The run's tags do not say for whom it acts",
            on=ISSUED_BY_TAG,
            why="it is no list of users",
            remedy="launch it through `sbh ui` or the API, which write it",
        )
    return tuple(found)


def tags_of(user: UserContext) -> dict[str, str]:
    """The tags that make a run act for a user: `user_of` gives the user back."""
    issuers = {ISSUED_BY_TAG: json.dumps(user.issued_by)} if user.issued_by else {}
    return {USER_TAG: user.user_id, ROLE_TAG: user.role.name.lower(), TENANT_TAG: user.tenant_id, **issuers}


def same_user(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of a run's tags with which another run acts for the same user."""
    return {name: tags[name] for name in ALL_USER_TAGS if name in tags}
