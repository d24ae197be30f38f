"""Files that a formula makes: any number of them, with long names and attributes, at no cost to a server.

A file list of hundreds of MiB would take an S3 server minutes to fill; what reads the list cannot tell the difference.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import ObjectMissing
from sbh_pipelines.model import Tenant, utc_now
from sbh_pipelines.settings import Settings
from sbh_pipelines.stores.base import ObjectInfo

NAME_BYTES, ATTRIBUTE_BYTES = 900, 2000  # S3 allows 1024 and 2048
_WHEN = datetime(2025, 6, 1, tzinfo=UTC)


class FormulaFiles:
    """A FileStore, as far as a backup reads one: `count` files of 32 bytes below any prefix."""

    def __init__(self, count: int) -> None:
        self._count = count

    @property
    def lists_all(self) -> bool:
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for i in range(self._count):
            yield ObjectInfo(f"{prefix}{i:09}-{_text(i, NAME_BYTES)}", 32, f'"{i}"', _WHEN)

    def stream(
        self, key: str, *, version: str | None = None, if_match: str | None = None
    ) -> tuple[Mapping[str, str], Iterator[memoryview]]:
        number = int((if_match or '"0"').strip('"'))
        content = blake2b(key.encode(), digest_size=32).digest()
        return {"note": _text(-number - 1, ATTRIBUTE_BYTES)}, iter([memoryview(content)])

    def head(self, key: str) -> ObjectInfo:
        raise ObjectMissing("No such object", on=key)

    def url(self, key: str) -> str:
        return f"formula://{key}"


class SiteWithFormulaFiles(Site):
    """A site whose tenants have these files instead of their bucket's."""

    def __init__(self, settings: Settings, count: int) -> None:
        super().__init__(settings, utc_now)
        self._files = FormulaFiles(count)

    def files_store(self, tenant: Tenant) -> tuple[Any, str]:
        return self._files, super().files_store(tenant)[1]


def _text(seed: int, size: int) -> str:
    """Hex digits, different for each seed, that compress to half at best."""
    parts = (blake2b(f"{seed}/{at}".encode()).hexdigest() for at in range(0, size, 128))
    return "".join(parts)[:size]
