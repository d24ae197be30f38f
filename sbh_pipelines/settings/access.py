"""Whose tokens are believed, what needs a second person, and where the guarded web UI listens."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from sbh_pipelines.settings.places.locality import is_local
from sbh_pipelines.settings.section import Section
from sbh_pipelines.settings.site import SiteName

RoleName = Literal["viewer", "operator", "admin"]
# Signatures only. A shared secret (HS256) would let everyone who can check a token make one, and is how a public key
# is abused as a secret.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


# Claims that a person, or who administers accounts, can give to another: no identity.
CHANGEABLE = frozenset(
    {"preferred_username", "email", "upn", "unique_name", "username", "user_name", "name", "nickname", "given_name"}
    | {"cognito:username", "login", "phone_number"}
)


class AuthSettings(Section):
    """Whose bearer tokens the API, the web UI and `sbh` (with SBH_TOKEN) believe."""

    mode: Literal["none", "local", "oidc"] = Field(
        "none",
        description="`none`: no tokens; the API and the guarded web UI do not start. `local`: tokens made by `sbh token"
        " issue` with the key in `signing_key_file`. `oidc`: tokens of an OpenID Connect issuer.",
    )
    signing_key_file: Path | None = Field(
        None,
        description="With `local`: an Ed25519 key, PEM, made by `sbh token key`. The private key issues and checks tokens and"
        " must be mode 0600; a host that holds only FILE.pub checks them and can issue none.",
    )
    issuer: str = Field(
        "sbh-pipelines",
        min_length=1,
        description="What the claim `iss` must say. With `oidc`: the issuer's URL, below which its discovery document lies.",
    )
    audience: str = Field("sbh-pipelines", min_length=1, description="What the claim `aud` must be or contain.")
    jwks_url: str | None = Field(
        None, description="With `oidc`: where the issuer's keys are. Null: as the discovery document says."
    )
    algorithms: list[Algorithm] = Field(
        ["RS256"],
        min_length=1,
        description="With `oidc`: signature algorithms believed, whatever a token's header says.",
    )
    user_claim: str = Field(
        "sub",
        min_length=1,
        description="Claim with the user's id, for approvals, run tags and the audit trail: one that never passes to another"
        " person, as `sub`; `preferred_username`, `email` and the like can be changed. Claims within claims with dots:"
        " `realm_access.roles`.",
    )
    tenant_claim: str = Field(
        "tenant",
        min_length=1,
        description="Claim with the tenant's slug, or `*` for a platform user. Users must not be able to set it themselves.",
    )
    role_claim: str = Field(
        "role", min_length=1, description="Claim with the role, or a list of which the highest counts."
    )
    tenants: dict[str, str] = Field(
        {},
        description='What values of the tenant claim mean: `{ "platform-team" = "*" }`. Others mean themselves, but for `*`: with'
        " `oidc` no claim says that itself where this is set.",
    )
    roles: dict[str, RoleName] = Field(
        {},
        description='What values of the role claim mean: `{ "backup-admins" = "admin" }`. Empty: the roles\' own names;'
        " otherwise values that are not named mean nothing.",
    )
    services: list[str] = Field(
        [],
        description="User ids of services, such as the API, that may launch runs in Dagster on behalf of the users whom they"
        " have authenticated. No person may have such an id.",
    )
    leeway_s: int = Field(30, ge=0, le=300, description="How far the issuer's clock may be from this one, s.")
    max_ttl_s: int = Field(
        86_400,
        ge=60,
        le=31_536_000,
        description="Longest life of a token, from `iat` to `exp`, s. Longer ones are refused.",
    )
    revoked_file: Path | None = Field(
        None,
        description="File with what is believed no longer, one a line: the id (`jti`) of a token, `user:NAME before TIME`,"
        " `issuer:NAME before TIME` (what NAME issued). Read again when it changes; `sbh token revoke` adds to it.",
    )

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("must be printable")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "AuthSettings":
        if self.mode == "local" and self.signing_key_file is None:
            raise ValueError("auth.mode = 'local' needs auth.signing_key_file")
        if self.mode == "oidc":
            if not is_safe_url(self.issuer):
                raise ValueError("auth.mode = 'oidc' needs auth.issuer, an https URL (http only on this host)")
            if self.jwks_url is not None and not is_safe_url(self.jwks_url):
                raise ValueError("auth.jwks_url must be an https URL (http only on this host)")
        return self


class UiSettings(Section):
    """The guarded Dagster web UI, `sbh ui`; and how people sign in there and to the console of `sbh serve`."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3000, ge=1, le=65535, description="Port to listen on.")
    public_url: str | None = Field(
        None,
        description="What users type, e.g. https://backups.example.com, where a reverse proxy stands in front. Requests from"
        " pages of any other origin are refused. Null: this host only, http://localhost:PORT.",
    )
    session_s: int = Field(
        28_800,
        ge=60,
        le=604_800,
        description="Life of a login, s; never longer than its token, see `id_token_grace_s`.",
    )
    id_token_grace_s: int = Field(
        0,
        ge=0,
        le=604_800,
        description="How long a login at the issuer goes on after the end of its ID token, s, within `session_s`: for issuers"
        " whose ID tokens last minutes. Who loses their account at the issuer is here that much longer; revocation ends it.",
    )
    client_id: str | None = Field(
        None,
        description="With `auth.mode` = `oidc`: the client registered for the login pages, with the redirect URIs"
        " `…/login/callback` (web UI) and `…/console/login/callback` (console). Null: tokens are pasted.",
    )
    client_secret: SecretStr | None = Field(
        None, description="Its secret (a secret); null: a public client, with PKCE alone."
    )
    client_secret_file: Path | None = None
    client_secret_secret: str | None = None
    scopes: list[str] = Field(["openid", "profile"], description="Scopes that the login pages ask the issuer for.")
    sites: list[SiteName] = Field(
        [],
        description="The other sites of the Dagster instance, by `site.name`, whose jobs this web UI's users may launch as their"
        " roles say. Jobs of any other are for admins alone.",
        examples=[["us_east_1"]],
    )

    @model_validator(mode="after")
    def _consistent(self) -> "UiSettings":
        if self.public_url is not None and not is_origin(self.public_url):
            raise ValueError("ui.public_url must be an https URL (http only on this host) without a path")
        return self


class ApprovalSettings(Section):
    """What needs a second person."""

    restore: Literal["none", "two-person"] = Field(
        "none",
        description="`two-person`: restores in place, undoing them, need an approval by another admin: `sbh restore request`,"
        " `sbh approvals approve`.",
    )
    lifetime_s: int = Field(
        86_400, ge=60, le=2_592_000, description="How long after the request it can be approved and used, s."
    )
    break_glass: bool = Field(
        True,
        description="Whether `--break-glass REASON` goes on without an approval. It is recorded in the"
        " audit trail, and alerted where Dagster runs the restore.",
    )


def is_safe_url(url: str) -> bool:
    """An https URL with a host and without credentials; http only where it cannot leave this host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def is_origin(url: str) -> bool:
    """A safe URL of a host alone."""
    if not is_safe_url(url):
        return False
    parts = urlsplit(url)
    return parts.path in ("", "/") and not parts.query and not parts.fragment


def origin_of(url: str) -> str:
    """Of a safe URL, as browsers write it: in lower case, without the port that its scheme has by itself."""
    parts = urlsplit(url.lower())
    return f"{parts.scheme}://{parts.netloc.removesuffix(':443' if parts.scheme == 'https' else ':80')}"


def is_loopback(host: str) -> bool:
    """Whether what listens on, or is reached at, `host` stays on this machine. Empty means every address: it does not."""
    return bool(host) and host[0] not in "/@" and is_local(host)
