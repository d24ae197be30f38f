"""What drills rehearse: the specification's scenarios, and which parts of a restore each is made of."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from sbh_pipelines.errors import RequestError
from sbh_pipelines.model import unparsed


class Part(StrEnum):
    """A piece of work that a drill does once, whichever of its scenarios need it."""

    DATABASE = "database"  # all rows of the tenant into an empty database: schema, shared rows, rows, constraints
    FILES = "files"
    CONFIG = "config"  # the tables of the config component alone


COMPLETE_FAILURE = "complete failure"
DATABASE_CORRUPTION = "database corruption"
FILE_SYSTEM_LOSS = "file system loss"
CONFIGURATION_ERROR = "configuration error"

PARTS: dict[str, tuple[Part, ...]] = {
    COMPLETE_FAILURE: (Part.DATABASE, Part.FILES),
    DATABASE_CORRUPTION: (Part.DATABASE,),
    FILE_SYSTEM_LOSS: (Part.FILES,),
    CONFIGURATION_ERROR: (Part.CONFIG,),
}
SCENARIOS = tuple(PARTS)
BACKUP_TYPES = {
    COMPLETE_FAILURE: "full backup",
    DATABASE_CORRUPTION: "database backup",
    FILE_SYSTEM_LOSS: "file backup",
    CONFIGURATION_ERROR: "configuration backup",
}


def parse_scenarios(names: Sequence[str]) -> tuple[str, ...]:
    """The scenarios of these names in the order of the specification; all of them for none. Raises RequestError.

    `-` and `_` may stand for spaces.
    """
    wanted = {name.strip().lower().replace("-", " ").replace("_", " ") for name in names}
    for name in sorted(wanted - set(SCENARIOS)):
        raise RequestError("Not a scenario of a drill", on=unparsed(name), remedy="use one of: " + ", ".join(SCENARIOS))
    return tuple(name for name in SCENARIOS if not wanted or name in wanted)


def proof_text(proof: Mapping[str, int]) -> str:
    """What was proved, for people: `4 tables, 1 foreign key`."""
    names = {name: name.replace("_", " ") for name in proof}
    return ", ".join(
        f"{value:,} {names[name].removesuffix('s') if value == 1 else names[name]}" for name, value in proof.items()
    )


def parts_of(scenarios: Sequence[str]) -> list[Part]:
    """The work that these scenarios need, each piece once."""
    needed = {part for scenario in scenarios for part in PARTS[scenario]}
    return [part for part in Part if part in needed]
