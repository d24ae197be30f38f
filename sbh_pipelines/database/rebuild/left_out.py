"""What a rebuild could not make or bring, and why: told in its report, with the reason in the server's words."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

NOTED = "left_out"
_MOST = 100  # objects that one step lists


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One thing that is not there, or not as it was.

    Attributes:
        what: The object, by name or by the beginning of its statement.
        why: Why, in the server's words where it refused.
    """

    what: str
    why: str


def as_facts(found: Iterable[LeftOut]) -> list[dict[str, str]]:
    """What is noted of it with a step: the first ones, each once."""
    return [asdict(one) for one in dict.fromkeys(found)][:_MOST]


def of_phases(phases: Mapping[str, Mapping[str, object]]) -> list[LeftOut]:
    """All that the steps noted, in their order; of a run that an earlier release began there is none."""
    found: list[LeftOut] = []
    for facts in phases.values():
        noted = facts.get(NOTED)
        if isinstance(noted, list):
            found += [LeftOut(str(one["what"]), str(one["why"])) for one in noted]
    return list(dict.fromkeys(found))
