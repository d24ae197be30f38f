"""The few numbers of a backup that health and metrics are made of, so that no manifest need be read again for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.errors import CorruptObject, RequestError
from sbh_pipelines.model import ASIDE, RECOVERED, BackupId, BackupType, parse_timestamp, timestamp
from sbh_pipelines.repository.format import VALIDATE


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one backup. Bytes; None where the backup is of a release that did not record it."""

    size: int  # as the manifest has it: rows, configuration, and the list of files
    logical: int  # rows and configuration before compression, and the files' content: what a restore brings back
    stored: int  # what this backup added to the repository
    seconds: float | None  # from its beginning until its manifest was signed
    rows: int
    files: int
    point: str | None  # up to when it describes the tenant
    missing: int = 0  # files that its rows refer to and that were not there

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Self:
        """Raises KeyError, TypeError, ValueError, AttributeError where it is not one."""
        seconds = manifest.duration_s
        return cls(
            size=manifest.size,
            logical=manifest.size - manifest.file_list_bytes + int(manifest.file_bytes or 0),
            stored=int(manifest.stats.get("bytes_stored") or 0),
            seconds=None if seconds is None else float(seconds),
            rows=int(manifest.rows or 0),
            files=int(manifest.file_count or 0),
            point=manifest.point_time,
            missing=manifest.missing_references,
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`. Raises TypeError."""
        return cls(**document)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What the policy needs to know of a backup, and its figures where they are known, which no rule looks at."""

    id: BackupId
    type: BackupType
    created_at: datetime
    purpose: str = ""  # why it was made, where that was not to have a backup
    figures: Figures | None = field(default=None, compare=False)

    @property
    def aside(self) -> bool:
        """Whether it was made for a restore: no rule of the policy counts it."""
        return self.purpose in ASIDE

    @property
    def recovered(self) -> bool:
        """Whether it was put together for a moment of the past: it says nothing of the tenant as it is."""
        return self.purpose == RECOVERED

    @property
    def full(self) -> bool:
        """Whether all of it was read on the server."""
        return self.type is BackupType.FULL and not self.recovered

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of a manifest, or of `as_dict`. Raises CorruptObject."""
        try:
            created = parse_timestamp(document["created_at"])
            if created.tzinfo is None:
                raise ValueError("a time without its zone")
            purpose = document.get("purpose")
            return cls(
                BackupId.parse(document["id"]),
                BackupType.parse(document["type"]),
                created.astimezone(UTC),
                purpose if purpose in ASIDE else "",
                _figures(document),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RequestError):
            raise CorruptObject(
                "A backup's id, type or time cannot be read",
                on=ascii(document.get("id"))[:64],
                why="damaged, or written by a newer release",
                remedy=VALIDATE,
            ) from None

    def as_dict(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "id": str(self.id), "type": str(self.type), "created_at": timestamp(self.created_at)
        }  # fmt: skip
        return {**fields, "purpose": self.purpose} if self.purpose else fields

    def as_listed(self) -> dict[str, object]:
        """`as_dict` with the figures, as `listing.json` has it."""
        return {**self.as_dict(), **({"figures": self.figures.as_dict()} if self.figures else {})}


def _figures(document: Mapping[str, Any]) -> Figures:
    if "figures" in document:
        return Figures.from_dict(document["figures"])
    return Figures.of_manifest(Manifest(document))
