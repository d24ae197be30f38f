"""Rows of nobody that a restore took back, as they were before it: the safety backup holds the tenant's rows only.

They are kept beside the restore's status, sealed, so that an undo leaves them as it finds them described: nobody's again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sbh_pipelines.database.merge.relationships.adoption import read_rows_of_nobody
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.errors import CorruptObject, ObjectMissing, RestoreRefused
from sbh_pipelines.model import RestoreId
from sbh_pipelines.repository.bounds import LEFT_ROWS_BYTES
from sbh_pipelines.repository.format import Keys
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import LEFT_ROWS

_PART_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LeftRows:
    """The rows of one table, in the objects that hold them: read one at a time.

    Attributes:
        repository: where they are kept.
        restore_id: of the restore that took them.
        columns: what the text has, in order.
        parts: numbers of the objects.
    """

    repository: Repository
    restore_id: RestoreId
    columns: tuple[str, ...]
    parts: tuple[int, ...]

    def texts(self) -> Iterator[bytes]:
        """COPY text in the database's encoding, pieces of whole lines."""
        for number in self.parts:
            yield _opened(self.repository, self.restore_id, number)[1]


def keep_left_rows(repository: Repository, restore_id: RestoreId, tables: Sequence[tuple[Staging, str | None]]) -> int:
    """Store the rows that were adopted, and those that follow their parents; the number of objects. Before anything is written."""
    parts = 0
    for staging, followers in tables:
        for text in _cut(read_rows_of_nobody(staging, followers)):
            head = json.dumps({"table": staging.table.full_name, "columns": list(staging.columns)}).encode()
            name = Keys.left_rows(restore_id, parts)
            sealed = repository.sealer.seal(head + b"\n" + text, name.encode(), LEFT_ROWS)
            repository.store.put(repository.prefix + name, sealed)
            parts += 1
    return parts


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of whole lines, joined to some MiB."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= _PART_BYTES:
            end = held.rfind(b"\n") + 1
            if end:  # else a row that is larger than a part
                yield bytes(held[:end])
                del held[:end]
    if held:
        yield bytes(held)


def read_left_rows(repository: Repository, restore_id: RestoreId, parts: int) -> Mapping[str, LeftRows]:
    """By `schema.table`; holds no rows. Raises CorruptObject, and RestoreRefused where they are not there any more."""
    found: dict[str, LeftRows] = {}
    for number in range(parts):
        head, _ = _opened(repository, restore_id, number)
        try:
            document = json.loads(head)
            table, columns = str(document["table"]), tuple(map(str, document["columns"]))
        except (ValueError, KeyError, TypeError):
            place = repository.url(Keys.left_rows(restore_id, number))
            raise CorruptObject("Rows that a restore took back cannot be read", on=place) from None
        before = found[table].parts if table in found else ()
        found[table] = LeftRows(repository, restore_id, columns, (*before, number))
    return found


def _opened(repository: Repository, restore_id: RestoreId, number: int) -> tuple[bytes, bytes]:
    """What an object says of its rows, and the rows."""
    name = Keys.left_rows(restore_id, number)
    place = repository.url(name)
    try:
        sealed = repository.store.get(repository.prefix + name, LEFT_ROWS_BYTES)
    except ObjectMissing:
        raise RestoreRefused(
            "What the restore took back from nobody is not known any more",
            on=place,
            why="its record was removed: it is old",
            remedy="restore the tables from the safety backup: `sbh restore status` names it",
        ) from None
    head, _, text = repository.sealer.open(sealed, name.encode(), LEFT_ROWS, on=place).partition(b"\n")
    return head, text
