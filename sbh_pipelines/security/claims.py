"""What the claims of a genuine token mean: who, which tenant, which role, and from when until when.

An issuer can be made to sign surprising things (a list where one value was, a tenant named `../other`, two tenants):
whatever is not plainly one user of one tenant with a known role is refused.
"""

from collections.abc import Mapping
from typing import Any

from sbh_pipelines.errors import InvalidId
from sbh_pipelines.model import TenantId
from sbh_pipelines.security.people import BY_SYSTEM, plain
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.settings.access import AuthSettings

ISSUED_BY = "iss_by"
"""Claim of our own tokens: by whose tokens it was issued, nearest first."""
MOST_ISSUERS = 20
_LONGEST_USER_ID = 200
_MOST_VALUES = 1000
_LATEST = 1e12  # s since 1970


class Refused(Exception):
    """Why a token is not believed: for `sbh token inspect`, never for the caller who presented it."""

    def __init__(self, why: str, *, expired: bool = False) -> None:
        super().__init__(why)
        self.why, self.expired = why, expired


def check_times(claims: Mapping[str, object], auth: AuthSettings, now: float) -> None:
    """Raises Refused."""
    issued, ends = moment(claims, "iat"), moment(claims, "exp")
    begins = moment(claims, "nbf") if "nbf" in claims else issued
    if ends - issued > auth.max_ttl_s:
        raise Refused(f"it lives longer than auth.max_ttl_s = {auth.max_ttl_s} s")
    if max(issued, begins) > now + auth.leeway_s:
        raise Refused("it is not valid yet: see whether the clocks of the issuer and of this host agree")
    if ends <= now - auth.leeway_s:
        raise Refused("it has expired", expired=True)


def user_from(claims: Mapping[str, object], auth: AuthSettings, via: str) -> UserContext:
    """Raises Refused."""
    user_id = _claim(claims, auth.user_claim)
    if not isinstance(user_id, str) or not valid_user_id(user_id):
        raise Refused(f"the claim {auth.user_claim} is not a user id")
    return UserContext(user_id, _tenant(claims, auth), _role(claims, auth), via, _issuers(claims, auth))


def valid_user_id(user_id: str) -> bool:
    """Nobody's name begins as that of an issuer who is the operating system's user."""
    sound = 0 < len(user_id) <= _LONGEST_USER_ID and user_id.isprintable() and user_id == user_id.strip()
    return sound and not plain(user_id).startswith(BY_SYSTEM)


def _issuers(claims: Mapping[str, object], auth: AuthSettings) -> tuple[str, ...]:
    """Of tokens of our own only; those of before it was said do not have the claim."""
    found = claims.get(ISSUED_BY, []) if auth.mode == "local" else []
    if not isinstance(found, list) or len(found) > MOST_ISSUERS:
        raise Refused(f"the claim {ISSUED_BY} is no list of users")
    if not all(isinstance(name, str) and valid_user_id(name.removeprefix(BY_SYSTEM)) for name in found):
        raise Refused(f"the claim {ISSUED_BY} is no list of users")
    return tuple(found)


def _tenant(claims: Mapping[str, object], auth: AuthSettings) -> str:
    said = _values(claims, auth.tenant_claim)
    if auth.mode == "oidc" and auth.tenants and ALL_TENANTS in said and ALL_TENANTS not in auth.tenants:
        raise Refused(f"the claim {auth.tenant_claim} says * itself, and auth.tenants says which values mean it")
    meant = {auth.tenants.get(value, value) for value in said}
    if ALL_TENANTS in meant:
        return ALL_TENANTS
    if len(meant) != 1:
        raise Refused(f"the claim {auth.tenant_claim} does not name one tenant")
    try:
        return TenantId.parse(meant.pop())
    except InvalidId:
        raise Refused(f"the claim {auth.tenant_claim} is not a tenant id") from None


def _role(claims: Mapping[str, object], auth: AuthSettings) -> Role:
    known: Mapping[str, str] = auth.roles or {role.name.lower(): role.name.lower() for role in Role}
    roles = [Role[known[value].upper()] for value in _values(claims, auth.role_claim) if value in known]
    if not roles:
        raise Refused(f"the claim {auth.role_claim} names no role of this system")
    return max(roles)


def _values(claims: Mapping[str, object], name: str) -> list[str]:
    """The claim as a list of texts; empty where it is missing."""
    found = _claim(claims, name)
    values = found if isinstance(found, list) else [] if found is None else [found]
    if len(values) > _MOST_VALUES or not all(isinstance(value, str) for value in values):
        raise Refused(f"the claim {name} is neither a text nor a list of texts")
    return values


def _claim(claims: Mapping[str, object], name: str) -> Any:
    """A claim by its name, which may itself have dots (`https://example.com/role`), or by its path."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def moment(claims: Mapping[str, object], name: str) -> float:
    """A time, s since 1970. Raises Refused."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:  # nor NaN
        raise Refused(f"the claim {name} is not a time")
    return value
