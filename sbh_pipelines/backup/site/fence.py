"""The fence: a place of backups that a copy took over from writes no more, whatever the settings of a machine say.

Two marks in the catalog of each region, signed with the catalog's key, created once and never changed. They tell of a promotion,
which has an id:

    primary/promoted-{place}.json      at the copy: this place is the primary, since when, and by whose word
    primary/superseded-{place}.json    at the former primary: which copy took over, since when

A mark's name says whose it is: `place` is a digest of the server, the bucket and the region that it marks. Replication of a bucket
brings marks of other places, in either direction; they say nothing of the one they came to.

Asked before writing begins, and at most once a minute: a place that was superseded refuses; so does one with a copy that was
promoted, and later than the place itself, which leaves the mark at its own place first. A copy that does not answer, or whose mark
is not genuine, is in no backup's way. A mark of the place itself that is not genuine is: it may stand where a genuine one stood.
"""

import hashlib
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from sbh_pipelines.concurrency import side_by_side
from sbh_pipelines.errors import CorruptObject, NotPromoted, ObjectMissing, PrimaryFenced, SbhError, StoreUnavailable
from sbh_pipelines.model import parse_timestamp, timestamp
from sbh_pipelines.placement import catalog_place, platform_tenant
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.repository.catalog.catalog import Catalog
from sbh_pipelines.repository.catalog.marks import MarkPlace, make_mark, read_mark
from sbh_pipelines.settings.places.copies import server_of
from sbh_pipelines.stores.base import ObjectStore
from sbh_pipelines.stores.open_store import storage_of

if TYPE_CHECKING:
    from sbh_pipelines.backup.site.site import Site

PROMOTED, SUPERSEDED = "promoted", "superseded"
_MARKS = "primary/"  # below the catalog's prefix
_SERVER = " at "  # before the server in the name of a place
ASKED_ANEW_S = 60.0  # for so long a process goes by what it saw
_MOST_OTHERS = 50  # marks of other places that are read; a chain of promotions leaves two for each
_PATIENCE_S = 5.0  # of the question whether a copy was promoted, which no backup waits for longer


@dataclass(frozen=True, slots=True)
class Promoted:
    """What both marks say.

    Attributes:
        id: Of the promotion: 16 hex digits.
        copy: The copy's name in the settings.
        place: Where the copy is, as of `place_name`.
        former: Where the backups were; in the mark of a superseded place, that one.
        since: When it was promoted, UTC; in the mark of a superseded place, when that was fenced.
        by: Who did it.
    """

    id: str
    copy: str
    place: str
    former: str
    since: datetime
    by: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What a genuine mark says. Raises KeyError, ValueError."""
        id_, copy, place, former, by = (str(document[name]) for name in ("promotion", "copy", "place", "former", "by"))
        return cls(id_, copy, place, former, parse_timestamp(str(document["since"])), by)

    def as_dict(self) -> dict[str, object]:
        return {
            "promotion": self.id,
            "copy": self.copy,
            "place": self.place,
            "former": self.former,
            "since": timestamp(self.since),
            "by": self.by,
        }

    def is_after(self, other: "Promoted") -> bool:
        """Whether the place of this one took over later than that of the other, which counts no more then.

        Of two in one second the ids decide: one of them has to count, and the same one everywhere.
        """
        return (self.since, self.id) > (other.since, other.id) and self.place != other.former


@dataclass(frozen=True, slots=True)
class Marks:
    """What the marks at a place say of that place itself.

    Attributes:
        promoted: It is the primary, or was.
        superseded: What took over from it.
        alike: Marks of a bucket of the same name in the same region on a server of another name, which may be the same one: by
            `promoted` and `superseded`. They fence, and prove nothing.
    """

    promoted: Promoted | None = None
    superseded: Promoted | None = None
    alike: Mapping[str, Promoted] = field(default_factory=dict)

    @property
    def fenced_by(self) -> Promoted | None:
        """What took over from the place; None where nothing did."""
        return self.superseded or (self.alike.get(SUPERSEDED) if self.promoted is None else None)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A copy's marks, judged with the key of another catalog of the same region: what was copied has the same."""

    store: ObjectStore
    prefix: str
    signer: Catalog

    @property
    def has_key(self) -> bool:
        return self.signer.has_key

    @property
    def mark_key(self) -> bytes:
        return self.signer.mark_key


def place_name(site: "Site", region: str) -> str:
    """What tells the places of a region's backups apart, for people, too: `bucket in region`, but on AWS with ` at host:port`."""
    storage = site.settings.storage
    real = storage.real_region(region)
    server = server_of(storage.endpoint_url, real)
    return f"{catalog_place(site.settings, region).bucket} in {real}" + (f"{_SERVER}{server}" if server else "")


def mark_name(kind: str, here: str) -> str:
    """The name of a place's mark below its catalog's prefix; `here` is its `place_name`."""
    return f"{_MARKS}{kind}-{hashlib.sha256(here.encode()).hexdigest()[:16]}.json"


def mark_names(store: ObjectStore, prefix: str) -> list[str]:
    """The marks that lie there, whoever's they are; one listing. Raises the store's errors."""
    try:
        return [info.key[len(prefix) :] for info in all_below(store, prefix + _MARKS)]
    except ObjectMissing:  # there is no bucket yet
        return []


def read_marks(at: MarkPlace, here: str, names: Collection[str] | None = None) -> Marks:
    """What the marks say of the place `here`, whose catalog `at` is. `names`: what `mark_names` found.

    Raises CorruptObject for one of its own that is not genuine, and the store's errors.
    """
    names = mark_names(at.store, at.prefix) if names is None else names
    if not names:
        return Marks()
    own = {kind: mark_name(kind, here) for kind in (PROMOTED, SUPERSEDED)}
    found = {kind: _read(at, name) if name in names else None for kind, name in own.items()}
    alike = dict[str, Promoted]()
    for name in sorted(set(names) - set(own.values()))[:_MOST_OTHERS]:
        with suppress(CorruptObject):  # another place's is that one's to judge
            mark = _read(at, name)
            kind = PROMOTED if name.startswith(f"{_MARKS}{PROMOTED}-") else SUPERSEDED
            if mark is None or (kind == SUPERSEDED and mark.place == here):
                continue  # the latter: this place took over from a bucket of the same name
            if _bare(mark.place if kind == PROMOTED else mark.former) == _bare(here):
                alike[kind] = mark
    return Marks(found[PROMOTED], found[SUPERSEDED], alike)


def _bare(place: str) -> str:
    return place.partition(_SERVER)[0]


def _read(at: MarkPlace, name: str) -> Promoted | None:
    document = read_mark(at, name)
    try:
        return None if document is None else Promoted.of(document)
    except (KeyError, ValueError) as error:
        raise CorruptObject(
            "A mark beside the catalog cannot be read",
            on=at.store.url(at.prefix + name),
            why=type(error).__name__,
            remedy="read it with the release that wrote it, or a newer one",
        ) from None


def leave_mark(at: MarkPlace, kind: str, here: str, promoted: Promoted) -> Promoted:
    """Leave a mark of the place `here`; what is there then, which is another's where that one was first. Raises as `read_marks`."""
    name = mark_name(kind, here)
    make_mark(at, name, promoted.as_dict())
    return _read(at, name) or promoted


class Fence:
    """Of one site. Thread-safe."""

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, SbhError | None]] = {}

    def check(self, *regions: str) -> None:
        """Asked before something is written to these regions, or to any. Does nothing at a copy, which is no primary.

        Raises PrimaryFenced where a copy took over, NotPromoted where the settings name a primary that was not promoted,
        CorruptObject for a mark that is not genuine, StoreDenied.
        """
        settings = self._site.settings
        if self._site.copy_of is not None or settings.storage.kind != "s3":
            return
        found = [
            self._known(region) for region in regions or settings.storage.regions
        ]  # all, so that each gets its mark
        if (error := next(filter(None, found), None)) is not None:
            raise type(error)(error.what, on=error.on, why=error.why, remedy=error.remedy)

    def check_anew(self, region: str) -> None:
        """Asked after something was written under no lease, whatever was seen before. Raises as `check`: it counts for nothing."""
        with self._lock:
            self._seen.pop(region, None)
        self.check(region)

    def _known(self, region: str) -> SbhError | None:
        with self._lock:  # whoever comes while it is asked waits for the answer
            asked, error = self._seen.get(region, (-ASKED_ANEW_S, None))
            if (begun := time.monotonic()) - asked >= ASKED_ANEW_S:
                try:
                    error = self.look(region)
                except StoreUnavailable:  # so does what is to be written; whoever comes next asks again
                    return None
                self._seen[region] = begun, error
            return error

    def look(self, region: str, *, leave: bool = True) -> SbhError | None:
        """Why nothing may be written to a region now; None where it may. Raises the errors of the place's own store.

        `leave`: leave the mark of a superseded place where only the copy has one.
        """
        settings, own, here = self._site.settings, self._site.catalog(region), place_name(self._site, region)
        marks, silent = Marks(), None
        try:
            marks = read_marks(own, here)
        except CorruptObject as error:
            return error
        except StoreUnavailable as error:  # for this once perhaps: what is written next may get through
            if settings.primary is not None:
                raise
            silent = error
        if silent is None and settings.primary is not None and marks.promoted is None:
            return self._not_promoted(settings.primary, region, marks.alike.get(PROMOTED))
        if (later := marks.fenced_by) is not None:
            return fenced(later, here)
        names = [copy.name for copy in settings.copies if region in copy.regions(settings)]
        for there in side_by_side(lambda name: self._at_copy(name, region, silent is None), names, name="fence"):
            found = there.promoted or there.alike.get(PROMOTED)
            if found is None or (marks.promoted is not None and not found.is_after(marks.promoted)):
                continue
            if silent is not None and there.superseded is not None:
                continue  # perhaps by this place: that cannot be asked
            try:
                if leave and silent is None:
                    self._leave(own, here, found)
            except SbhError as error:
                return error
            return fenced(found, here)
        if silent is not None:
            raise silent
        return None

    def _leave(self, own: Catalog, here: str, found: Promoted) -> None:
        if not own.has_key:
            return  # nothing is here that could be taken for backups
        leave_mark(own, SUPERSEDED, here, replace(found, former=here))
        with suppress(SbhError):
            props = {"copy": found.copy, "promotion": found.id, "place": found.place, "region": own.region}
            self._site.track(platform_tenant(self._site.settings), "copy.fenced", found.by, props)

    def _at_copy(self, name: str, region: str, own_answers: bool) -> Marks:
        with suppress(SbhError):
            return self.at_copy(name, region, own_answers=own_answers)
        return Marks()

    def at_copy(self, name: str, region: str, *, own_answers: bool = True) -> Marks:
        """What the marks at a copy say of it, asked with little patience.

        `own_answers`: whether this place's catalog can be asked for its key, which the copy's has as well. Raises CorruptObject for
        a mark that neither key signed, and the errors of the copy's store and keys.
        """
        there = self._site.copy(name)
        place = catalog_place(there.settings, region)
        hasty = {"timeout_s": min(there.settings.storage.timeout_s, _PATIENCE_S), "retries": 0}
        store = there.opened_with(storage_of(there.settings, place).model_copy(update=hasty), place)
        if not (names := mark_names(store, place.prefix)):
            return Marks()
        failed: SbhError | None = None
        # The key may be lost here, and the copy has it still.
        for signer in (*([self._site.catalog(region)] if own_answers else []), there.catalog(region)):
            at = _Elsewhere(store, place.prefix, signer)
            try:
                if at.has_key:
                    return read_marks(at, place_name(there, region), names)
            except SbhError as error:
                failed = error
        raise failed or CorruptObject(
            "A mark beside the catalog cannot be read",
            on=store.url(place.prefix + min(names)),
            why="there is no key that could have signed it, neither here nor at the copy",
            remedy="see who can write to that bucket",
        )

    def _not_promoted(self, name: str, region: str, alike: Promoted | None) -> NotPromoted:
        return NotPromoted(
            "The settings name a primary that was not promoted",
            on=f"{name}, {place_name(self._site, region)}",
            why="the former place may be in use by others, and nothing keeps them from it"
            if alike is None
            else f"what was promoted is {alike.place}: by these settings that is another server",
            remedy=f"sbh copies promote {name}"
            if alike is None
            else "write its endpoint_url as it was when it was promoted, on every machine the same",
        )


def fenced(found: Promoted, here: str) -> PrimaryFenced:
    return PrimaryFenced(
        "The backups are made in another place now",
        on=here,
        why=f"the copy {found.copy}, {found.place}, took over from it at {timestamp(found.since)}, by {found.by}",
        remedy=f'set primary = "{found.copy}" in sbh.toml, above all sections, and start again what runs with these settings',
    )
