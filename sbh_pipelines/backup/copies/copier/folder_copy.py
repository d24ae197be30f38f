"""What one folder of the source has and the copy has not, brought over kind by kind."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from sbh_pipelines.backup.copies.copier.inventory import Inventory, Wanted
from sbh_pipelines.backup.copies.copier.transfer import SourceVanished, Transfers, diverged, is_proved, lost
from sbh_pipelines.concurrency import streamed
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.bounds import all_below
from sbh_pipelines.stores.base import FileStore

_AT_ONCE = 4
_AHEAD = 16


@dataclass(slots=True)
class FolderCopy:
    """One folder at both ends.

    Attributes:
        here: The source's store.
        there: The copy's.
        prefix: Of the source's; ends with `/`.
        transfers: What stores and counts.
        if_damaged: Asked where the source's object of this name is damaged: whether to leave it out and go on.
        attributes: What is stored with an object of this name, such as its object lock.
        between: Called after each object; what it raises ends the work.
        objects: Objects that were stored at the copy by this.
        bytes: Their bytes.
        prefix_there: Of the other end's; None: the same.
    """

    here: FileStore
    there: FileStore
    prefix: str
    transfers: Transfers
    if_damaged: Callable[[str, CorruptObject], bool] = lambda _name, _error: False
    attributes: Callable[[str], Mapping[str, str] | None] = lambda _: None
    between: Callable[[], None] = lambda: None
    objects: int = 0
    bytes: int = 0
    prefix_there: str | None = None

    @property
    def below(self) -> str:
        """The prefix at the other end."""
        return self.prefix if self.prefix_there is None else self.prefix_there

    def bring(
        self,
        inventory: Inventory,
        kinds: Sequence[int],
        *,
        immutable: bool = True,
        if_vanished: str = "raise",
        anew: bool = False,
    ) -> int:
        """Bring the objects of these kinds that the copy lacks, those of one kind before those of the next; how many.

        Within a kind some go at once. `if_vanished`: `raise` SourceVanished, or `skip` what is gone at the source. `anew`: what
        is at the copy is not believed, whatever a listing says. Raises CopyDiverged where an immutable name that does not prove
        its content has another size at the copy, and what `Transfers.copy` raises.
        """
        before = self.objects
        for kind in kinds:
            left_out: list[str] = []
            work = partial(self._one, immutable=immutable, if_vanished=if_vanished, left_out=left_out, anew=anew)
            with closing(inventory.wanted(kind, immutable=immutable, all_of_them=anew)) as wanted:
                first = list(islice(wanted, 2))
                for size in (
                    streamed(work, chain(first, wanted), name="copy", threads=_AT_ONCE, ahead=_AHEAD)
                    if len(first) > 1
                    else map(work, first)  # threads cost more
                ):
                    self.counted(size)
                    self.between()
            for name in left_out:
                inventory.leave_out(name)
        return self.objects - before

    def counted(self, size: int | None) -> None:
        """Count an object of `size` bytes that was stored; None: none was."""
        if size is not None:
            self.objects += 1
            self.bytes += size

    def _one(self, one: Wanted, immutable: bool, if_vanished: str, left_out: list[str], anew: bool) -> int | None:
        key, key_there = self.prefix + one.name, self.below + one.name
        anew = not one.absent and (anew or is_proved(key))
        if immutable and not one.absent and not anew:
            raise diverged(self.there.url(key_there), f"it has {one.size_there:,} bytes there, {one.size:,} here")
        try:
            stored = self.transfers.copy(
                self.here,
                self.there,
                key,
                key_there=key_there,
                size=one.size,
                etag=one.etag,
                immutable=immutable,
                absent=one.absent,
                anew=anew,
                attributes=self.attributes(one.name),
            )
        except SourceVanished:
            if if_vanished == "skip":
                return None
            raise
        except CorruptObject as error:
            if not self.if_damaged(one.name, error):
                raise
            left_out.append(one.name)
            return None
        return one.size if stored else None

    def check_arrived(self, inventory: Inventory, kinds: Sequence[int]) -> None:
        """List the copy once more: all that the source has of these kinds must be there, in its size.

        Raises CopyError where the copy's store lost what it acknowledged.
        """
        inventory.add_target(all_below(self.there, self.below), self.below)
        missing = inventory.missing(kinds)
        if missing is not None:
            raise lost(
                self.there.url(self.below + missing), "it was stored a moment ago and is not listed, or not whole"
            )
