"""The service: what every face calls. `BackupService` has one facet per noun; each asks the gate, then hands over to a verb.

    from sbh_pipelines.backup.service import backup_service

`backup_service` stands for the service of the settings file that SBH_SETTINGS names. Importing this package does no I/O and
loads no driver: what it offers is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.service import (
        BackupService,
        backup_service,
        check_backup_health,
        load_service,
    )

__all__ = ["BackupService", "backup_service", "check_backup_health", "load_service"]


def __getattr__(name: str) -> Any:
    # Definitions of Dagster are loaded in many processes that never touch a backup: they must not pay for drivers.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sbh_pipelines.backup.service import service

    return getattr(service, name)
