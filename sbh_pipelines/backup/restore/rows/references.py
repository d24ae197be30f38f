"""Rows outside a restore that refer to rows which it would remove, as a plan names them, with what can be done about them."""

from collections.abc import Mapping, Sequence

from sbh_pipelines.backup.restore.context import RestoreContext
from sbh_pipelines.backup.restore.plan import ReferenceRows, key_text
from sbh_pipelines.backup.restore.rows.samples import masked_key, sensitive_columns
from sbh_pipelines.database.merge.relationships.references import ANOTHER, MOST_NAMED, ON_DELETE, THIS, Reference
from sbh_pipelines.database.session.sql import ident, literal
from sbh_pipelines.errors import RestoreRefused

_FEW = 3


def shown_reference(reference: Reference, context: RestoreContext) -> ReferenceRows:
    """For a plan; values of sensitive columns are masked."""
    masked = _masked(reference, context)
    return ReferenceRows(
        reference.table,
        reference.whose,
        reference.rows,
        reference.parent,
        reference.key.name,
        ON_DELETE[reference.key.on_delete],
        tuple(masked_key(named, masked) for named in reference.named),
        reference.done or None,
    )


def _masked(reference: Reference, context: RestoreContext) -> set[str]:
    parent = context.tenancy.find(reference.parent)
    return sensitive_columns(parent, context.site.settings.restore) if parent is not None else set()


def references_problem(refused: Sequence[Reference], context: RestoreContext) -> RestoreRefused:
    """The error for rows that refer to what would go, where nothing becomes of them."""
    made, kept = (
        RestoreRefused(
            "Rows outside the restore refer to rows that it would remove",
            on=", ".join(dict.fromkeys(reference.table for reference in refused)),
            why="; ".join(
                _described(reference) + (_named(reference, context) if named else "") for reference in refused[:5]
            ),
            remedy="; or ".join(_choices(refused, context, named=named)),
        )
        for named in (True, False)
    )
    made.kept_as = kept
    return made


def _named(reference: Reference, context: RestoreContext) -> str:
    """The keys of the first rows that would go."""
    masked = _masked(reference, context)
    named = "; ".join(key_text(masked_key(key, masked)) for key in reference.named[:_FEW])
    return f": {named}{', ...' if len(reference.named) > _FEW else ''}"


def _described(reference: Reference) -> str:
    whose = f" of {reference.whose}" if "tenant" in reference.whose else f" ({reference.whose})"
    return (
        f"{reference.rows} rows of {reference.table}{whose} refer to {reference.parent} by {reference.key.name}, on delete"
        f" {ON_DELETE[reference.key.on_delete]}"
    )


def _choices(refused: Sequence[Reference], context: RestoreContext, *, named: bool) -> list[str]:
    """What can be done, as it is true for these rows. `named`: also the statements that remove them, with their keys."""
    parents = ", ".join(dict.fromkeys(reference.parent for reference in refused))
    choices = []
    if all(r.declared for r in refused):
        does = ", ".join(dict.fromkeys(_declared(reference) for reference in refused))
        choices.append(f"--references declared: as the foreign keys say, {does}")
    choices.append(f"--references keep: the rows of {parents} that they refer to stay")
    if any(r.whose == THIS and r.table not in context.kept.tables for r in refused):
        choices.append("restore the tables that they are in as well")
    statements = [_statement(r) for r in refused[:_FEW] if r.whose != ANOTHER and _sayable(r, context)]
    if not named:
        choices.append("see the rows with `sbh restore diff`, and remove them first")
    elif statements:
        choices.append("remove them first, in the application, or by " + " ".join(statements))
    return choices


def _sayable(reference: Reference, context: RestoreContext) -> bool:
    """Whether all of its keys are known, and may be shown."""
    return len(reference.named) < MOST_NAMED and not _masked(reference, context) & set(reference.key.parent_columns)


def _declared(reference: Reference) -> str:
    rows = f"{reference.rows} rows of {reference.table}"
    if reference.key.on_delete == "c":
        beside = "" if "tenant" in reference.whose else ", which no backup of a tenant brings back,"
        return f"{rows}{beside} are deleted"
    return f"{rows} lose the reference" if reference.key.on_delete == "n" else f"{rows} get the default"


def _statement(reference: Reference) -> str:
    schema, _, name = reference.table.partition(".")
    columns = reference.key.columns
    rows = ", ".join(_row(named) for named in reference.named)
    listed = ident(columns[0]) if len(columns) == 1 else f"({', '.join(map(ident, columns))})"
    return f"DELETE FROM {ident(schema)}.{ident(name)} WHERE {listed} IN ({rows});"


def _row(values: Mapping[str, str | None]) -> str:
    texts = [literal(value or "") for value in values.values()]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
