"""What a server leaves with a browser and believes when it comes back: sealed, so that nobody else reads or makes it."""

import base64
import json
import os
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import VerifiedToken

LONGEST = 3800
"""Browsers drop a cookie above 4,096 bytes, its name and attributes among them, and say nothing."""
_NONCE = 12


class SealedCookie:
    """Lists of plain values, encrypted (AES-256-GCM). Thread-safe.

    Args:
        purpose: What it is for. One cookie is never taken for another.
        secret: Of whoever may open it as well. None: this object alone.
    """

    def __init__(self, purpose: str, secret: str | None = None) -> None:
        self._purpose = purpose.encode()
        key = AESGCM.generate_key(256) if secret is None else _derived(secret)
        self._aead = AESGCM(key)

    def sealed(self, values: tuple[object, ...]) -> str:
        """Text of letters, digits, `-` and `_`."""
        nonce, plain = os.urandom(_NONCE), json.dumps(values).encode()
        return base64.urlsafe_b64encode(nonce + self._aead.encrypt(nonce, plain, self._purpose)).decode().rstrip("=")

    def opened(self, text: str) -> list[object] | None:
        """None for what was not sealed with this secret for this purpose."""
        try:
            if not 0 < len(text) <= LONGEST:
                return None
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            values: list[object] = json.loads(self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._purpose))
        except (InvalidTag, ValueError):  # the second is of what is no base64, or too short
            return None
        return values


class SignedIn(NamedTuple):
    """Who signed in at the issuer, as a cookie keeps it. Times are s since 1970; `ends` is that of the session."""

    user_id: str
    tenant_id: str
    role: str
    token_id: str | None
    issued: float
    expires: float
    ends: float

    @classmethod
    def by(cls, token: VerifiedToken, ends: float) -> Self:
        user = token.user
        return cls(user.user_id, user.tenant_id, user.role.name, token.id, token.issued, token.expires, ends)

    def token(self, via: str) -> VerifiedToken:
        """The ID token again, but for its nonce. Only of what was sealed: it is believed without a signature."""
        user = UserContext(self.user_id, self.tenant_id, Role[self.role], via)
        return VerifiedToken(user, self.issued, self.expires, self.token_id, "")


def _derived(secret: str) -> bytes:
    """The secret is random text, not a password: a digest is enough."""
    return HKDF(SHA256(), 32, salt=None, info=b"sbh cookies").derive(secret.encode())
