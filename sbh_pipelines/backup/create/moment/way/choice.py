"""What somebody chose to have put together: the moment, and what becomes of tables that the journal does not tell of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sbh_pipelines.backup.create.moment.way.base import Base
from sbh_pipelines.backup.create.moment.way.lay import Laid
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.errors import NotJournaled, RequestError
from sbh_pipelines.model import Tenant

ALL = "all"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a base's tables are in the backup of the moment.

    Attributes:
        tables: Full names of those that are.
        chosen: Whether they were named; else they are all.
        accepted: Those that may be as the base has them.
        as_of_backup: Those that are -> why.
        left_out: Tables that came after the base and are not in it -> why.
    """

    tables: frozenset[str]
    chosen: bool
    accepted: frozenset[str] | None
    as_of_backup: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def accepts(self, table: str) -> bool:
        return self.accepted is None or table in self.accepted

    def settled(self, tenant: Tenant, target: Target, base: Base, laid: Laid, copy: str | None = None) -> "Selection":
        """With what the journal does not tell of. `copy`: whose backups. Raises NotJournaled where it was not accepted."""
        missing = {table: why for table, why in laid.missing.items() if table in self.tables}
        came = {} if self.chosen else dict.fromkeys(laid.came, f"it came after {base.manifest.id}")
        refused = {table: why for table, why in (missing | came).items() if not self.accepts(table)}
        if refused:
            raise _refusal(tenant, target, base, refused, sorted(self.tables - refused.keys()), copy)
        return Selection(self.tables, self.chosen, self.accepted, missing, {f"table {t}": w for t, w in came.items()})


@dataclass(frozen=True, slots=True)
class MomentChoice:
    """What to put together.

    Attributes:
        target: The moment.
        tables: Only these, with or without their schema; none: all.
        as_of_backup: Tables that may be as the base has them where the journal does not tell of them; `all`: any.
    """

    target: Target
    tables: Sequence[str] = ()
    as_of_backup: Sequence[str] = ()

    def accepts_all(self, tables: Iterable[str]) -> bool:
        """Whether all of these may be as the base has them."""
        if ALL in self.as_of_backup:
            return True
        return all(table in self.as_of_backup or table.split(".", 1)[1] in self.as_of_backup for table in tables)

    def select(self, base: Base) -> Selection:
        """Of the tables of a base. Raises RequestError for one that it does not have."""
        known = list(base.definitions)
        chosen = {_full_name(name, known, base) for name in self.tables}
        accepted = None if ALL in self.as_of_backup else frozenset(_may_be_there(self.as_of_backup, known))
        return Selection(frozenset(chosen or known), bool(chosen), accepted)


def _full_name(name: str, known: Sequence[str], base: Base) -> str:
    found = [table for table in known if name in (table, table.split(".", 1)[1])]
    if len(found) == 1:
        return found[0]
    raise RequestError(
        "Several tables have this name" if found else "The backup has no such table",
        on=ascii(name)[:80],
        why=f"the moment is put together from {base.manifest.id}" + (f": {', '.join(found)}" if found else ""),
        remedy=f"sbh backup show {base.manifest.id} lists its tables",
    )


def _may_be_there(names: Sequence[str], known: Sequence[str]) -> set[str]:
    """Full names; one that the base does not have may be that of a table which came after it."""
    return {next((table for table in known if name in (table, table.split(".", 1)[1])), name) for name in names}


def _refusal(
    tenant: Tenant, target: Target, base: Base, refused: Mapping[str, str], others: Sequence[str], copy: str | None
) -> NotJournaled:
    shown = [f"{table}: {why}" for table, why in sorted(refused.items())[:_NAMED]]
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    command = f"sbh backup create {tenant.id} {target.option}"
    without = f"`{command} --tables {','.join(others)}`, or " if others else ""
    accepting = ",".join(sorted(refused)) if len(refused) <= _NAMED else ALL
    remedy = f"leave them out: {without}take them as {base.manifest.id} has them, of {base.point.time}:"
    remedy += f" `{command} --as-of-backup {accepting}`"
    if copy is not None:  # where no backup is made
        there = f"-t {tenant.id} --from-copy {copy}"
        chosen = f"`sbh restore diff @{target.text} --tables {','.join(others)} {there}`, or " if others else ""
        remedy = f"leave them out: {chosen}look at all of it as {base.manifest.id} has it, of {base.point.time}:"
        remedy += f" `sbh restore diff {base.manifest.id} {there}`"
    return NotJournaled(
        "The journal does not tell of every table up to the moment",
        on=f"{tenant.id}, {target.words}",
        why="; ".join(shown) + more,
        remedy=remedy,
    )
