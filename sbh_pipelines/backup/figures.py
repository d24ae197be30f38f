"""The few numbers of a backup that health and metrics are made of, so that no manifest need be read again for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


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

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError, AttributeError where it is not one."""
        parts = manifest.get("components") or {}
        database, files = parts.get("database") or {}, parts.get("files") or {}
        size, seconds = int(manifest.get("size") or 0), manifest.get("duration_s")
        held = int(files.get("total_size") or 0)
        return cls(
            size=size,
            logical=size - int(files.get("size") or 0) + held,
            stored=int((manifest.get("stats") or {}).get("bytes_stored") or 0),
            seconds=None if seconds is None else float(seconds),
            rows=int(database.get("rows") or 0),
            files=int(files.get("file_count") or 0),
            point=(manifest.get("recovery_point") or {}).get("time"),
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Of `as_dict`. Raises TypeError."""
        return cls(**document)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
