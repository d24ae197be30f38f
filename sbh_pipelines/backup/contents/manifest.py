"""The manifest of a backup and the components it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a backup as its document and the manifest describe it.

    `size` is bytes of the component before compression; `checksum` is `sha256:` + hex over the canonical JSON of its
    document without the checksum. `facts` are the keys peculiar to the kind (tables, file_count, total_size, ...).
    """

    type: str
    key: str
    size: int
    checksum: str
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"type": self.type, "key": self.key, "size": self.size, "checksum": self.checksum, **self.facts}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        rest = {k: v for k, v in document.items() if k not in ("type", "key", "size", "checksum")}
        return cls(document["type"], document["key"], document["size"], document["checksum"], rest)
