"""The tenants' public keys of the journal, as a region keeps them.

They are sealed with the catalog's key, so that nobody who can merely write to the bucket has blocks sealed to a key of his own.

A set of objects that are only ever added (`register`) or merged (`compact`), as those of the catalog. A tenant without a key here
is not journaled.
"""

import json
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sbh_pipelines.errors import CorruptObject, FormatUnsupported, ObjectMissing, RepositoryError, SbhError
from sbh_pipelines.repository.format import FIRST_EPOCH, LAST_EPOCH
from sbh_pipelines.repository.journal.sealed_objects import SealedObjects
from sbh_pipelines.repository.journal.segments.block import PUBLIC_BYTES
from sbh_pipelines.repository.journal.segments.public_key import PublicKey

_VERSION = 1
_OBJECT_KEYS = 20_000  # in an object: some 4 MiB of plaintext
_LISTINGS = 5  # how often to list anew when a compaction takes away what was listed


@dataclass(slots=True)
class _Life:
    """A tenant's keys from one repository.

    Attributes:
        turn: How many such lives the tenant had before: epochs of two repositories do not compare, nor do clocks.
        home: Name of the repository.
        publics: Public keys by epoch. All are kept, so that who comes late with an old one is told from a repository that was
            begun anew under the same name.
    """

    turn: int
    home: str
    publics: dict[int, bytes]

    def newest(self, tenant_key: str) -> PublicKey:
        epoch = max(self.publics)
        return PublicKey(self.home, tenant_key, epoch, self.publics[epoch])

    def follows(self, key: PublicKey) -> bool:
        """Whether the key is one more, or one, of this repository."""
        known = self.publics.get(key.epoch)
        return key.home == self.home and (known == key.public if known else key.epoch > max(self.publics))


class PublicKeys:
    """Thread-safe. `damages`: what the last reading did not believe; show them."""

    def __init__(self, objects: SealedObjects) -> None:
        self.damages: list[SbhError] = []
        self._objects = objects
        self._lock = threading.Lock()
        self._names = set[str]()  # what was read so far: objects never change
        self._lives: dict[str, _Life] = {}

    def read(self) -> dict[str, PublicKey]:
        """The newest key of each tenant, by the tenant's key. Raises the store's errors, and TooManyObjects."""
        with self._lock:
            self._catch_up()
            return {tenant_key: life.newest(tenant_key) for tenant_key, life in self._lives.items()}

    def register(self, keys: Iterable[PublicKey]) -> int:
        """Add those that are not there yet; how many these are."""
        with self._lock:
            self._catch_up()
            new = [line for key in keys if (line := self._placed(key)) is not None]
            self._write(new)
            return len(new)

    def compact(self, leave_out: Collection[str] = ()) -> int:
        """Merge all objects into as few as possible, without the homes of `leave_out`; how many were merged away.

        Needs the right to delete. Safe at any moment: what is merged is written before what was read is deleted. Objects in
        `damages` stay.
        """
        with self._lock:
            self._catch_up()
            names = sorted(self._names)
            lines = [
                _Line(life.turn, PublicKey(life.home, tenant_key, epoch, public))
                for tenant_key, life in self._lives.items()
                if life.home not in leave_out
                for epoch, public in sorted(life.publics.items())
            ]
            leaves = any(life.home in leave_out for life in self._lives.values())
            if not names or (not leaves and len(names) <= -(-len(lines) // _OBJECT_KEYS)):
                return 0
            self._write(lines)
            self._objects.delete(names)
            return len(names)

    def _write(self, lines: "list[_Line]") -> None:
        for at in range(0, len(lines), _OBJECT_KEYS):
            self._objects.add(_pack(lines[at : at + _OBJECT_KEYS]))

    def _placed(self, key: PublicKey) -> "_Line | None":
        """None where it is known already."""
        life = self._lives.get(key.tenant_key)
        if life is None:
            return _Line(0, key)
        if not life.follows(key):
            return _Line(life.turn + 1, key)
        return None if key.epoch in life.publics else _Line(life.turn, key)

    def _catch_up(self) -> None:
        for attempt in range(1, _LISTINGS + 1):
            damages = list[SbhError]()
            names = self._objects.names(damages)
            if not self._names.issubset(names):  # merged, or taken away: what they said may not hold any more
                self._names, self._lives = set(), {}
            vanished = False
            for name, found in self._objects.read([name for name in names if name not in self._names]):
                if isinstance(found, ObjectMissing) and attempt < _LISTINGS:
                    vanished = True
                elif isinstance(found, SbhError):
                    damages.append(found)
                else:
                    try:
                        self._merge(_unpack(found, self._objects.url(name)))
                    except RepositoryError as error:
                        damages.append(error)
                        continue
                    self._names.add(name)
            self.damages = damages
            if not vanished:
                return

    def _merge(self, lines: "Iterable[_Line]") -> None:
        for line in lines:
            key, life = line.key, self._lives.get(line.key.tenant_key)
            if life is None or (line.turn, key.home) > (life.turn, life.home):
                self._lives[key.tenant_key] = _Life(line.turn, key.home, {key.epoch: key.public})
            elif (line.turn, key.home) == (life.turn, life.home):
                # Two publics of one epoch: written side by side for two lives. Every reader takes the same one.
                life.publics[key.epoch] = max(key.public, life.publics.get(key.epoch, b""))


@dataclass(frozen=True, slots=True)
class _Line:
    """A key as it is stored, with the turn of its life."""

    turn: int
    key: PublicKey

    def as_text(self) -> str:
        key = self.key
        return json.dumps([key.tenant_key, key.home, key.epoch, key.public.hex(), self.turn], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> "_Line":
        """Raises ValueError and TypeError."""
        tenant_key, home, epoch, public, turn = json.loads(text)
        if not isinstance(tenant_key, str) or not isinstance(home, str):
            raise ValueError("no text")
        if type(epoch) is not int or type(turn) is not int or not FIRST_EPOCH <= epoch <= LAST_EPOCH:
            raise ValueError("no number")
        key = bytes.fromhex(public)
        if len(key) != PUBLIC_BYTES:
            raise ValueError("no key")
        return cls(turn, PublicKey(home, tenant_key, epoch, key))


def _pack(lines: Iterable[_Line]) -> bytes:
    """A JSON header, then a line of JSON for each key."""
    return "\n".join([json.dumps({"version": _VERSION}), *(line.as_text() for line in lines)]).encode()


def _unpack(plain: bytes, on: str) -> list[_Line]:
    """Raises CorruptObject and FormatUnsupported; all of an object is believed, or nothing."""
    try:
        head, *lines = plain.decode("ascii").split("\n")
        if json.loads(head)["version"] > _VERSION:
            raise FormatUnsupported("Public keys of the journal are of a newer format", on=on)
        return [_Line.parse(line) for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"its content is not that of public keys: {type(error).__name__}"
        raise CorruptObject("Public keys of the journal are damaged", on=on, why=why) from None
