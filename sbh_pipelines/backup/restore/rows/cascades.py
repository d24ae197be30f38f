"""Rows that went, or lost their reference, with rows which a restore brings back, and that it does not bring back.

Those of shared tables are no tenant's: a restore of one tenant leaves them as they are, and its plan says so. Those of the tenant's
own tables were not chosen.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.plan import LeftBehind, TablePlan
from sbh_pipelines.database.merge.untouched import census
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


def left_behind(context: RestoreContext, tables: Iterable[TablePlan]) -> tuple[LeftBehind, ...]:
    """Tables that were not chosen, whose rows go with those that come back, at whatever depth, and that lack some."""
    plans = {plan.table: plan for plan in tables}
    then = {table.table: table.rows for table in chain.from_iterable(c.tables for c in context.components.values())}
    names = {table.oid: table.full_name for table in context.tenancy.catalog.tables.values()}
    found: dict[str, LeftBehind] = {}
    back = [name for name, plan in plans.items() if plan.insert]
    while back:
        parent = back.pop()
        for table in context.tenancy.tables:
            if table.full_name in plans or table.full_name in found or not then.get(table.full_name):
                continue
            keys = (key for key in table.table.foreign_keys if names.get(key.parent) == parent and key.on_delete == "c")
            if (key := next(keys, None)) is None:
                continue
            now = census(context.connection, table, context.tenant.key, context.point.snapshot).rows
            if now < then[table.full_name]:
                found[table.full_name] = LeftBehind(table.full_name, parent, key.name, then[table.full_name], now)
                back.append(table.full_name)
    return tuple(sorted(found.values(), key=lambda one: one.table))
