"""Encryption in transit: the own session with the database, and the addresses of servers and webhooks in the settings.

And whether the one that launches runs, Dagster, asks who calls before it answers.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from sbh_pipelines.database.session import tls
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.places.locality import is_local, is_plain_http, require_tls

AREA = "transit"
_PATIENCE_S = 3.0


def check_session(report: Report, connection: Connection) -> None:
    """How the doctor's own session is encrypted; backups connect in the same way."""
    with report.trying(AREA):
        with translated("ask how the session is encrypted"):
            state = tls.session_state(connection)
        how = f"{state.protocol}, {state.cipher}, sslmode={state.mode}"
        if not state.encrypted and state.local:
            report.ok(AREA, "The database is on this machine, spoken to without TLS")
        elif not state.encrypted:
            report.warn(
                AREA,
                "The connection to the database is not encrypted",
                f"sslmode={state.mode}, which database.allow_plaintext allows",
                "set ssl = on in the server, take sslmode out of database.dsn, set database.allow_plaintext = false",
            )
        elif state.mode == "verify-full" or state.local:
            report.ok(AREA, "The connection to the database is encrypted", how)
        else:
            report.warn(
                AREA,
                "The connection to the database does not verify the server",
                how,
                "take sslmode out of database.dsn, and name the server's CA there: sslrootcert=/path/ca.pem",
            )
        if state.encrypted and not state.to_server:
            report.warn(
                AREA,
                "The encryption ends before the database server",
                "the server sees a session without TLS: a pooler or proxy is in between",
                "let it speak TLS to the server as well (PgBouncer: server_tls_sslmode = verify-full)",
            )


def check_addresses(report: Report, settings: Settings) -> None:
    """S3, KMS, webhooks, Dagster: https, or this machine, or allowed."""
    fine, plain = 0, []
    for field, url in _addresses(settings):
        with report.trying(AREA):
            require_tls(url, field, allow_http=settings.storage.allow_http)
            fine += 1
            if is_plain_http(url):
                plain.append(field)
    with report.trying(AREA):
        settings.api.require_safe_dagster()
        if is_plain_http(settings.api.dagster_url):
            report.warn(
                AREA,
                "The API asks Dagster on another machine without TLS",
                "api.dagster_url, which api.dagster_allow_http allows: the API's token may act for anybody",
                "use https there, and set api.dagster_allow_http = false",
            )
    if plain:
        report.warn(
            AREA,
            "Addresses on other machines are spoken to without TLS",
            f"{', '.join(plain)}, which storage.allow_http allows",
            "use https there, and set storage.allow_http = false",
        )
    elif fine:
        report.ok(AREA, f"Addresses in the settings that are https or on this machine: {fine}")


def check_dagster(report: Report, settings: Settings) -> None:
    """Dagster's bare web server launches anything for anybody. One that does not answer from here is not judged."""
    own = settings.api
    if is_plain_http(own.dagster_url) and not own.dagster_allow_http:
        return  # found already
    try:
        with httpx.Client(timeout=_PATIENCE_S, trust_env=False, follow_redirects=False) as client:
            answer = client.post(f"{own.dagster_url}/graphql", json={"query": "{ version }"})
    except (httpx.HTTPError, httpx.InvalidURL):
        return
    if answer.status_code in (401, 403):
        report.ok(AREA, "Dagster asks who calls")
        return
    try:
        open_to_all = bool(answer.json()["data"]["version"])
    except (ValueError, KeyError, TypeError):
        return
    if not open_to_all:
        return
    local = is_local(urlsplit(own.dagster_url).hostname or "")
    (report.warn if local else report.fail)(
        AREA,
        "Dagster answers without a login",
        f"api.dagster_url: whoever reaches it{', on this machine,' if local else ''} launches restores for anybody, past roles",
        "stop dagster-webserver, and serve its pages with `sbh ui`",
    )


def _addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    for field, template in (
        ("storage.endpoint_url", settings.storage.endpoint_url),
        ("keys.kms_endpoint_url", settings.keys.kms_endpoint_url),
        ("alerts.sns_endpoint_url", settings.alerts.sns_endpoint_url),
    ):
        if template:
            yield field, template
    for copy in settings.copies:
        for name in ("endpoint_url", "kms_endpoint_url"):
            if template := getattr(copy, name):
                yield f"copies.{copy.name}.{name}", template
    if settings.alerts.webhook_url is not None:
        yield "alerts.webhook_url", settings.alerts.webhook_url.get_secret_value()
    for when, hooks in (("before", settings.restore.before), ("after", settings.restore.after)):
        for number, hook in enumerate(hooks, 1):
            if hook.webhook_url is not None:
                yield f"restore.{when}[{number}].webhook_url", hook.webhook_url.get_secret_value()
