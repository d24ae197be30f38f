"""Rows of shared tables that went, or lost their reference, with rows which a restore brings back.

They are no tenant's: a restore of one tenant leaves them as they are, and its plan says so.
"""

from collections.abc import Iterable, Mapping

from sbh_pipelines.backup.restore.plan import TablePlan
from sbh_pipelines.database.schema.tenancy import SHARED, TenancyMap

_WENT = {
    "c": "rows of it that referred to them went with them (ON DELETE CASCADE) and do not come back",
    "n": "rows of it that referred to them lost the reference (ON DELETE SET NULL) and do not get it back",
    "d": "rows of it that referred to them got the default (ON DELETE SET DEFAULT) and keep it",
}


def not_coming_back(tenancy: TenancyMap, tables: Iterable[TablePlan]) -> Mapping[str, str]:
    """Shared table -> why it may lack rows after a restore of these. They are in the platform backup, for all tenants at once."""
    inserted = {plan.table: plan.insert for plan in tables if plan.insert}
    catalog = tenancy.catalog.tables
    found: dict[str, str] = {}
    for status, table in zip(tenancy.statuses, catalog.values(), strict=True):
        for key in table.foreign_keys if status.status == SHARED else ():
            parent = catalog[key.parent].full_name
            if key.on_delete in _WENT and parent in inserted:
                which = f"{inserted[parent]:,} rows of {parent} come back ({key.name}); {_WENT[key.on_delete]}"
                found[f"shared table {table.full_name}"] = f"{which}: the platform backup has them"
    return found
