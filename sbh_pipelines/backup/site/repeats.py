"""Repeats in the audit trail: who looks at the same again and again, is denied the same, or signs in, leaves an event at once and
a count.

For faces that serve many requests, which say so (`Trails.fold`). The first of its kind is recorded as ever, before anything is
shown or denied. Those of the same kind within the window after it was are counted, and recorded as one event when the window ends
or the process does: with how many there were (`times`), since when (`since`), and what they named that differed. What comes while
the first is being written, or where it cannot be, is recorded for itself, or refused. A process that is killed loses the counts
of its last window, and no first event.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sbh_pipelines.model import Clock, Tenant, timestamp
from sbh_pipelines.repository.trail.event import Entry, line

FOLDED = frozenset({"backup.accessed", "audit.accessed", "access.denied", "ui.signed_in"})
_APART = (
    20  # events of one user in a window that differ in what they name, or kinds of them, before those are folded too
)
_NAMED = 500  # names in a folded event
_NAMES = ("backup_id", "restore_id", "tenant")
_MOST_KINDS = _MOST_LATE = 20_000

Kind = tuple[tuple[str, ...], bytes]


@dataclass(slots=True)
class _Kind:
    """What was counted of one kind since its first event."""

    tenant: Tenant
    first: Entry
    until: float
    since: str = ""
    times: int = 0
    seen: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)


class Repeats:
    """The counts of a process. Thread-safe; records nothing itself."""

    def __init__(self, window_s: float, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock, self._monotonic = window_s, clock, monotonic
        self._lock = threading.Lock()
        self._kinds: dict[Kind, _Kind] = {}
        self._kinds_of: Counter[tuple[str, ...]] = Counter()
        self._late: list[tuple[Tenant, Entry]] = []

    def counted(self, tenant: Tenant, entry: Entry) -> bool:
        """Whether the event was taken as a repeat of a recorded one; else it is to be recorded now, and then `began`."""
        if entry.event not in FOLDED:
            return False
        with self._lock:
            kind, _, name = self._kind_of(tenant, entry)
            known = self._kinds.get(kind)
            if known is None or self._stands_alone(known, name):
                return False
            known.since = known.since or timestamp(self._clock())
            known.times += 1
            if name not in ("", _name_of(known.first.props)) and len(known.named) < _NAMED:
                known.named.add(name)
            return True

    def began(self, tenant: Tenant, entry: Entry) -> None:
        """The event is durable: from now on its repeats are counted. Whoever came before this records their own."""
        if entry.event not in FOLDED:
            return
        with self._lock:
            kind, first, name = self._kind_of(tenant, entry)
            known = self._kinds.get(kind)
            if known is not None:
                if self._stands_alone(known, name):
                    known.seen.add(name)
            elif len(self._kinds) < _MOST_KINDS:
                self._kinds[kind] = _Kind(tenant, first, self._monotonic() + self._window_s, seen={name})
                self._kinds_of[kind[0]] += 1

    def _kind_of(self, tenant: Tenant, entry: Entry) -> tuple[Kind, Entry, str]:
        """Its kind, what stands for all of that kind, and what it names."""
        what = line({name: value for name, value in entry.props.items() if name not in _NAMES})
        who = (tenant.id, tenant.key, tenant.region, entry.event, entry.user_id, entry.via)
        if (who, what) not in self._kinds and self._kinds_of[who] >= _APART:
            return (
                (who, b""),
                replace(entry, props={"various": True}),
                "",
            )  # ever new kinds: what they ask for is theirs
        return (who, what), entry, _name_of(entry.props)

    @staticmethod
    def _stands_alone(known: _Kind, name: str) -> bool:
        """Whether it names what no recorded event of the kind does, and is no count's yet."""
        return name not in known.seen and len(known.seen) < _APART and known.first.event != "access.denied"

    def put_back(self, tenant: Tenant, entries: Sequence[Entry]) -> None:
        """What could not be recorded: as it is, when the next windows end."""
        with self._lock:
            self._late += [(tenant, entry) for entry in entries]
            del self._late[:-_MOST_LATE]

    def take(self, *, all_of_them: bool = False) -> list[tuple[Tenant, Entry]]:
        """What is to be recorded of windows that have ended; these begin anew."""
        now = self._monotonic()
        with self._lock:
            ended = {kind: known for kind, known in self._kinds.items() if all_of_them or known.until <= now}
            for kind in ended:
                del self._kinds[kind]
                self._kinds_of[kind[0]] -= 1
                if not self._kinds_of[kind[0]]:
                    del self._kinds_of[kind[0]]
            late, self._late = self._late, []
        return late + [(known.tenant, _folded(known)) for known in ended.values() if known.times]


def _name_of(props: Mapping[str, object]) -> str:
    return " ".join(str(props[name])[:64] for name in _NAMES if name in props)


def _folded(known: _Kind) -> Entry:
    kept = {name: value for name, value in known.first.props.items() if name not in _NAMES}
    named = {"named": sorted(known.named)} if known.named else {}
    return replace(known.first, props={**kept, "times": known.times, "since": known.since, **named})
