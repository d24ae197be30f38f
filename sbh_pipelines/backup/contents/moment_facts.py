"""What a backup of a moment says of itself, in its manifest: how it was put together, and what is not of that moment in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sbh_pipelines.document import as_document, optional
from sbh_pipelines.model import BackupId


@dataclass(frozen=True, slots=True)
class TransactionPlace:
    """A transaction of the tenant next to the moment.

    Attributes:
        lsn: Position of the end of its commit record.
        xid: Its 64-bit id.
        time: When it was committed, ISO 8601 in UTC with microseconds.
    """

    lsn: str
    xid: int
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentFacts:
    """How a backup of a moment was put together.

    Attributes:
        asked: The moment that was asked for, as `sbh restore` takes it behind the @.
        base: The backup that it starts from.
        base_time: The instant that that one describes, ISO 8601 in UTC.
        incarnation: The unbroken stretch of the journal that it was read from.
        transactions: Transactions of the tenant that were laid over it.
        changes: Changes of rows in them.
        last_in: The tenant's last transaction that is in it; null where there is none since the base was made.
        first_out: The first one that is not; null where none is known.
        tables: The tables that were chosen; null where it has all.
        as_of_backup: Tables that are as the base has them, because the journal does not tell of them -> why.
        files: Where its files come from, and what is not sure of them.
    """

    asked: str
    base: BackupId
    base_time: str
    incarnation: str
    transactions: int
    changes: int
    last_in: TransactionPlace | None
    first_out: TransactionPlace | None
    tables: Sequence[str] | None = optional()
    as_of_backup: Mapping[str, str]
    files: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As the manifest has it."""
        found: dict[str, Any] = as_document(self)
        return found

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`. Raises KeyError, TypeError for what is no such document."""
        return cls(
            asked=document["asked"],
            base=BackupId(document["base"]),
            base_time=document["base_time"],
            incarnation=document["incarnation"],
            transactions=document["transactions"],
            changes=document["changes"],
            last_in=_place(document["last_in"]),
            first_out=_place(document["first_out"]),
            tables=None if document.get("tables") is None else tuple(document["tables"]),
            as_of_backup=dict(document["as_of_backup"]),
            files=dict(document["files"]),
        )

    def lines(self) -> dict[str, str]:
        """For people: what to know before it is restored."""
        found = {
            "moment": self.asked,
            "put together from": f"{self.base} of {self.base_time}, and {self.transactions:,} transactions"
            f" ({self.changes:,} changes) of the journal",
            "last transaction in": _words(self.last_in, "none since that backup"),
            "first left out": _words(self.first_out, "none is known"),
        }
        if self.tables is not None:
            found["tables"] = f"only {', '.join(self.tables)}"
        if self.as_of_backup:
            found["as of the backup"] = "; ".join(f"{table} ({why})" for table, why in self.as_of_backup.items())
        source, doubts = str(self.files.get("source", "")), int(self.files.get("doubt_count") or 0)
        if source and source != "none":
            of = f" of {self.files['backup']}" if self.files.get("backup") else ""
            why = f": {self.files['why']}" if self.files.get("why") else ""
            found["files"] = f"from {source}{of}, as of {self.files.get('as_of')}{why}"
            if doubts:
                found["files in doubt"] = (
                    f"{doubts:,}: put or deleted so close to the moment that they may be on either side"
                )
        return found


def _place(document: Mapping[str, Any] | None) -> TransactionPlace | None:
    return None if document is None else TransactionPlace(document["lsn"], document["xid"], document["time"])


def _words(place: TransactionPlace | None, none: str) -> str:
    return none if place is None else f"{place.time}, transaction {place.xid}, LSN {place.lsn}"
