"""Gaps: stored facts, each of which ends something that the journal could tell."""

import json
from dataclasses import asdict, dataclass

from sbh_pipelines.errors import CorruptObject

PREDICTION_FAILED = "prediction_failed"
"""The kind of a gap where the tables were read, and held something else than what the journal led to."""


@dataclass(frozen=True, slots=True)
class Gap:
    """From here on the journal does not tell something.

    Attributes:
        incarnation: The incarnation in which it is; empty where there was none yet.
        kind: What happened, e.g. `slot_lost`.
        table: Full name of the table that it concerns; None for all.
        tenant: Key of the tenant that it concerns; None for all.
        position: Up to where the log is told.
        time: When it was noticed, microseconds since 1970 UTC.
        why: For people.
        begin: From where on it is not told, where that is before `position`: something in between is missing or wrong, and it is
            not known where.
    """

    incarnation: str
    kind: str
    table: str | None
    tenant: str | None
    position: int
    time: int
    why: str
    begin: int | None = None

    def concerns(self, table: str, tenant_key: str) -> bool:
        """Whether it is of a tenant's table."""
        return self.table in (None, table) and self.tenant in (None, tenant_key)

    def lies_between(self, start: int, end: int) -> bool:
        """Whether what happened in (start, end] is not all told."""
        return start < self.position and end > (self.position if self.begin is None else self.begin)

    def as_bytes(self) -> bytes:
        fields = {name: value for name, value in asdict(self).items() if name != "begin" or value is not None}
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, plain: bytes, on: str) -> "Gap":
        """Raises CorruptObject."""
        try:
            fields = json.loads(plain)
            return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name != "begin" or name in fields})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"its content is not that of one: {type(error).__name__}"
            raise CorruptObject("A gap of the journal is damaged", on=on, why=why) from None
