"""Somebody who may choose the name of their organisation at the issuer wants it to be `*`, and so to be a user of all tenants.

What stops them: where the settings say which values of the claim mean all tenants, the claim itself says it no longer.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sbh_pipelines.errors import Unauthenticated
from sbh_pipelines.security.tokens import Tokens, open_tokens
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.issuer import issuer


@pytest.fixture
def idp() -> Iterator[Any]:
    with issuer() as it:
        it.add_key("k1", "rsa")
        yield it


def tokens(idp: Any, **tenants: str) -> Tokens:
    auth = {"mode": "oidc", "issuer": idp.url, "algorithms": ["RS256"], "tenants": tenants}
    return open_tokens(Settings(auth=auth))  # type: ignore[arg-type]


def token(idp: Any, tenant: object) -> str:
    now = int(time.time())
    said = {"iss": idp.url, "aud": "sbh-pipelines", "sub": "mallory", "role": "admin", "iat": now, "exp": now + 60}
    return str(idp.sign(said | {"tenant": tenant}, "k1"))


@pytest.mark.parametrize("said", ["*", ["*"], ["*", "acme"], ["acme", "*"]])
def test_a_raw_star_is_no_platform_user(idp: Any, said: object) -> None:
    """In whatever company; `inspect` says why."""
    checks = tokens(idp, **{"platform-team": "*"})
    with pytest.raises(Unauthenticated):
        checks.verify(token(idp, said), "api")
    assert "auth.tenants" in checks.inspect(token(idp, said)).why


def test_who_is_meant_still_is(idp: Any) -> None:
    """The value that is named, one tenant by its slug, and a star where no values are named, or itself."""
    checks = tokens(idp, **{"platform-team": "*"})
    assert checks.verify(token(idp, "platform-team"), "api").tenant_id == "*"
    assert checks.verify(token(idp, "acme"), "api").tenant_id == "acme"
    assert tokens(idp).verify(token(idp, "*"), "api").tenant_id == "*"
    assert tokens(idp, **{"*": "*"}).verify(token(idp, "*"), "api").tenant_id == "*"
