"""What is wrong with values, by the name that each was given under, and what to write instead."""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings.reading.environment import assignment, path_of_variable, variable
from sbh_pipelines.settings.reading.fields import Found, NoField, as_toml, find

_SHOWN = 5


def settings_error(
    model: type[BaseModel], file: Path, environment: Mapping[str, str], error: ValidationError
) -> SettingsError:
    """The error that names every wrong setting: its variable, or its place in the file."""
    whys, remedies = [], []
    for problem in error.errors(include_input=False, include_url=False):
        why, remedy = _told(model, environment, problem["loc"], problem["type"], problem["msg"])
        whys.append(why)
        if remedy and remedy not in remedies:
            remedies.append(remedy)
    remedies = [*remedies[:_SHOWN], "docs/settings.md has every field"]
    return SettingsError("The settings are not valid", on=str(file), why="; ".join(whys), remedy="; ".join(remedies))


def _told(
    model: type[BaseModel], environment: Mapping[str, str], loc: tuple[Any, ...], kind: str, message: str
) -> tuple[str, str]:
    """(what is wrong, what to write)."""
    place, given = ".".join(map(str, loc)), path_of_variable(loc, environment)
    told = f"{variable(given)} ({place})" if given else place
    try:
        find(model, loc)
    except NoField as unknown:
        meant = " or ".join(map(".".join, unknown.meant))
        return f"{told} is no setting", f"did you mean {meant}?" if meant else f"leave out {place}"
    message = message.removeprefix("Value error, ")
    why = f"{told}: {message}" if place else message
    if kind in ("value_error", "assertion_error"):  # our own, which say themselves what to do
        return why, ""
    if given:
        return why, f"write {assignment(find(model, given))}"
    whole = takewhile(lambda part: not isinstance(part, int), loc)  # a list is shown whole, not an item of it
    return why, f"write {_in_file(find(model, tuple(whole)))}"


def _in_file(found: Found) -> str:
    """The setting as the file has it, with its section."""
    *section, field = found.path
    if found.tables:
        fields = "\n".join(f"{name} = {as_toml(value)}" for name, value in found.example()[0].items())
        return f"\n[[{'.'.join(found.path)}]]\n{fields}\n"
    example = found.example()
    if found.single:
        return f"{field} = {as_toml(example)} at the top of the file, before any section"
    if not section:
        return f"\n[{field}]\n"
    return f"\n[{'.'.join(section)}]\n{field} = {as_toml(example)}\n"
