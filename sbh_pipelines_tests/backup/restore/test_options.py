"""The options of a restore are declared once, and the three faces offer just what is declared."""

from enum import StrEnum
from typing import Any

import pytest
import typer

from sbh_pipelines.api.schema.bodies import AskBody, DiffBody, RestoreBody
from sbh_pipelines.backup.restore.request import OPTIONS, Face, RestoreRequest, Use, offered
from sbh_pipelines.cli.app import app
from sbh_pipelines.orchestration.restores.config import RestoreConfig

# One value for each option that is not its default.
OTHERS: dict[str, Any] = {
    "tables": ["users"],
    "rows": "projects where id in (1, 2)",
    "files": ["docs/**"],
    "config_only": True,
    "all_but": ["sessions"],
    "mode": "newest-wins",
    "references": "keep",
    "keep_extra_files": True,
    "accept_schema_changes": True,
    "as_tenant": True,
    "samples": 3,
    "show_sensitive": True,
    "safety_backup": False,
}


def plain(value: Any) -> Any:
    return str(value) if isinstance(value, StrEnum) else list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("command", ["diff", "run", "request"])
def test_the_command_line_offers_what_is_declared(command: str) -> None:
    """`safety_backup` is a flag that says no, of those commands that restore."""
    group: Any = typer.main.get_command(app)
    shown = {p.name: p for p in group.commands["restore"].commands[command].params}
    for option in offered(Face.CLI, Use.BOTH, Use.PLAN):
        assert shown[option.name].opts == ["--" + option.name.replace("_", "-")]
        assert shown[option.name].help == option.help[Face.CLI]
        assert shown[option.name].default in (option.default, None)
        assert shown[option.name].default is not None or option.default in ((), None)
    assert ("no_safety_backup" in shown) == (command != "diff")
    order = [name for name in shown if name in OPTIONS]
    assert order == [option.name for option in offered(Face.CLI, Use.BOTH, Use.PLAN)]


@pytest.mark.parametrize(
    ("body", "uses"),
    [(DiffBody, (Use.BOTH, Use.PLAN)), (RestoreBody, (Use.BOTH, Use.RESTORE)), (AskBody, (Use.BOTH, Use.RESTORE))],
)
def test_the_api_offers_what_is_declared(body: Any, uses: tuple[Use, ...]) -> None:
    schema = body.model_json_schema()["properties"]
    declared = offered(Face.API, *uses)
    assert {name for name in schema if name in OPTIONS} == {option.name for option in declared}
    for option in declared:
        assert schema[option.name]["default"] == plain(option.offered_default)
        if (body, option.name) != (AskBody, "safety_backup"):  # there it is said of the restore that is asked for
            assert schema[option.name]["description"] == option.help[Face.API]


def test_the_job_offers_what_is_declared() -> None:
    keys = RestoreConfig.model_fields
    declared = offered(Face.DAGSTER)
    assert {name for name in keys if name in OPTIONS} == {option.name for option in declared}
    for option in declared:
        key = keys[option.name]
        assert key.description == option.help[Face.DAGSTER]
        assert key.default == plain(option.offered_default)


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_face_was_given_is_what_is_asked_for(name: str) -> None:
    """Of every option, alone, through every face that offers it; the command line's words are held by its own tests."""
    option, value = OPTIONS[name], OTHERS[name]
    wanted = RestoreRequest.of(**{name: value})
    assert wanted != RestoreRequest()
    if Face.API in option.help:
        body: Any = DiffBody if option.use is Use.PLAN else RestoreBody
        assert body(**{name: value}).request() == wanted
    if Face.DAGSTER in option.help:
        assert RestoreConfig(**{name: value}).request() == wanted


def test_every_option_is_tried() -> None:
    assert set(OTHERS) == set(OPTIONS)
