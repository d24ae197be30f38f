"""What it takes to keep a data key: the protocol that key files and key services fulfil, and what they have in common."""

import base64
from collections.abc import Mapping
from typing import Protocol

from sbh_pipelines.errors import KeyServiceError

DATA_KEY_BYTES = 32


class KeyProvider(Protocol):
    """Wraps and unwraps data keys. Both raise KeyServiceError or KeyServiceUnavailable."""

    name: str

    def reads(self, provider: str) -> bool:
        """Whether key objects of this provider can be unwrapped here."""
        ...

    def wrap(self, data_key: bytes, tenant: str, region: str) -> dict[str, str]:
        """JSON-ready fields that `unwrap` needs: provider, key_id, wrapped (base64)."""
        ...

    def unwrap(self, wrapped: Mapping[str, str], tenant: str, region: str) -> bytes: ...

    def destroy(self, tenant: str, region: str) -> list[dict[str, str]]:
        """Begin the destruction of the keys that are this tenant's alone: {key_id, deletion_date}; [] where it has none."""
        ...


class EitherProvider:
    """Wraps with the current provider, unwraps what the other one wrapped as well: for a site that moves to a key service."""

    def __init__(self, current: KeyProvider, other: KeyProvider) -> None:
        self.name = current.name
        self._current, self._all = current, {current.name: current, other.name: other}

    def reads(self, provider: str) -> bool:
        return provider in self._all

    def wrap(self, data_key: bytes, tenant: str, region: str) -> dict[str, str]:
        return self._current.wrap(data_key, tenant, region)

    def unwrap(self, wrapped: Mapping[str, str], tenant: str, region: str) -> bytes:
        return self._all.get(wrapped.get("provider", self.name), self._current).unwrap(wrapped, tenant, region)

    def destroy(self, tenant: str, region: str) -> list[dict[str, str]]:
        return self._current.destroy(tenant, region)


def wrapped_bytes(wrapped: Mapping[str, str], tenant: str) -> bytes:
    """What a key object holds. Raises KeyServiceError."""
    try:
        return base64.b64decode(wrapped["wrapped"], validate=True)
    except (KeyError, ValueError):
        raise KeyServiceError(
            "The tenant's key object is damaged", on=tenant, remedy="restore keys/ from the bucket's older version"
        ) from None
