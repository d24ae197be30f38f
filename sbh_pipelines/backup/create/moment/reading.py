"""A backup that somebody reads: one of a repository, or one of a moment that is put together for as long as it is read."""

from dataclasses import dataclass

from sbh_pipelines.model import BackupId
from sbh_pipelines.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Staged:
    """What there is to know of a backup that is nowhere but on this machine, and gone afterwards.

    Attributes:
        named: What it is called by: `@` and the moment. Its id is nobody else's to know.
        records: The repository whose tenant it is of, where what comes of it is on record.
    """

    named: str
    records: Repository


@dataclass(frozen=True, slots=True)
class Reading:
    """A backup that is open.

    Attributes:
        repository: Has its objects.
        backup_id: Its id there.
        staged: Where it is put together for this reading; None for one that is in the tenant's repository.
    """

    repository: Repository
    backup_id: BackupId
    staged: Staged | None = None

    @property
    def named(self) -> str:
        """What it is called by, on record and to people."""
        return str(self.backup_id) if self.staged is None else self.staged.named
