"""The files of the backup that an incremental or differential one builds on, and which of them are still the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sbh_pipelines.backup.contents.file_list import list_lines
from sbh_pipelines.backup.contents.verification import read_component
from sbh_pipelines.errors import CorruptObject, UnknownBackup
from sbh_pipelines.files.listing import is_settled, made_exactly
from sbh_pipelines.model import BackupType, Draft, parse_timestamp, timestamp
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.stores.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class ParentFiles:
    """The parent's list, `document` being its component's."""

    repository: Repository
    document: Mapping[str, Any]
    listed_at: datetime  # no later than its listing
    in_directory: bool  # whether ETags are of inode, time and size, and not of the content

    @property
    def listing(self) -> str | None:
        """The fingerprint of its files; None where it does not tell, or the release that made it took none."""
        return self.document.get("listing")

    @property
    def exact(self) -> bool:
        """Whether the quick listing did not do for it."""
        return made_exactly(self.listing or "")

    def same(self, listed: Iterator[ObjectInfo], prefix: str) -> Iterator[tuple[ObjectInfo, bytes | None]]:
        """Each listed file with its line of the parent's list, or None where it must be read. Both in order of the path.

        A file is the same if size, ETag and modified time are, and if everything that was stored of it is still there:
        what was lost since is read again. So is what the lost part of a damaged list said.
        """
        lines = list_lines(self.repository, self.document, lambda _: None)
        fields, line, at = _next(lines)
        for info in listed:
            path = info.key[len(prefix) :].encode("utf-8", "surrogatepass")
            while at is not None and at < path:
                fields, line, at = _next(lines)
            yield info, line if at == path and self._is_same(fields, info) else None

    def _is_same(self, fields: Mapping[str, Any], info: ObjectInfo) -> bool:
        then = (fields.get("size"), fields.get("etag"), fields.get("modified"))
        if then != (info.size, info.etag, timestamp(info.modified)):
            return False
        if self.in_directory and not is_settled(info.modified, self.listed_at):
            return False
        return all(self.repository.index.find(bytes.fromhex(chunk)) for chunk in fields["chunks"])


def _next(lines: Iterator[tuple[dict[str, Any], bytes]]) -> tuple[Mapping[str, Any], bytes, bytes | None]:
    """(fields, line, path as bytes) of the next file of a list; the path is None at the end."""
    for fields, line in lines:
        if isinstance(path := fields.get("path"), str):
            return fields, line, path.encode("utf-8", "surrogatepass")
    return {}, b"", None


def parent_files(repository: Repository, draft: Draft, *, in_directory: bool) -> tuple[ParentFiles | None, str]:
    """What the draft can build on. None for a full backup, and where the parent cannot be read: then with the reason."""
    if draft.type is BackupType.FULL or draft.parent is None:
        return None, ""
    try:
        manifest = repository.manifest(draft.parent)
        document = read_component(repository, manifest, "files")
    except (CorruptObject, UnknownBackup) as error:
        return None, f"the file list of {draft.parent} cannot be read: {error.what}"
    listed_at = parse_timestamp(document.get("listed_at") or manifest["created_at"])
    return ParentFiles(repository, document, listed_at, in_directory), ""
