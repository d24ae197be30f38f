"""Bearer tokens: signed JWTs that say who asks, for which tenant, with which role.

`open_tokens(settings)` checks tokens of the local signing key or of an OpenID Connect issuer, as `auth.mode` says. What
a token's header asks for is never followed: the algorithms are those of the settings, the keys those of the issuer.
The caller whose token is not believed learns only that, or that it has expired, which the rightful holder has
to know; `inspect` tells the operator why. No token is ever part of an error, a log line or a repr.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from sbh_pipelines.errors import RequestError, SettingsError, Unauthenticated
from sbh_pipelines.model import Clock, TenantId, utc_now
from sbh_pipelines.security.claims import (
    ISSUED_BY,
    MOST_ISSUERS,
    Refused,
    check_times,
    moment,
    user_from,
    valid_user_id,
)
from sbh_pipelines.security.oidc import OidcKeys
from sbh_pipelines.security.people import BY_SYSTEM
from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext
from sbh_pipelines.security.revocation import RevokedTokens
from sbh_pipelines.security.signing_key import ALGORITHM, SigningKey, read_signing_key
from sbh_pipelines.settings import Settings

_LONGEST_TOKEN = 16 << 10
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


class Keys(Protocol):
    """What signatures are checked with."""

    def candidates(self, header: Mapping[str, object]) -> tuple[Any, list[str]]:
        """The key for a token with this header, and the algorithms it may be used with. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What `sbh token inspect` shows. `claims` are what the token says, true or not; `why` is empty where it is valid."""

    valid: bool
    why: str
    claims: Mapping[str, object]
    user: UserContext | None


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that is believed.

    Attributes:
        user: Whose it is.
        issued: When it was made, s since 1970.
        expires: When it ends, s since 1970.
        id: Its `jti`, by which it can be revoked; None where it has none.
        nonce: What the login that it belongs to sent along; '' where there was none.
    """

    user: UserContext
    issued: float
    expires: float
    id: str | None
    nonce: str


class Tokens:
    """Checks tokens, and issues them where the private key is at hand. Thread-safe.

    With OIDC, `verify` may ask the issuer for its keys (bounded by seconds, once in minutes): not for an event loop.
    """

    def __init__(self, settings: Settings, keys: Keys, signing: SigningKey | None, clock: Clock) -> None:
        self._auth, self._keys, self._signing, self._clock = settings.auth, keys, signing, clock
        self._revoked = RevokedTokens(settings.auth.revoked_file)

    @property
    def can_issue(self) -> bool:
        return self._signing is not None and self._signing.private is not None

    def verify(self, token: str, via: str, audience: str | None = None) -> UserContext:
        """Whose token it is. `audience`: instead of that of the settings.

        Raises Unauthenticated, and KeyServiceUnavailable where the issuer's keys cannot be had.
        """
        return self.verified(token, via, audience).user

    def verified(self, token: str, via: str, audience: str | None = None) -> VerifiedToken:
        """Whose token it is, until when, and what tells it from others. Raises what `verify` raises."""
        try:
            claims, user = self._believed(token, audience or self._auth.audience, via)
            token_id = claims.get("jti")
            known = token_id if isinstance(token_id, str) else None
            return VerifiedToken(
                user, moment(claims, "iat"), moment(claims, "exp"), known, str(claims.get("nonce", ""))
            )
        except Refused as refused:
            raise unauthenticated(expired=refused.expired) from None

    def revoked(self, token: VerifiedToken) -> bool:
        """Whether a token that was believed earlier is on the list by now. Raises SettingsError where the list cannot be read."""
        return self._revoked.has(token.id, token.user, token.issued)

    def inspect(self, token: str, audience: str | None = None) -> TokenReport:
        """What a token says, whether it is believed, and why not. `audience`: instead of that of the settings."""
        said = _unchecked_claims(token)
        try:
            claims, user = self._believed(token, audience or self._auth.audience, "cli")
            return TokenReport(True, "", claims, user)
        except Refused as refused:
            return TokenReport(False, refused.why, said, None)

    def issue(
        self,
        user_id: str,
        tenant_id: str,
        role: Role | str,
        ttl_s: int,
        audience: str | None = None,
        issuer: UserContext | None = None,
    ) -> str:
        """A new token, which says by whose it is issued. Raises RequestError, InvalidId, and SettingsError where this host cannot
        issue any.
        """
        if self._signing is None or self._signing.private is None:
            raise SettingsError(
                "This host cannot issue tokens",
                on=f"auth.mode = {self._auth.mode!r}",
                why="they come from the OIDC issuer" if self._signing is None else "it holds the public key only",
                remedy="ask the issuer" if self._signing is None else "issue them where the private key is",
            )
        if not valid_user_id(user_id):
            raise RequestError(
                "Not a user id",
                on=ascii(user_id)[:64],
                why="it has 1 to 200 printable characters, no space at the ends",
            )
        if tenant_id != ALL_TENANTS:
            tenant_id = TenantId.parse(tenant_id)
        if not 1 <= ttl_s <= self._auth.max_ttl_s:
            raise RequestError(
                "A token cannot live that long",
                on=f"{ttl_s} s",
                why=f"auth.max_ttl_s allows 1 to {self._auth.max_ttl_s} s",
                remedy="ask for a shorter one; a new one can be issued any time",
            )
        now = int(self._clock().timestamp())
        issuers = [] if issuer is None else [BY_SYSTEM * issuer.by_system + issuer.user_id, *issuer.issued_by]
        if len(issuers) > MOST_ISSUERS:
            raise RequestError(
                "The chain of who issued whose token is too long",
                why=f"it may have {MOST_ISSUERS} links",
                remedy="let somebody nearer to its beginning issue the token",
            )
        claims = {
            "iss": self._auth.issuer,
            "aud": audience or self._auth.audience,
            "sub": user_id,
            "tenant": tenant_id,
            "role": role_named(role).name.lower(),
            "iat": now,
            "nbf": now,
            "exp": now + ttl_s,
            "jti": secrets.token_hex(16),
            **({ISSUED_BY: issuers} if issuers else {}),
        }
        return jwt.encode(claims, self._signing.private, algorithm=ALGORITHM)

    def _believed(self, token: str, audience: str, via: str) -> tuple[dict[str, object], UserContext]:
        """The claims of a token that is believed, and whose it is. Raises Refused."""
        claims = self._claims(token, audience)
        user = user_from(claims, self._auth, via)
        if self._revoked.has(claims.get("jti"), user, moment(claims, "iat")):
            raise Refused("it was revoked")
        return claims, user

    def _claims(self, token: str, audience: str) -> dict[str, object]:
        """The claims of a token that is genuine, and of now. Raises Refused."""
        if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_TOKEN or not _ALPHABET.issuperset(token):
            raise Refused("it is not a JWT")
        try:
            header = jwt.get_unverified_header(token)
            key, algorithms = self._keys.candidates(header)
            claims: dict[str, object] = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=audience,
                issuer=self._auth.issuer,
                # Times are compared below, with this program's clock.
                options={
                    "require": ["iss", "aud", "exp", "iat"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidTokenError as error:
            reason = _REASONS.get(type(error), "it is not a well-formed JWT")
            raise Refused(reason.format(audience=audience)) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # nesting that exhausts the parser
            raise Refused("it is not a well-formed JWT") from None
        check_times(claims, self._auth, self._clock().timestamp())
        return claims


def unauthenticated(*, expired: bool = False) -> Unauthenticated:
    """The one answer to every token that is not believed: it says nothing that helps to make a better one."""
    return Unauthenticated(
        "The token has expired" if expired else "The token is not valid",
        remedy="get a new one: from your identity provider, or with `sbh token issue`",
    )


def role_named(role: Role | str) -> Role:
    """Raises RequestError."""
    try:
        return role if isinstance(role, Role) else Role[role.upper()]
    except KeyError:
        names = ", ".join(r.name.lower() for r in Role)
        raise RequestError("Not a role", on=ascii(role)[:64], remedy=f"use one of: {names}") from None


def open_tokens(settings: Settings, clock: Clock = utc_now) -> Tokens:
    """Tokens as `auth.mode` says. No request is made yet. Raises SettingsError."""
    auth = settings.auth
    if auth.mode == "oidc":
        return Tokens(settings, OidcKeys(auth), None, clock)
    if auth.mode == "local" and auth.signing_key_file is not None:
        signing = read_signing_key(auth.signing_key_file)
        return Tokens(settings, _LocalKey(signing), signing, clock)
    raise SettingsError(
        "No tokens are believed here",
        on="auth.mode",
        why="the settings say neither whose signatures count (auth.mode = 'oidc') nor which key makes them ('local')",
        remedy="set [auth], see docs/access.md; for a local key: sbh token key --write FILE",
    )


@dataclass(frozen=True, slots=True)
class _LocalKey:
    _key: SigningKey

    def candidates(self, header: Mapping[str, object]) -> tuple[Any, list[str]]:
        return self._key.public, [ALGORITHM]


_REASONS: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "its signature is not by the key that counts here",
    jwt.InvalidAlgorithmError: "its algorithm is not one of those that the settings allow",
    jwt.InvalidAudienceError: "it is for another audience than {audience}",
    jwt.InvalidIssuerError: "it is by another issuer than auth.issuer",
    jwt.MissingRequiredClaimError: "it lacks one of the claims iss, aud, exp, iat",
    jwt.DecodeError: "it is not a well-formed JWT",
}


def _unchecked_claims(token: str) -> Mapping[str, object]:
    try:
        # nosemgrep: token-decoded-unchecked - for `sbh token inspect`, which says beside it whether it is believed
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, AttributeError):
        return {}
    return claims
