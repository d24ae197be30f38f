"""The REST API: where it listens, where it finds Dagster, and how much it takes on at once."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings.access import is_origin
from sbh_pipelines.settings.places.locality import CREDENTIAL, require_tls
from sbh_pipelines.settings.secrets import resolve
from sbh_pipelines.settings.section import Section

_LEAST_SESSION_KEY = 32


class ApiSettings(Section):
    """`sbh serve`. Rates and bounds hold for one worker process each."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on. Others than this host's own need TLS."
    )
    port: int = Field(8400, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    workers: int = Field(1, ge=1, le=64, description="Processes that answer.")
    tls_cert_file: Path | None = Field(None, description="Certificate chain, PEM; with `tls_key_file`: https.")
    tls_key_file: Path | None = Field(None, description="Its private key, PEM.")
    behind_proxy: bool = Field(
        False,
        description="A reverse proxy on a network that nobody else reaches ends TLS: plain http on any address is allowed.",
    )
    public_url: str | None = Field(
        None,
        description="What users type for the console, e.g. https://backups.example.com: the issuer sends them back to it, see"
        " `ui.client_id`. Null: `ui.public_url`, unless that is of this machine alone; without either, and where no proxy stands in"
        " front, http://localhost:PORT. Where it begins with https, the console's cookies travel over https only.",
    )
    session_key: SecretStr | None = Field(
        None,
        description="Random text, 32 characters or more (a secret), with which the cookies of who signed in to the console at the"
        " issuer are sealed: the same for all hosts that serve one console. Null: made anew by each start of `sbh serve`.",
    )
    session_key_file: Path | None = None
    session_key_secret: str | None = None
    dagster_url: str = Field(
        "http://127.0.0.1:3000", description="Dagster's web server, or the guarded one; `/graphql` is added."
    )
    dagster_allow_http: bool = Field(
        False,
        description="Ask a Dagster on another machine over plain http as well: nobody but the two reaches the network between,"
        " on which the API's token, which may act for anybody, can be read.",
    )
    dagster_public_url: str | None = Field(
        None, description="The same as platform users' browsers reach it, for links to runs. Null: no links."
    )
    dagster_location: str | None = Field(
        None, description="Name of the code location in Dagster. Null: the one that has the jobs."
    )
    dagster_token: SecretStr | None = Field(
        None,
        description="Bearer token of the API itself for a guarded Dagster (a secret); its user id must be among"
        " `auth.services`. Null: none is sent, or, with `auth.mode` = `local`, one is issued where the signing key is at hand.",
    )
    dagster_token_file: Path | None = None
    dagster_token_secret: str | None = None
    dagster_timeout_s: float = Field(20.0, gt=0, le=300, description="Bound of one request to Dagster, s.")
    metrics_token_file: Path | None = Field(
        None, description="File with a token that may read `/metrics`, and nothing else. Null: platform viewers' only."
    )
    max_body_kib: int = Field(64, ge=1, le=10_240, description="Longest body of a request, KiB.")
    body_timeout_s: float = Field(
        10.0,
        gt=0,
        le=300,
        description="A new connection's request, the rest of a request's head, and its body must be there after this, s.",
    )
    request_timeout_s: float = Field(60.0, gt=0, le=3600, description="An answer that takes longer is given up, s.")
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3600,
        description="A connection that has had an answer is closed after so long without a request, s. Longer than the proxy in"
        " front keeps it (60 s for nginx and AWS, 600 s for Google), or requests meet a closed one.",
    )
    connections: int = Field(500, ge=10, le=100_000, description="Connections at once; further ones get 503.")
    threads: int = Field(16, ge=1, le=256, description="Requests worked on at once.")
    expensive_threads: int = Field(
        4,
        ge=1,
        le=64,
        description="Plans and validations worked on at once, besides; and as many launches, cancels and approvals.",
    )
    expensive_per_tenant: int = Field(
        1, ge=1, le=64, description="Plans and validations of one tenant's users worked on at once; further ones wait."
    )
    waiting: int = Field(200, ge=1, le=10_000, description="Requests that wait for a thread; further ones get 429.")
    calls_per_minute: int = Field(1200, ge=1, le=10_000_000, description="Calls of any kind that one user may make.")
    calls_burst: int = Field(300, ge=1, le=1_000_000, description="Of these, so many at once after a pause.")
    expensive_per_minute: int = Field(
        60,
        ge=1,
        le=100_000,
        description="Plans and validations that one user, or one tenant, may ask for; apart from them as many launches, and as many"
        " requests for approval, of which one user has half.",
    )
    expensive_burst: int = Field(20, ge=1, le=10_000, description="Of these, so many at once after a pause.")
    cache_mib: int = Field(
        192,
        ge=0,
        le=65_536,
        description="Manifests kept in memory by each process that lists backups, MiB; one takes some 2 KiB.",
    )

    @field_validator("dagster_url", "dagster_public_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and parts.hostname and not parts.username and value.isprintable()
        except ValueError:
            good = False
        if not good:
            raise ValueError("must be an http or https URL without credentials")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> "ApiSettings":
        if self.public_url is not None and not is_origin(self.public_url):
            raise ValueError("api.public_url must be an https URL (http only on this host) without a path")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("api.tls_cert_file and api.tls_key_file go together")
        return self

    def session_secret(self) -> str | None:
        """What sessions are sealed with; None where no setting says. Raises SettingsError, KeyServiceError."""
        secret = resolve(self, "session_key")
        if secret is not None and len(secret) < _LEAST_SESSION_KEY:
            raise SettingsError(
                "api.session_key can be guessed",
                why=f"it has fewer than {_LEAST_SESSION_KEY} characters",
                remedy="make another: openssl rand -base64 33",
            )
        return secret

    def require_safe_dagster(self) -> None:
        """Raises SettingsError where Dagster would be asked over plain http on another machine, and that is not allowed."""
        require_tls(
            self.dagster_url,
            "api.dagster_url",
            allow_http=self.dagster_allow_http,
            setting="api.dagster_allow_http",
            why=CREDENTIAL,
        )
