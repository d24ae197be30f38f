"""What every section of the settings is made of, and how values are written in sbh.toml."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PrivateAttr, StringConstraints

QualifiedName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Section(BaseModel):
    """A table of sbh.toml: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _home_region: str | None = PrivateAttr(None)
    _lies_in: str | None = PrivateAttr(None)

    @property
    def home_region(self) -> str | None:
        """The site's first region, in which its secrets are where nothing else says so."""
        return self._home_region

    def at_home_in(self, region: str) -> "Section":
        """The same section, of a site whose first region this is."""
        copy = self.model_copy()
        copy._home_region = region
        return copy

    def real_region(self, region: str) -> str:
        """Where what belongs to a region really lies: there, unless these are the settings of a copy."""
        return self._lies_in or region


def toml(value: object) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(str(name))} = {toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return str(value)


def toml_key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else toml(name)


def toml_block(header: str, fields: Mapping[str, object]) -> str:
    """`[header]`, or `[[header]]`, and a line for each field: to be pasted."""
    return "\n".join([header, *(f"{toml_key(name)} = {toml(value)}" for name, value in fields.items())])
