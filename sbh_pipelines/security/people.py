"""Who is one person: people have several spellings of a name, and whoever issues a token to another may use it themselves."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

BY_SYSTEM = "os:"
"""Before the name of who issued a token as the operating system's user, without one of their own: they hold the signing key."""


@dataclass(frozen=True, slots=True)
class Person:
    """Attributes:
    user_id: The name.
    issued_by: By whose tokens the own one was issued, nearest first; empty where it does not say.
    """

    user_id: str
    issued_by: tuple[str, ...] = ()


def same_name(one: str, other: str) -> bool:
    """Ids of an identity provider may differ in case between logins, and in how accents and wide letters are encoded."""
    return plain(one) == plain(other)


def plain(user_id: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", user_id).casefold()).strip()


def one_person(one: Person, other: Person) -> bool:
    """Whether one of them issued the other's token, or somebody issued both.

    Who holds the signing key issues everybody's: they are one with each of those, which are not one with each other.
    """
    names, others = _names(one), _names(other)
    return bool(names & others or _signers(one) & others or _signers(other) & names)


def _names(person: Person) -> set[str]:
    issuers = (name for name in person.issued_by if not name.startswith(BY_SYSTEM))
    return {plain(name) for name in (person.user_id, *issuers)}


def _signers(person: Person) -> set[str]:
    return {plain(name.removeprefix(BY_SYSTEM)) for name in person.issued_by if name.startswith(BY_SYSTEM)}


def link_to(other: Person, one: Person) -> str:
    """Why they are one person, in words for an error: `other` is who may not, `one` who asked."""
    if same_name(one.user_id, other.user_id):
        return f"{one.user_id} asked for it"
    issuers = (
        ", ".join(_shown(one.issued_by)) or "nobody on record",
        ", ".join(_shown(other.issued_by)) or "nobody on record",
    )
    return (
        f"{one.user_id} asked for it with a token issued by {issuers[0]}, and {other.user_id} has one issued by {issuers[1]}:"
        " who issues a token and who holds it are one person"
    )


def _shown(names: Iterable[str]) -> list[str]:
    return [name.removeprefix(BY_SYSTEM) for name in names]
