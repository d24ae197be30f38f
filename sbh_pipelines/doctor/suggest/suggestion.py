"""Settings that a suggestion is made of, and how they are written down to be pasted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.section import toml, toml_key

CHECK = "CHECK: "
LISTS = ("shared", "excluded", "left_out", "schemas")


@dataclass
class Suggestion:
    """What to set. Of each setting it is known why, or that it is a guess (then its reason begins with `CHECK`).

    Attributes:
        tenants: fields of `[tenants]`.
        database: fields of `[database]`: whole new values, also of the lists that are there already.
        links, follow: entries to add.
        reasons: by `field`, or `field:entry` of a list, `links:table`, `follow:column`.
        unknown: what cannot be known from a database.
        statements: SQL that lets the change journal cover more tables, with comments.
    """

    settings: Settings
    tenants: dict[str, Any] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    links: list[dict[str, Any]] = field(default_factory=list)
    follow: list[dict[str, Any]] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    def set(self, section: str, name: str, value: Any, why: str) -> None:
        {"tenants": self.tenants, "database": self.database}[section][name] = value
        self.reasons[name] = why

    def add(self, name: str, entry: str, why: str) -> None:
        """Add an entry to a list of `[database]`."""
        current = self.database.get(name, getattr(self.settings.database, name))
        self.database[name] = [*current, entry]
        self.reasons[f"{name}:{entry}"] = why

    def link(self, table: str, why: str, **fields: Any) -> None:
        self.links.append({"table": table, **fields})
        self.reasons[f"links:{table}"] = why

    def rule(self, column: str, parent: str, why: str) -> None:
        self.follow.append({"column": column, "parent": parent})
        self.reasons[f"follow:{column}"] = why

    @property
    def applied(self) -> Settings:
        """The settings, as they are with all of it. Raises nothing that the settings themselves do not."""
        database = self.settings.database
        values = database.model_dump(exclude_unset=True) | self.database
        values["links"] = [*(link.model_dump(exclude_none=True) for link in database.links), *self.links]
        values["follow"] = [*(rule.model_dump(exclude_none=True) for rule in database.follow), *self.follow]
        tenants = self.settings.tenants.model_dump(exclude_unset=True) | self.tenants
        return self.settings.model_copy(
            update={
                "database": type(database).model_validate(values),
                "tenants": type(self.settings.tenants).model_validate(tenants),
            }
        )

    @property
    def empty(self) -> bool:
        return not (self.tenants or self.database or self.links or self.follow)

    @property
    def guesses(self) -> dict[str, str]:
        return {name: why for name, why in self.reasons.items() if why.startswith(CHECK)}

    def as_dict(self) -> dict[str, object]:
        database: dict[str, object] = dict(self.database)
        if self.links:
            database["links"] = self.links
        if self.follow:
            database["follow"] = self.follow
        return {
            "tenants": self.tenants,
            "database": database,
            "reasons": self.reasons,
            "unknown": self.unknown,
            "statements": self.statements,
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """To be pasted into sbh.toml."""
        if self.empty:
            nothing = "# Nothing to suggest: every table and every tenant has its place."
            return "\n".join([nothing, *self._unknown(), *self._statements()])
        lines = [
            "# For sbh.toml. Where a header stands there already, put the lines below it, in place of those of the same name;",
            "# the blocks in [[...]] are added to those that are there.",
        ]
        if self.guesses:
            lines.append(f"# Settings that rest on a guess, marked CHECK: {len(self.guesses)}. Read them first.")
        lines += self._section("tenants", self.tenants)
        lines += self._section("database", self.database)
        for rule in self.follow:
            lines += [
                "",
                f"# {one_line(self.reasons['follow:' + rule['column']])}",
                "[[database.follow]]",
                *_fields(rule),
            ]
        for link in self.links:
            lines += [
                "",
                f"# {one_line(self.reasons['links:' + link['table']])}",
                "[[database.links]]",
                *_fields(link),
            ]
        return "\n".join([*lines, *self._unknown(), *self._statements()])

    def _section(self, name: str, fields: Mapping[str, Any]) -> list[str]:
        if not fields:
            return []
        lines = ["", f"[{name}]"]
        for field_name, value in fields.items():
            if field_name in LISTS:
                lines.append(f"{field_name} = [")
                for entry in value:
                    why = self.reasons.get(f"{field_name}:{entry}", "as it is now")
                    lines.append(f"  {toml(entry)},  # {one_line(why)}")
                lines.append("]")
            else:
                lines += [f"# {one_line(self.reasons[field_name])}", f"{toml_key(field_name)} = {toml(value)}"]
        return lines

    def _statements(self) -> list[str]:
        """In comments: the text is for sbh.toml, these are for psql."""
        if not self.statements:
            return []
        head = "# For the database, as the owner of the tables: SQL that lets the change journal cover more of them."
        return ["", head, *(f"# {one_line(one)}" for one in self.statements)]

    def _unknown(self) -> list[str]:
        return (
            ["", "# What a database does not tell:", *(f"# - {one_line(one)}" for one in self.unknown)]
            if self.unknown
            else []
        )


def _fields(fields: Mapping[str, Any]) -> list[str]:
    return [f"{toml_key(name)} = {toml(value)}" for name, value in fields.items()]


def one_line(text: str) -> str:
    """A comment must not end before its end: names may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
