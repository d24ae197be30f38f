"""A tenant's transactions out of a segment, with the tenant's own keys."""

from collections.abc import Callable, Iterator, Sequence

from sbh_pipelines.repository.journal.journal import Journal
from sbh_pipelines.repository.journal.segments.block import decode_transactions
from sbh_pipelines.repository.journal.segments.changes import Layout, Transaction
from sbh_pipelines.repository.journal.segments.directory import Directory
from sbh_pipelines.repository.seal import Sealer


def read_transactions(
    journal: Journal,
    directory: Directory,
    tenant_key: str,
    sealer_of: Callable[[str], Sealer],
    start: int,
    end: int,
) -> Iterator[tuple[Sequence[Layout], Transaction]]:
    """(what the layout numbers of its changes mean, transaction) of the commits in (start, end], in their order.

    A large transaction comes in pieces, one after the other. `sealer_of` gives the keys of a repository by its home. A block at a
    time is in memory. Raises CorruptObject, and what `sealer_of` raises.
    """
    if tenant_key not in directory.tenants:
        return
    wanted = [
        ref
        for ref in directory.tenants[tenant_key].blocks
        if ref.facts.last > max(start, ref.after) and ref.facts.first <= end
    ]
    place = journal.url(directory.name)
    for ref, sealed in journal.blocks(directory.name, wanted):
        aad = ref.origin.aad(tenant_key, directory.name.incarnation)
        plain = sealer_of(ref.home).open_block(sealed, ref.epoch, aad, on=place)
        layouts, floor = directory.layouts_of(ref), max(start, ref.after)
        for transaction in decode_transactions(plain, on=place):
            if floor < transaction.commit <= end:
                yield layouts, transaction
