"""What names of tables and columns tell: `project_id`, `projectId` and `ProjectID` all speak of the table `projects`.

A guess always: who uses it says so.
"""

import re
from collections.abc import Iterable

from sbh_pipelines.database.schema.catalog import Column, Table

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_KEYS = ("id", "uuid", "key", "guid")
_TENANTS = (
    "tenant", "organization", "organisation", "org", "workspace", "account", "company", "customer", "team", "client",
)  # fmt: skip
SLUGS = ("slug", "subdomain", "handle", "code", "shortname", "identifier", "domain", "name")
GONE = ("deleted", "archived", "removed", "discarded", "closed", "deactivated")
_MEMORIES = ("current", "last", "default", "active", "selected", "recent", "previous", "preferred")


def words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case."""
    return tuple(word.lower() for word in _WORDS.findall(name))


def normal(name: str) -> str:
    return "".join(words(name))


def singular(name: str) -> str:
    """The name in the singular, its words run together: `Run_Histories` -> `runhistory`."""
    text = normal(name)
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ss", "ss")):
        if text.endswith(ending):
            return text.removesuffix(ending) + instead
    return text.removesuffix("s")


def stem(column: str) -> str:
    """What a column refers to by its name: `run_history_id` -> `runhistory`; empty where it ends in no word for a key."""
    found = words(column)
    return "".join(found[:-1]) if len(found) > 1 and found[-1] in _KEYS else ""


def looks_like_key(column: str) -> bool:
    return bool(stem(column))


def is_memory(columns: Iterable[str]) -> bool:
    """Whether the columns remember something last used (`current_org_id`) rather than say whose the row is."""
    return any(word in _MEMORIES for column in columns for word in words(column)[:-1])


def tenant_rank(table: str) -> int | None:
    """How much the name is one for a table of tenants; 0 is most."""
    one = singular(table)
    return _TENANTS.index(one) if one in _TENANTS else None


def speaks_of(word: str, table: Table) -> bool:
    """Whether a stem, or a value such as `App\\Models\\Invoice`, names the table."""
    last = re.split(r"[\\.:/]+", word)[-1]
    return bool(last) and singular(last) in (singular(table.name), singular(table.name.split("_", 1)[-1]))


def type_columns(table: Table) -> list[tuple[Column, Column]]:
    """Pairs such as (item_type, item_id): a reference to one of several tables."""
    by_name = {normal(column.name): column for column in table.columns}
    found = []
    for column in table.columns:
        found_words = words(column.name)
        if len(found_words) < 2 or found_words[-1] not in ("type", "class", "kind", "table"):
            continue
        start = "".join(found_words[:-1])
        key = next((by_name[start + ending] for ending in _KEYS if start + ending in by_name), None)
        if key is not None:
            found.append((column, key))
    return found
