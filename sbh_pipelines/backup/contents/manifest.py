"""The manifest of a backup, and the components it names.

No other module knows the keys of these documents: here they are built, and here they are read; a table's entry is in
`table_summary.py`. Each type is a view of a stored document and keeps it as it is. So the signature still holds, and keys
that a newer release wrote are carried on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from sbh_pipelines.backup.contents.moment_facts import MomentFacts
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.document import whole
from sbh_pipelines.model import ASIDE, RECOVERED, SAFETY, BackupId, RecoveryPoint, Tenant, parse_timestamp
from sbh_pipelines.repository.format import CONFIG, DATABASE, FILES, FORMAT_VERSION

LATEST = "latest"  # in place of an id: the tenant's newest backup
WITH_TABLES = (DATABASE, CONFIG)  # the components that hold tables
PARENTS_FIRST = (CONFIG, DATABASE)  # the tenant's own row comes before what belongs to it

_LONG_FACTS = ("detail", "reference_keys", "sums")  # lists of chunks, which the manifest leaves out
_COMMON = ("type", "key", "size", "checksum")
_FILE_FACTS = (
    "file_count", "total_size", "missing_references", "references", "listing", "detail", "detail_depth"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a backup, as its own document has it or, without lists of chunks, as the manifest shows it.

    Attributes:
        type: What it holds: json, config, file_list, sql.
        key: The key of its document in the store; empty until that is written.
        size: Bytes of the component before compression.
        checksum: `sha256:` and hex over the canonical JSON of its document without the checksum.
        facts: The keys peculiar to the kind of component.
    """

    type: str
    key: str
    size: int
    checksum: str
    facts: Mapping[str, Any]

    @classmethod
    def of_tables(
        cls, type: str, tables: Sequence[TableSummary], *, with_schemas: bool = False, **more: object
    ) -> Self:
        """One that holds tables, in the order of a restore, and is not written yet. `with_schemas` names them in full."""
        facts = {
            "tables": [t.table if with_schemas else t.table.split(".", 1)[1] for t in tables],
            "rows": sum(t.rows for t in tables),
            "table_details": [t.document for t in tables],
            **more,
        }
        return cls(type, "", sum(t.bytes for t in tables), "", facts)

    @classmethod
    def of_files(
        cls,
        *,
        size: int,
        file_count: int,
        total_size: int,
        missing_references: int,
        references: str,
        listing: str | None,
        listed_at: str,
        detail: Mapping[str, object],
    ) -> Self:
        """The list of files, not written yet. `detail` is what `FileListWriter.finish` gave."""
        facts = {
            "file_count": file_count,
            "total_size": total_size,
            "missing_references": missing_references,
            "references": references,
            "listing": listing,
            "listed_at": listed_at,
            **detail,
        }
        return cls("file_list", "", size, "", facts)

    def same_files(self, listed_at: str) -> Self:
        """The list of files once more, for a backup at which it was found to be the same."""
        facts = {name: self.facts[name] for name in _FILE_FACTS if name in self.facts}
        return type(self)("file_list", "", self.size, "", {**facts, "listed_at": listed_at})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Raises KeyError."""
        rest = {k: v for k, v in document.items() if k not in _COMMON}
        return cls(document["type"], document["key"], document["size"], document["checksum"], rest)

    def as_dict(self) -> dict[str, object]:
        return {"type": self.type, "key": self.key, "size": self.size, "checksum": self.checksum, **self.facts}

    @property
    def tables(self) -> list[TableSummary]:
        """In the order of a restore; none in a component without tables."""
        return [TableSummary(entry) for entry in self.facts.get("table_details") or ()]

    @property
    def table_names(self) -> Sequence[str]:
        """Without their schemas."""
        names: Sequence[str] = self.facts.get("tables", ())
        return names

    @property
    def rows(self) -> int | None:
        """Of all its tables; None in a component without tables."""
        return self.facts.get("rows")

    @property
    def detail(self) -> Sequence[str]:
        """Chunks of its lines; none in a component without a detail."""
        chunks: Sequence[str] = self.facts.get("detail") or ()
        return chunks

    @property
    def detail_depth(self) -> int:
        """Levels of the file list above its leaves."""
        return int(self.facts.get("detail_depth", 0))

    @property
    def reference_keys(self) -> Sequence[str]:
        """Chunks of the keys of files that rows refer to."""
        chunks: Sequence[str] = self.facts.get("reference_keys") or ()
        return chunks

    @property
    def file_count(self) -> int | None:
        """Files in the list; None in a component that is none."""
        return self.facts.get("file_count")

    @property
    def total_size(self) -> int | None:
        """Bytes of the content of the files; None in a component that is no list of files."""
        return self.facts.get("total_size")

    @property
    def missing_references(self) -> int:
        """Files that rows refer to and that were not there."""
        return int(self.facts.get("missing_references", 0))

    @property
    def references(self) -> str | None:
        """Digest of the references that the list was compared with."""
        return self.facts.get("references")

    @property
    def listing(self) -> str | None:
        """Fingerprint of the files; None where it does not tell, or the release that made it took none."""
        return self.facts.get("listing")

    @property
    def listed_at(self) -> str | None:
        """A time no later than the listing of the files."""
        return self.facts.get("listed_at")

    @property
    def counts(self) -> Mapping[str, int]:
        """Of a platform backup's facts: how many there are of each kind."""
        counts: Mapping[str, int] = self.facts["counts"]
        return counts


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says of a backup.

    Attributes:
        document: The whole of it as it is stored: the faces give it out, the signature is over it.
    """

    document: Mapping[str, Any] = whole()

    @classmethod
    def build(
        cls,
        *,
        backup_id: str,
        tenant: Tenant,
        type: str,
        created_by: str,
        created_at: str,
        components: Mapping[str, Component],
        parent: BackupId | None,
        requested_type: str,
        type_reason: str | None,
        reread: Mapping[str, str],
        recovery_point: RecoveryPoint | None,
        description: str | None,
        purpose: str,
        key_epoch: int,
        index: Sequence[str],
        stats: Mapping[str, float],
        left_out: Mapping[str, str] | None = None,
        moment: Mapping[str, object] | None = None,
        duration_s: float | None = None,
        schemas: Sequence[str] | None = None,
    ) -> Self:
        """The manifest of a backup whose components are written; not signed yet."""
        document = {
            "id": backup_id,
            "tenant_id": tenant.id,
            **({"tenant_key": tenant.key} if tenant.key else {}),
            "type": type,
            "region": tenant.region,
            "created_by": created_by,
            "created_at": created_at,
            "components": {name: _without_chunk_lists(part) for name, part in components.items()},
            "size": sum(part.size for part in components.values()),
            "parent": parent,
            "requested_type": requested_type,
            "type_reason": type_reason,
            "reread": dict(reread),
            **({"left_out": dict(left_out)} if left_out else {}),
            "recovery_point": asdict(recovery_point) if recovery_point else None,
            "tier": tenant.tier,
            "description": description,
            **({"purpose": purpose} if purpose else {}),
            **({"moment": dict(moment)} if moment else {}),
            "format_version": FORMAT_VERSION,
            "key_epoch": key_epoch,
            "index": list(index),
            "stats": {name: round(value, 3) for name, value in stats.items()},
            **({"duration_s": duration_s} if duration_s is not None else {}),
            **({"schemas": schemas} if schemas is not None else {}),
        }
        return cls(document)

    @property
    def id(self) -> BackupId:
        return BackupId(self.document["id"])

    @property
    def tenant_id(self) -> str:
        return str(self.document["tenant_id"])

    @property
    def tenant_key(self) -> str | None:
        """The tenant's key in the application, which stays when the slug changes hands; None where the release left it out."""
        return self.document.get("tenant_key")

    @property
    def type(self) -> str:
        """full, incremental, differential, or platform."""
        return str(self.document["type"])

    @property
    def requested_type(self) -> str | None:
        """The type that was asked for; None where the release did not record it."""
        return self.document.get("requested_type")

    @property
    def type_reason(self) -> str | None:
        """Why `type` is not `requested_type`."""
        return self.document.get("type_reason")

    @property
    def region(self) -> str:
        return str(self.document["region"])

    @property
    def created_by(self) -> str:
        return str(self.document["created_by"])

    @property
    def created_at(self) -> str:
        """ISO 8601, UTC."""
        return str(self.document["created_at"])

    @property
    def description(self) -> str | None:
        return self.document.get("description")

    @property
    def size(self) -> int:
        """Bytes before compression: rows, configuration, and the list of files."""
        return int(self.document.get("size") or 0)

    @property
    def checksum(self) -> str:
        return str(self.document["checksum"])

    @property
    def parent(self) -> str | None:
        """The backup it builds on; None for a full one."""
        return self.document.get("parent")

    @property
    def reread(self) -> Mapping[str, str]:
        """Table, or `files` -> why all of it was read and not only what changed."""
        reasons: Mapping[str, str] = self.document.get("reread") or {}
        return reasons

    @property
    def left_out(self) -> Mapping[str, str]:
        """What rows refer to and is not in the backup -> why: column -> large objects."""
        reasons: Mapping[str, str] = self.document.get("left_out") or {}
        return reasons

    @property
    def purpose(self) -> str:
        """Why it was made, where that was not to have a backup."""
        return self.document.get("purpose") or ""

    @property
    def is_safety(self) -> bool:
        """Whether it was made before a restore: it holds what somebody wanted to be rid of."""
        return self.purpose == SAFETY

    @property
    def is_recovered(self) -> bool:
        """Whether it was put together for a moment of the past. It says less than others: no backup is compared with it."""
        return self.purpose == RECOVERED

    @property
    def is_aside(self) -> bool:
        """Whether it was made for a restore: `latest` passes it over, and no rule of a policy counts it."""
        return self.purpose in ASIDE

    @property
    def moment(self) -> MomentFacts | None:
        """Of a recovered one: how it was put together. Raises KeyError, TypeError where that cannot be read."""
        found: Mapping[str, Any] | None = self.document.get("moment")
        return None if found is None else MomentFacts.from_dict(found)

    @property
    def recovery_point(self) -> RecoveryPoint:
        """The instant it describes. Raises KeyError, TypeError where the manifest has none."""
        return RecoveryPoint.from_dict(self.document["recovery_point"])

    @property
    def point_time(self) -> str | None:
        """The time of the recovery point, ISO 8601, UTC; None where the manifest has none."""
        return (self.document.get("recovery_point") or {}).get("time")

    def is_later_than(self, moment: datetime) -> bool:
        """Whether its recovery point is later than `moment`. Raises KeyError, TypeError where the manifest has none."""
        return bool(parse_timestamp(self.document["recovery_point"]["time"]) > moment)

    @property
    def format_version(self) -> int | None:
        """Of the repository's format, at the time of the backup."""
        return self.document.get("format_version")

    @property
    def key_epoch(self) -> int | None:
        """Of the data key that signed it; None where the release knew of one only."""
        return self.document.get("key_epoch")

    @property
    def index(self) -> Sequence[str]:
        """Index objects that the backup wrote, below the tenant's prefix."""
        names: Sequence[str] = self.document["index"]
        return names

    @property
    def stats(self) -> Mapping[str, float]:
        """Counters of its making; see Counters in docs/design.md."""
        counters: Mapping[str, float] = self.document.get("stats") or {}
        return counters

    @property
    def duration_s(self) -> float | None:
        """From its beginning until it was signed; None where the release did not record it."""
        return self.document.get("duration_s")

    @property
    def schemas(self) -> Sequence[str]:
        """Of a platform backup: the schemas that it covers."""
        names: Sequence[str] = self.document["schemas"]
        return names

    @property
    def components(self) -> dict[str, Component]:
        """By name, without lists of chunks. Raises KeyError where one is malformed."""
        return {name: Component.from_dict(part) for name, part in self.document["components"].items()}

    @property
    def component_names(self) -> list[str]:
        return list(self.document["components"])

    def component_checksum(self, name: str) -> str:
        """What the document of a component must have. Raises KeyError."""
        return str(self.document["components"][name]["checksum"])

    @property
    def rows(self) -> int | None:
        """Of the database component."""
        return self._part(DATABASE).get("rows")

    @property
    def file_count(self) -> int | None:
        return self._part(FILES).get("file_count")

    @property
    def missing_references(self) -> int:
        """Files that rows refer to and that were not there."""
        return int(self._part(FILES).get("missing_references") or 0)

    @property
    def file_list_bytes(self) -> int:
        """Its part of `size`."""
        return int(self._part(FILES).get("size") or 0)

    @property
    def file_bytes(self) -> int | None:
        """The content of the files."""
        return self._part(FILES).get("total_size")

    def _part(self, name: str) -> Mapping[str, Any]:
        part: Mapping[str, Any] = (self.document.get("components") or {}).get(name) or {}
        return part


def _without_chunk_lists(part: Component) -> dict[str, object]:
    """A component as the manifest shows it: what people and retention read, not what a restore does."""
    short = {k: v for k, v in part.as_dict().items() if k not in _LONG_FACTS}
    if "table_details" in short:
        short["table_details"] = [
            {k: v for k, v in table.document.items() if k not in _LONG_FACTS} for table in part.tables
        ]
    return short
