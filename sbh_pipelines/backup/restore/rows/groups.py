"""The parts of a table's restore: which live groups the backup has, and the proof."""

from collections.abc import Iterator

from sbh_pipelines.backup.contents.stored_table import Group
from sbh_pipelines.database.merge.staging import Spool
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines.repository.repository import Repository


class ChunkSet:
    """Chunk ids of one table's groups: 33 bytes for about a MiB of rows."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}

    def add(self, chunk: bytes) -> None:
        self._ids[chunk] = self._ids.get(chunk, 0) + 1

    def take(self, chunk: bytes) -> bool:
        left = self._ids.get(chunk, 0)
        if left:
            self._ids[chunk] = left - 1
        return left > 0


class LiveGroups:
    """A TableSink over the live rows: counts the groups the backup has, spools those it lacks."""

    def __init__(self, repository: Repository, wanted: ChunkSet) -> None:
        self._repository, self._wanted = repository, wanted
        self._found = ChunkSet()
        self.spool = Spool()
        self.matching = 0
        self.differ = False

    def group(self, text: bytes, rows: int) -> None:
        chunk = self._repository.sealer.name(text)
        if self._wanted.take(chunk):
            self._found.add(chunk)
            self.matching += 1
        else:
            self.spool.add(text, rows)
            self.differ = True

    def close(self) -> None:
        pass

    def has(self, chunk: bytes) -> bool:
        return self._found.take(chunk)


class GroupProof:
    """A TableSink that compares each group read back with the backup's."""

    def __init__(self, repository: Repository, expected: Iterator[Group], table: str) -> None:
        self._repository, self._expected, self._table = repository, expected, table
        self._groups = 0

    def group(self, text: bytes, rows: int) -> None:
        group = next(self._expected, None)
        if group is None or self._repository.sealer.name(text) != group.chunk:
            raise _not_proven(self._table, self._groups)
        self._groups += 1

    def close(self) -> None:
        pass

    def finish(self) -> int:
        if next(self._expected, None) is not None:
            raise _not_proven(self._table, self._groups)
        return self._groups


def _not_proven(table: str, group: int) -> ProofFailed:
    return ProofFailed(
        "The rows read back are not the backup's; rolled back",
        on=f"{table}, group {group + 1}",
        why="a trigger, rule or constraint changed what was written, or the order of the key differs",
        remedy="look for ENABLE ALWAYS or REPLICA triggers on the table; nothing was changed",
    )
