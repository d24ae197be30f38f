"""A suggestion put into a settings file; all else in it stays, comments too, but for those within a list that is replaced.

By tomlkit (TOML 1.0).
"""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit
from tomlkit.items import AoT

from sbh_pipelines.doctor.suggest.suggestion import LISTS, Suggestion, one_line
from sbh_pipelines.errors import SettingsError

_BLOCKS = ("links", "follow")


def pasted(text: str, made: Suggestion) -> str:
    """The file's text with the suggestion in it: fields take the place of those of their name, blocks are added.

    Each field has its reason as a comment. Raises SettingsError where the file is written in a way that cannot be kept.
    """
    document = tomlkit.parse(text)
    for name, fields in (("tenants", made.tenants), ("database", made.database)):
        for field, value in fields.items():
            section = document.setdefault(name, tomlkit.table())
            if field in LISTS:
                section[field] = _list(field, value, made)
            else:
                section[field] = value
                section[field].comment(one_line(made.reasons[field]))
    for name, blocks in (("links", made.links), ("follow", made.follow)):
        if blocks:
            added = document.setdefault("database", tomlkit.table()).setdefault(name, tomlkit.aot())
            for block in blocks:
                key = block["table"] if name == "links" else block["column"]
                _add(added, block, made.reasons[f"{name}:{key}"])
    new = tomlkit.dumps(document)
    if _parsed(new) != _merged(tomllib.loads(text), made):
        raise SettingsError(
            "The suggestion cannot be put into the settings file",
            why="the way in which [database] or [tenants] is written there does not let fields be added",
            remedy="paste what `sbh doctor --suggest` prints",
        )
    return new


def _parsed(text: str) -> dict[str, Any] | None:
    """None where it is no TOML: a comment within an inline table."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _list(name: str, entries: list[str], made: Suggestion) -> Any:
    made_list = tomlkit.array()
    for entry in entries:
        why = made.reasons.get(f"{name}:{entry}")
        made_list.add_line(entry, indent="  ", comment=one_line(why) if why else None)
    made_list.add_line(indent="")
    return made_list


def _add(blocks: AoT, fields: Mapping[str, Any], why: str) -> None:
    block = tomlkit.table()
    block.add(tomlkit.comment(one_line(why)))
    for name, value in fields.items():
        block.add(name, value)
    blocks.append(block)


def _merged(before: dict[str, Any], made: Suggestion) -> dict[str, Any]:
    merged = {**before}
    for name, fields in _sections(made):
        section = {**merged.get(name, {})}
        for field, value in fields.items():
            section[field] = [*section.get(field, []), *value] if field in _BLOCKS else value
        merged[name] = section
    return merged


def _sections(made: Suggestion) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if made.tenants:
        yield "tenants", made.tenants
    blocks = {name: value for name, value in (("links", made.links), ("follow", made.follow)) if value}
    if made.database or blocks:
        yield "database", {**made.database, **blocks}
