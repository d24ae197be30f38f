"""What a tenant's repository looks like from outside: its objects, by folder."""

from dataclasses import dataclass

import obstore

from sbh_pipelines.embedded.sample.fingerprint import stores
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import EmbeddedError


@dataclass(frozen=True, slots=True)
class Folder:
    name: str
    objects: int
    bytes: int
    example: str


def repository(stack: Stack, tenant: str) -> list[Folder]:
    """The folders of the tenant's repository, with the settings that the stack wrote. Raises EmbeddedError if empty."""
    prefix = f"files/{tenant}/backups"
    found: dict[str, list[tuple[str, int]]] = {}
    for store in stores(stack).values():
        for page in obstore.list(store, prefix):
            for meta in page:
                rest = meta["path"].removeprefix(f"{prefix}/")
                folder = f"{rest.partition('/')[0]}/" if "/" in rest else rest
                found.setdefault(folder, []).append((rest, meta["size"]))
    if not found:
        raise EmbeddedError("There is no repository", on=prefix, remedy=f"sbh backup create {tenant}")
    return [
        Folder(name, len(objects), sum(size for _, size in objects), max(objects)[0])
        for name, objects in sorted(found.items())
    ]
