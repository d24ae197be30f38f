"""What it takes to keep a data key: the protocol that key files and key services fulfil, and what they have in common."""

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from sbh_pipelines.errors import KeyUnopened

DATA_KEY_BYTES = 32
NOTHING_BOUND: Mapping[str, str] = MappingProxyType({})
BINDABLE = frozenset({"epoch", "home", "newest"})


class KeyProvider(Protocol):
    """Wraps and unwraps data keys. Both raise KeyServiceError or KeyServiceUnavailable."""

    name: str

    def reads(self, provider: str) -> bool:
        """Whether key objects of this provider can be unwrapped here."""
        ...

    def wrap(
        self, data_key: bytes, tenant: str, region: str, bound: Mapping[str, str] = NOTHING_BOUND
    ) -> dict[str, str]:
        """JSON-ready fields that `unwrap` needs: provider, key_id, wrapped (base64). What is `bound` has to be said again."""
        ...

    def unwrap(self, wrapped: Mapping[str, Any], tenant: str, region: str) -> bytes:
        """`wrapped` is a key object; the fields that its `binds` names are those that were bound."""
        ...

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

    def wrap(
        self, data_key: bytes, tenant: str, region: str, bound: Mapping[str, str] = NOTHING_BOUND
    ) -> dict[str, str]:
        return self._current.wrap(data_key, tenant, region, bound)

    def unwrap(self, wrapped: Mapping[str, Any], tenant: str, region: str) -> bytes:
        return self._all.get(wrapped.get("provider", self.name), self._current).unwrap(wrapped, tenant, region)

    def destroy(self, tenant: str, region: str) -> list[dict[str, str]]:
        return self._current.destroy(tenant, region)


def bound_fields(wrapped: Mapping[str, Any], tenant: str) -> dict[str, str]:
    """The fields of a key object that are bound to its wrapped key, by name; none in objects of earlier releases."""
    names = wrapped.get("binds", [])
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name in BINDABLE & wrapped.keys() for name in names
    ):
        raise KeyUnopened(
            "The tenant's key object is damaged", on=tenant, remedy="restore keys/ from the bucket's older version"
        )
    return {name: str(wrapped[name]) for name in sorted(names)}


def wrapped_bytes(wrapped: Mapping[str, Any], tenant: str) -> bytes:
    """What a key object holds. Raises KeyUnopened."""
    try:
        return base64.b64decode(wrapped["wrapped"], validate=True)
    except (KeyError, ValueError, TypeError):
        raise KeyUnopened(
            "The tenant's key object is damaged", on=tenant, remedy="restore keys/ from the bucket's older version"
        ) from None
