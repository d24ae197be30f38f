"""What `restore.renamed` declares, applied to one backup: which live table and column a name of the backup means.

A backup may be older than several renames of one thing, so declarations are followed until a name is there. A declaration
whose old name the backup does not have says nothing about it: the backup is newer.
"""

from collections.abc import Iterable, Mapping, Sequence

from sbh_pipelines.database.schema.catalog import Catalog, Table


def find_name(name: str, full_names: Iterable[str], schemas: Sequence[str]) -> str | None:
    """The full name that `name` (`schema.table`, or `table` in the first of `schemas` that has it) means."""
    known = set(full_names)
    return next((full for full in (name, *(f"{schema}.{name}" for schema in schemas)) if full in known), None)


class Renames:
    """The declared renames of tables and columns, for the tables of one backup."""

    def __init__(
        self, declared: Mapping[str, str], backup: Iterable[str], catalog: Catalog, schemas: Sequence[str]
    ) -> None:
        self._declared, self._schemas = declared, schemas
        self._live = {t.full_name for t in catalog.tables.values()}
        self._known = self._live | set(backup)
        self._meant: dict[str, list[str]] = {}  # other names that a table of the backup is declared under

    def live(self, full_name: str) -> bool:
        return full_name in self._live

    def names_live(self, name: str, full_name: str) -> bool:
        """`name`, as settings write it, is the live table with this full name."""
        return find_name(name, self._live, self._schemas) == full_name

    def table(self, full_name: str) -> str:
        """The full name of the live table that a table of the backup is now; as declared, whether it is there or not."""
        schema, seen = full_name.split(".", 1)[0], {full_name}
        now = full_name
        while (target := self._declared_table(now, schema)) is not None and target not in seen:
            seen.add(target)
            now = target
            if self.live(now):
                break
        self._meant[full_name] = [*seen, now]
        return now

    def _declared_table(self, full_name: str, schema: str) -> str | None:
        """The next name of a table, if one is declared."""
        for old, new in self._declared.items():
            if find_name(old, self._known | {full_name}, self._schemas) != full_name:
                continue
            # A bare new name stays in the schema, unless only another one has it.
            nearest = [schema, *(s for s in self._schemas if s != schema)]
            return find_name(new, self._live, nearest) or (new if "." in new else f"{schema}.{new}")
        return None

    def columns(
        self, backup_table: str, columns: Sequence[str], live: Table
    ) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
        """Live names by the backup's names; and for those that are declared wrongly the target and why it cannot be."""
        declared = self._declared_columns({*self._meant.get(backup_table, ()), backup_table, live.full_name})
        targets: dict[str, str] = {}
        refused: dict[str, tuple[str, str]] = {}
        for name in columns:
            target, seen = name, {name}
            while target in declared and declared[target] not in seen:
                target = declared[target]
                seen.add(target)
                if live.column(target) is not None:
                    break
            why = ""
            if target != name:
                if live.column(target) is None:
                    why = f"{name} is declared as renamed to {target}, and the table has no such column"
                elif live.column(name) is not None:
                    why = f"{name} is declared as renamed to {target}, but the table still has a column {name}"
                elif target in columns:
                    why = f"{name} is declared as renamed to {target}, but the backup has a column {target} as well"
                elif target in targets.values():
                    why = f"several columns of the backup are declared as renamed to {target}"
            if why:
                refused[name] = (target, f"{why}: correct restore.renamed.")
            else:
                targets[name] = target
        return targets, refused

    def _declared_columns(self, tables: set[str]) -> dict[str, str]:
        """Declared new names by old names, of the columns of a table under any of its names."""
        found = {}
        for old, new in self._declared.items():
            owner, dot, column = old.rpartition(".")
            if not dot or find_name(owner, self._known | tables, self._schemas) not in tables:
                continue
            new_owner, _, target = new.rpartition(".")
            moved = bool(new_owner) and find_name(new_owner, self._known | tables, self._schemas) not in tables
            found[column] = new if moved else target
        return found
