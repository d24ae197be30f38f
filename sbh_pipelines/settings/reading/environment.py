"""The variables of the environment: that each is known, and that what must be JSON is.

A variable is `SBH_`, then the names from the section on, with two underscores between them: `SBH_STORAGE__REGIONS`. What a
variable holds is never shown, but for lists of plain words: it may be a secret.
"""

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings.reading.fields import Found, NoField, as_json, find

PREFIX = "SBH_"
_OTHERS = ("SBH_SETTINGS", "SBH_TOKEN", "SBH_TOKEN_FILE")  # read elsewhere
# What Kubernetes gives every container for each of its services, also for one whose name begins with "sbh".
_KUBERNETES = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://.+")
_BETWEEN = re.compile(r"[\s,;]+")
_WORDS = re.compile(r"[\w.:/{}@*-]+([\s,;]+[\w.:/{}@*-]+)*")


def check_environment(model: type[BaseModel], environment: Mapping[str, str]) -> None:
    """Raises SettingsError that names every variable that is unknown, empty, or cannot be read, with its form."""
    problems = [
        problem
        for name, value in sorted(environment.items())
        if name.upper().startswith(PREFIX) and (problem := _problem(model, name, value))
    ]
    if problems:
        raise SettingsError(
            "A variable of the environment is not right" if len(problems) == 1 else "Variables of the environment are not right",
            on=", ".join(name for name, _, _ in problems),
            why="; ".join(f"{name} {why}" for name, why, _ in problems),
            remedy="; ".join(remedy for _, _, remedy in problems),
        )  # fmt: skip


def path_of_variable(path: Sequence[Any], environment: Mapping[str, str]) -> Sequence[Any]:
    """The part of a path that is the name of a variable, which gave the value or what is around it; empty where none did."""
    names = {name.upper() for name in environment}
    return next((path[:end] for end in range(len(path), 0, -1) if variable(path[:end]) in names), ())


def variable(path: Sequence[Any]) -> str:
    """The name of the variable of a setting."""
    return PREFIX + "__".join(map(str, path)).upper()


def assignment(found: Found, value: Any = None) -> str:
    """A line for a shell, which sets a variable to `value`, else to an example."""
    return f"{variable(found.path)}={shlex.quote(as_json(found.example() if value is None else value))}"


def _problem(model: type[BaseModel], name: str, value: str) -> tuple[str, str, str] | None:
    """(the variable, what is wrong with it, what to do about it)."""
    if name.upper() in _OTHERS or _KUBERNETES.fullmatch(name) or _KUBERNETES_ADDRESS.fullmatch(value):
        return None
    path = name[len(PREFIX) :].lower().split("__")
    try:
        found = find(model, path, through_lists=False)
    except NoField as error:
        return None if _is_somebody_elses(model, path) else (name, "is no setting", _unknown(model, name, error))
    if not value.strip() and not found.may_be_empty:
        return name, "is empty", f"unset {name}, or give it a value, e.g. {assignment(found)}"
    if found.section:
        field = find(model, [path[0], next(iter(model.model_fields[path[0]].annotation.model_fields))])  # type: ignore[union-attr]
        form = f"set one variable for each field, e.g. {assignment(field)}"
        return None if isinstance(_json(value), dict) else (name, "is a whole section, and no JSON object", form)
    if found.structured and _json(value) is None:
        kind = found.description.replace("a table", "an object").replace("tables", "objects")
        return name, f"must be {kind} in JSON, and is no JSON", _as_meant(found, value)
    return None


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _as_meant(found: Found, value: str) -> str:
    """The form, with the words that were given if it is clear that they are the items."""
    if found.texts and len(value) <= 500 and _WORDS.fullmatch(value.strip()):
        return f"write {assignment(found, _BETWEEN.split(value.strip()))}"
    return f"write it as in {assignment(found)}"


def _is_somebody_elses(model: type[BaseModel], path: Sequence[str]) -> bool:
    """Whether a name without two underscores is like none of ours."""
    if len(path) > 1:
        return False
    name = path[0]
    ours = [*model.model_fields, *(other.removeprefix(PREFIX).lower() for other in _OTHERS)]
    return not (name.startswith(tuple(f"{o}_" for o in ours)) or difflib.get_close_matches(name, ours, n=1, cutoff=0.8))


def _unknown(model: type[BaseModel], name: str, error: NoField) -> str:
    rest = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))[len(error.at) :]
    meant = [variable((*path, *rest)) for path in error.meant]
    if not meant:
        others = [f"{PREFIX}{section.upper()}__" for section in model.model_fields] if len(error.at) == 1 else []
        meant = difflib.get_close_matches(name.upper(), [*_OTHERS, *others], n=1, cutoff=0.8)
    guess = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"{guess}Correct the name or unset {name}; docs/settings.md has the names of all"
