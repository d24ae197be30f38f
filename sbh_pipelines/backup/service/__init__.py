"""The service: what every face calls. A *facet* is the calls about one noun; the *gate* allows or denies, and records.

    from sbh_pipelines.backup.service import backup_service

    service                                       the one composition root: a facet per noun, and the specification's names
    gate                                          may this caller do this to this tenant? may work be launched now?
    tenants                                       who there is, also who is known from backups only
    backups, restores, retention, exports         facets of what is made, brought back, kept, handed out
    platform, keys, approvals                     facets of the site, keys, second persons
    audit, tokens                                 facets of what was done, who asks
    upkeep                                        facets of rehearsals, of how it stands, of the change journal: a room of its own
    results                                       the results that faces name

Face -> facet -> gate -> a verb of the engine -> a result. `backup_service` stands for the service of the settings file that
SBH_SETTINGS names. Importing this package does no I/O and loads no driver: what it offers is imported when it is first asked for.
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
