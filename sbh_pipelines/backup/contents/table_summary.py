"""A table's entry in the document of its component: what is known of a table without opening it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sbh_pipelines.document import whole


@dataclass(frozen=True, slots=True)
class TableSummary:
    """What a component's document says of one table.

    Attributes:
        document: The entry as it is stored; earlier releases did not write all of its keys.
    """

    document: Mapping[str, Any] = whole()

    @classmethod
    def build(
        cls,
        *,
        table: str,
        status: str,
        rows: int,
        size: int,
        groups: int,
        layers: int,
        definition: str | None,
        key_hash: str | None,
        seed: str | None,
        detail: Sequence[str],
        sums: Sequence[str] = (),
    ) -> Self:
        """The entry of a table that was just stored; the properties of the same names say what each part is."""
        return cls(
            {
                "table": table,
                "status": status,
                "rows": rows,
                "bytes": size,
                "groups": groups,
                "layers": layers,
                "definition": definition,
                "key_hash": key_hash,
                "seed": seed,
                "detail": list(detail),
                **({"sums": list(sums)} if sums else {}),
            }
        )

    @property
    def table(self) -> str:
        """`schema.table`."""
        return str(self.document["table"])

    @property
    def rows(self) -> int:
        return int(self.document["rows"])

    @property
    def bytes(self) -> int:
        """COPY text of the rows, before compression."""
        return int(self.document["bytes"])

    @property
    def groups(self) -> int:
        """Row groups of the base."""
        return int(self.document["groups"])

    @property
    def layers(self) -> int:
        """Layers over the base; 0 where the release knew of none."""
        return int(self.document.get("layers", 0))

    @property
    def definition(self) -> str | None:
        """Digest of the table's definition; None where the release did not record it."""
        return self.document.get("definition")

    @property
    def key_hash(self) -> str | None:
        """XOR of the hashes of all keys, in hex; None where the release did not record it, or no server was there to tell it."""
        return self.document.get("key_hash")

    @property
    def seed(self) -> str | None:
        """Which seed the hashes of keys were made with; None where there are none."""
        return self.document.get("seed")

    @property
    def detail(self) -> Sequence[str]:
        """Chunks of the table's state and of the lines that name its row groups."""
        chunks: Sequence[str] = self.document["detail"]
        return chunks

    @property
    def sums(self) -> Sequence[str]:
        """Chunks of the sums that the state names as well, so that both come in one request; none where the release did not say."""
        chunks: Sequence[str] = self.document.get("sums") or ()
        return chunks
