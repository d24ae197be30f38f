"""What to tell people about conditions that come, last and go. Pure: no clock, no I/O.

    condition   something that is wrong now, with a stable key, e.g. `rpo_missed/acme`
    topic       what people were told of: one condition, or all of one kind where many came at once
    memory      the conditions and topics that are open; JSON, so that it outlives processes

`step` compares the conditions of now with the memory and gives notices: `new`, `worse` (more severe, or of twice as many
tenants), `still` (a reminder), `recovered`. Telling again with nothing changed gives none. Each topic that was told as new
is told as recovered, once, when the last of its conditions is gone; of a lost memory what is still wrong is told anew,
under the same key.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from sbh_pipelines.settings.alerts import Severity

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error", "critical")
_NAMED = 20  # conditions of a topic whose words a notice has


class Kind(StrEnum):
    NEW = "new"
    WORSE = "worse"
    STILL = "still"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Condition:
    """`kind` is of its key, before the slash. `delay_s`: it is told only when it has stood so long.

    `group`: those that came together, such as the tenants of one run, are told as one topic, and no later one joins it.
    """

    key: str
    subject: str
    message: str = ""
    severity: Severity = "error"
    tenant: str = ""
    remedy: str = ""
    run_id: str = ""
    delay_s: float = 0.0
    group: str = ""

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Topic:
    """`told_at`: seconds since the epoch; `size`: how many conditions it had when it was last told."""

    severity: Severity
    subject: str
    told_at: float
    since: float
    size: int
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """`open`: by key of a condition, (since when, the key of the topic it was told under, or None: not told yet)."""

    open: Mapping[str, tuple[float, str | None]] = field(default_factory=dict)
    topics: Mapping[str, Topic] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {
            "open": {key: list(entry) for key, entry in self.open.items()},
            "topics": {key: asdict(topic) for key, topic in self.topics.items()},
        }

    @classmethod
    def from_dict(cls, document: Any) -> Self:
        """One that cannot be read is empty: what is wrong is told anew."""
        try:
            topics = {str(key): Topic(**fields) for key, fields in document["topics"].items()}
            entries: dict[str, tuple[float, str | None]] = {
                str(key): (float(since), told) for key, (since, told) in document["open"].items()
            }
        except (TypeError, ValueError, KeyError, AttributeError):
            return cls()
        if any(told is not None and told not in topics for _, told in entries.values()):
            return cls()
        if any(topic.severity not in SEVERITIES for topic in topics.values()):
            return cls()
        return cls(entries, topics)


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell. `key` is stable from `new` to `recovered`; `conditions` are at most twenty of `count`."""

    kind: Kind
    key: str
    severity: Severity
    subject: str
    conditions: tuple[Condition, ...]
    count: int
    since: float
    remedy: str = ""


def step(
    active: Iterable[Condition],
    memory: Memory,
    now: float,
    *,
    remind_after_s: float,
    together: int,
    unknown: Callable[[str], bool] = lambda key: False,
) -> tuple[list[Notice], Memory]:
    """Notices, and the memory to keep once they are sent.

    `unknown`: keys of which nothing was learned this time; what the memory says of them stands.
    """
    found = {condition.key: condition for condition in active}
    entries = {key: entry for key, entry in memory.open.items() if key in found or unknown(key)}
    for key in found:
        entries.setdefault(key, (now, None))
    topics, notices = dict(memory.topics), list[Notice]()
    notices += _recovered(memory, entries, topics)
    ready = [found[key] for key, (since, told) in entries.items() if told is None and key in found]
    ready = [condition for condition in ready if now - entries[condition.key][0] >= condition.delay_s]
    _begin(ready, entries, topics, now, together, notices)
    _go_on(found, entries, topics, now, remind_after_s, notices)
    return notices, Memory(entries, topics)


def _recovered(
    memory: Memory, entries: Mapping[str, tuple[float, str | None]], topics: dict[str, Topic]
) -> list[Notice]:
    left = {told for _, told in entries.values() if told is not None}
    gone = [key for key in memory.topics if key not in left]
    return [
        Notice(Kind.RECOVERED, key, topic.severity, topic.subject, (), topic.size, topic.since)
        for key in gone
        for topic in [topics.pop(key)]
    ]


def _begin(
    ready: list[Condition],
    entries: dict[str, tuple[float, str | None]],
    topics: dict[str, Topic],
    now: float,
    together: int,
    notices: list[Notice],
) -> None:
    """Put what is not told yet under a topic."""
    by_kind: dict[tuple[str, str], list[Condition]] = {}
    for condition in sorted(ready, key=lambda c: c.key):
        by_kind.setdefault((condition.kind, condition.group), []).append(condition)
    for (kind, group), conditions in by_kind.items():
        many = f"{kind}/{group or '*'}"
        if many in topics:
            for condition in conditions:
                entries[condition.key] = (entries[condition.key][0], many)
            continue
        as_one = len(conditions) > (1 if group else together)
        for key, members in [(many, conditions)] if as_one else [(c.key, [c]) for c in conditions]:
            severity = _worst(members)
            since = min(entries[c.key][0] for c in members)
            subject = members[0].subject if len(members) == 1 else f"{len(members):,} × {members[0].subject}"
            topics[key] = Topic(severity, subject, now, since, len(members), members[0].remedy)
            for condition in members:
                entries[condition.key] = (entries[condition.key][0], key)
            notices.append(_notice(Kind.NEW, key, topics[key], members))


def _go_on(
    found: Mapping[str, Condition],
    entries: Mapping[str, tuple[float, str | None]],
    topics: dict[str, Topic],
    now: float,
    remind_after_s: float,
    notices: list[Notice],
) -> None:
    """Topics that have become worse, or are to be reminded of: never one that was told just now."""
    members: dict[str, list[Condition]] = {}
    sizes: dict[str, int] = {}
    for key, (_, told) in entries.items():
        if told is not None:
            sizes[told] = sizes.get(told, 0) + 1
            if key in found:
                members.setdefault(told, []).append(found[key])
    for key, topic in list(topics.items()):
        own = members.get(key, [])
        if not own:
            continue
        severity = max(_worst(own), topic.severity, key=SEVERITIES.index)
        worse = severity != topic.severity or sizes[key] >= 2 * topic.size
        if worse or now - topic.told_at >= remind_after_s:
            subject = own[0].subject if sizes[key] == 1 else f"{sizes[key]:,} × {own[0].subject}"
            topics[key] = replace(topic, severity=severity, told_at=now, size=sizes[key], subject=subject)
            notices.append(_notice(Kind.WORSE if worse else Kind.STILL, key, topics[key], own))


def _notice(kind: Kind, key: str, topic: Topic, members: list[Condition]) -> Notice:
    named = tuple(sorted(members, key=lambda c: c.key)[:_NAMED])
    return Notice(kind, key, topic.severity, topic.subject, named, topic.size, topic.since, topic.remedy)


def _worst(conditions: Iterable[Condition]) -> Severity:
    return max((c.severity for c in conditions), key=SEVERITIES.index)
