"""What a backup consists of: every chunk that it refers to, found by walking its documents and details."""

from collections.abc import Iterator, Mapping
from typing import Any

from sbh_pipelines.backup.contents.file_list import list_chunks
from sbh_pipelines.backup.contents.stored_table import read_table
from sbh_pipelines.backup.contents.verification import read_component, read_files
from sbh_pipelines.repository.repository import Repository


def chunks_of(repository: Repository, manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """Ids of all chunks a restore of this backup can ask for; one may come more than once.

    The repository's index must be loaded. Raises CorruptObject when a document or a detail cannot be read: what lies
    behind it is then unknown.
    """
    for name in manifest["components"]:
        document = read_component(repository, manifest, name)
        for listed in (document.get("detail", ()), document.get("reference_keys", ())):
            yield from map(bytes.fromhex, listed)
        for summary in document.get("table_details", ()):
            yield from map(bytes.fromhex, summary["detail"])
            table = read_table(repository, summary)
            if table.state is not None:
                yield from map(bytes.fromhex, table.state.chunks())
            for group in table.groups:
                yield group.chunk
        if name == "files":
            yield from list_chunks(repository, document)
            for entry in read_files(repository, document):
                yield from map(bytes.fromhex, entry.chunks)
