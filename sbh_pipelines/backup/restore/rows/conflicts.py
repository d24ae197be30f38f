"""Rows of a restore that are in conflict with live ones, as a plan names them: which, and whose the live ones are."""

from collections.abc import Iterable, Mapping, Sequence

from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.plan import Conflict, ConflictRow
from sbh_pipelines.backup.restore.rows.compare import TableComparison
from sbh_pipelines.backup.restore.rows.samples import masked_key, sensitive_columns
from sbh_pipelines.database.merge.conflicts import Collision, foreseen
from sbh_pipelines.database.merge.merge import TableMerge
from sbh_pipelines.database.merge.relationships.adoption import HeldKey
from sbh_pipelines.database.schema.tenancy import TENANTS
from sbh_pipelines.database.session.connection import translated
from sbh_pipelines.database.session.sql import ident, literal

THIS, NOBODY, ANOTHER = "this tenant", "no tenant", "another tenant"


def find_conflicts(
    context: RestoreContext, compared: TableComparison, merge: TableMerge, *, foresee: bool
) -> tuple[Conflict, ...]:
    """What of a table is in conflict. Without `foresee` only keys that are other tenants' now, which is known already."""
    if foresee:
        found = foreseen(context.connection, merge)
    else:
        held = compared.held
        found = [Collision(f"{merge.table.table.name}_pkey", held.rows, held.named)] if held.rows else []
    return tuple(_conflict(context, merge, collision) for collision in found)


def _conflict(context: RestoreContext, merge: TableMerge, collision: Collision) -> Conflict:
    owners = _owners(context, [held.owner for held in collision.named])
    masked = sensitive_columns(merge.table, context.site.settings.restore)
    rows = tuple(_row(held, owners, masked, context.names_others) for held in collision.named)
    return Conflict(f"unique key {collision.constraint}", collision.rows, rows)


def _row(held: HeldKey, owners: Mapping[str, str], masked: set[str], everybodys: bool) -> ConflictRow:
    owner = NOBODY if held.owner is None else owners[held.owner]
    shown = everybodys or owner in (THIS, NOBODY)
    return ConflictRow(
        masked_key(held.key, masked), masked_key(held.holder, masked) if shown else None, owner if shown else ANOTHER
    )


def _owners(context: RestoreContext, keys: Iterable[str | None]) -> dict[str, str]:
    """What tenants are called, by their keys: their slugs; of one that is not listed its key."""
    wanted = {key for key in keys if key is not None}
    if not wanted:
        return {}
    return {
        **{key: f"the tenant with the key {key}" for key in wanted},
        **(_slugs(context, sorted(wanted)) if context.names_others else {}),
        **{key: THIS for key in wanted if key == context.tenant.key},
    }


def _slugs(context: RestoreContext, keys: Sequence[str]) -> dict[str, str]:
    settings = context.site.settings.tenants
    found: dict[str, str] = {}
    for table in context.tenancy.tables:
        if table.status == TENANTS and table.table.column(settings.slug) is not None:
            with translated("look up the tenants", table.full_name):
                cursor = context.connection.cursor()
                cursor.execute(
                    f"SELECT t.{ident(settings.key)}::text, t.{ident(settings.slug)}::text FROM {table.source}"
                    f" WHERE t.{ident(settings.key)}::text IN ({', '.join(map(literal, keys))})"
                )
                found |= {key: slug for key, slug in cursor.fetchall() if slug is not None}
    return found
