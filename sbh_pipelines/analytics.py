"""`analytics.track`: the application's own events in the audit trail of its tenants, beside those of backups and restores.

from sbh_pipelines import analytics

analytics.track(tenant_id="tenant-1", event="invoice.paid", user_id="ann", source="billing", props={"invoice": "i-17"})

The service is that of the settings file which SBH_SETTINGS names, opened at the first use. Events of backups this program
records itself; one that is tracked here is marked (`via` is `analytics`) and taken as the application's word, no more.
"""

from collections.abc import Mapping


class Analytics:
    """Importing it, and making it, does no I/O."""

    def track(
        self,
        tenant_id: str,
        event: str,
        user_id: str,
        source: str = "application",
        props: Mapping[str, object] | None = None,
    ) -> None:
        """Add an event to the tenant's audit trail (`*`: to the platform's); durable when it returns.

        `event` is noun.verb; `props` are JSON, at most 64 KiB, and hold no secrets, no row values and no names of files.
        Raises InvalidId, UnknownTenant, RequestError, and the errors of the store and of the key provider: then it is not recorded.
        """
        from sbh_pipelines.backup.service import load_service  # its drivers are slow to import

        load_service().audit.track(tenant_id, event, user_id, source, props or {})

    def __repr__(self) -> str:
        return "analytics"


analytics = Analytics()
track = analytics.track
