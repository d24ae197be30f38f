"""docs/settings.md, made from the settings' own fields, so that the page cannot fall behind them."""

import json
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.reading.environment import assignment
from sbh_pipelines.settings.reading.fields import find, named_fields, tables_of

MADE_BY = "<!-- Made by `sbh settings docs --write docs/settings.md`"
_HEAD = f"""\
# Settings

{MADE_BY}; a test keeps it true. Change the fields in `sbh_pipelines/settings/`. -->

One file, `sbh.toml`, and the environment, which wins over it. The file is the one given with `sbh --settings FILE`,
else named by `SBH_SETTINGS`, else `sbh.toml` in the working directory. Every section is a TOML table, and what stands in
double brackets a list of tables; a field `x` of section `[s]` is overridden by the environment variable `SBH_S__X`.
Lists and tables in the environment are JSON, e.g.
`SBH_DATABASE__SHARED='["plans"]'`. Relative paths in the file are relative to the file. An unknown field is an error, and so
is an unknown, empty or unreadable variable that begins with `SBH_`: it is named, with its form, and the exit status is 3.

**Secrets** are given in one of four ways, first found wins: the field in the environment; `x_file`, a file that holds
nothing else; `x_secret`, the name or ARN of an AWS Secrets Manager secret; the field in `sbh.toml`. No secret is ever
logged or shown. A secret of Secrets Manager is the bare text, or a JSON object as RDS and rotations write it, of which the key
`x` counts (`password` of `{{"username": ..., "password": ...}}`); another key is named after the ARN, as ECS does: `ARN:key::`.
Its region is the ARN's, else that of the bucket it is for (of a copy: the region that the copy lies in), the machine's
(`AWS_REGION`, the profile's), the first of `storage.regions`. A region that is away does not keep the next from being asked.

`sbh doctor` checks all of it against the real world and says how to mend each finding.
"""

_SINGLE = "One value, in the first lines of the file: what follows a section's head is the section's."

# What the three forms of a secret and a few self-evident names need not repeat at every field.
_SUFFIXES = {"_file": "A file that holds `{}`.", "_secret": "AWS Secrets Manager secret that holds `{}`."}


@dataclass(frozen=True, slots=True)
class Field:
    section: str
    name: str
    type: str
    default: str
    meaning: str
    env: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def fields() -> list[Field]:
    """Every field of every section, in the order of Settings, then what is in none, then the lists of tables.

    Those of nested tables have a dotted name.
    """
    rows = [row for section, model in _sections() for row in _rows(section, model, "", f"SBH_{section.upper()}__")]
    rows += [
        Field(name, name, _type(info.annotation), _value(info.default), info.description or "", f"`SBH_{name.upper()}`")
        for name, info in Settings.model_fields.items()
        if find(Settings, (name,)).single
    ]
    return rows + [replace(row, env="") for name, model in _lists() for row in _rows(name, model, "", "")]


def page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD]
    rows = fields()
    titled = [(section, f"[{section}]", _first_paragraph(model)) for section, model in _sections()]
    titled += [(name, name, _SINGLE) for name in Settings.model_fields if find(Settings, (name,)).single]
    titled += [(name, f"[[{name}]]", f"{_first_paragraph(model)} {_as_variable(name)}") for name, model in _lists()]
    for section, title, meaning in titled:
        parts.append(f"\n## {title}\n\n{meaning}\n")
        parts.append("| field | type | default | meaning | environment |\n|---|---|---|---|---|")
        parts += [
            f"| `{row.name}` | {_cell(row.type)} | {_cell(row.default)} | {_cell(row.meaning)} | {_cell(row.env)} |"
            for row in rows
            if row.section == section
        ]
    return "\n".join(parts) + "\n"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in Settings.model_fields.items():
        model = info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield name, model


def _lists() -> Iterator[tuple[str, type[BaseModel]]]:
    """The lists of tables at the top."""
    for name, info in Settings.model_fields.items():
        if (model := tables_of(info.annotation)) is not None:
            yield name, model


def _as_variable(name: str) -> str:
    return f"A table for each; in the environment all of them at once: `{assignment(find(Settings, (name,)))}`."


def _rows(section: str, model: type[BaseModel], prefix: str, env: str) -> Iterator[Field]:
    default_owner = model.model_fields
    for name, info in named_fields(model).items():
        inner = info.annotation
        variable = f"{env}{name.upper()}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            for row in _rows(section, inner, f"{prefix}{name}.", f"{variable}__"):
                field = row.name.removeprefix(f"{prefix}{name}.")
                value = getattr(info.default, field, None)
                yield Field(row.section, row.name, row.type, _value(value), row.meaning, row.env)
            continue
        yield Field(
            section,
            prefix + name,
            _type(inner) + _bounds(info),
            "required" if info.is_required() else _value(info.default),
            _meaning(name, info, default_owner),
            f"`{variable}`",
        )
        item = get_args(inner)[0] if get_origin(inner) is list else None
        if isinstance(item, type) and issubclass(item, BaseModel):  # a list of tables: its fields have no variable
            for row in _rows(section, item, f"{prefix}{name}[].", ""):
                yield Field(row.section, row.name, row.type, row.default, row.meaning, "")


def _meaning(name: str, info: FieldInfo, siblings: dict[str, FieldInfo]) -> str:
    if info.description:
        return info.description
    for suffix, text in _SUFFIXES.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in siblings:
            return text.format(name.removesuffix(suffix))
    return _MEANINGS.get(name, "")


# For fields whose name says it all in code, but not to everybody.
_MEANINGS = {
    "connect_timeout_s": "How long connecting may take, s.",
    "table": "A table, as `schema.table` or `table`.",
    "column": "The column of it that holds object keys.",
    "default_tier": "The tier where `tier` is null or the column is empty.",
    "enabled": "Whether files are backed up at all.",
    "secret_access_key": "The secret that belongs to `access_key_id` (a secret).",
    "kms_endpoint_url": "Only for a KMS other than AWS's.",
    "keep_hourly": "Backups kept: the newest of each of so many hours.",
    "keep_daily": "Backups kept: the newest of each of so many days.",
    "keep_weekly": "Backups kept: the newest of each of so many weeks.",
    "keep_monthly": "Backups kept: the newest of each of so many months.",
    "sns_topic_arn": "SNS topic that gets a message per alert.",
    "sns_endpoint_url": "Only for an SNS other than AWS's.",
    "smtp_host": "Mail server; null: no mail.",
    "smtp_port": "Its port.",
    "smtp_starttls": "Whether to encrypt with STARTTLS.",
    "smtp_user": "User name for the mail server; null: none.",
    "smtp_password": "Password for the mail server (a secret).",
    "mail_from": "Sender of the mails.",
    "mail_to": "Receivers of the mails.",
}


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type(part) for part in arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if arguments and hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    names = {str: "string", int: "integer", float: "number", bool: "true or false", SecretStr: "secret", Path: "path"}
    return names.get(
        annotation, "table" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else "value"
    )


def _bounds(info: FieldInfo) -> str:
    signs = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), MinLen: ("min_length", "items ≥")}
    found = [
        f"{sign} {getattr(bound, attribute)}"
        for bound in info.metadata
        for kind, (attribute, sign) in signs.items()
        if isinstance(bound, kind)
    ]
    return f", {', '.join(found)}" if found else ""


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return f"`{json.dumps(value, default=str)}`"


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(page(), end="")
