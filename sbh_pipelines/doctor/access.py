"""Who people are taken for, where passwords go, and what one takes of what all share: what sound settings leave open."""

from contextlib import suppress

from sbh_pipelines.database.merge.transaction import restore_database
from sbh_pipelines.database.rebuild.throwaway import drill_server
from sbh_pipelines.database.session.targets import DrillDatabase
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import RequestError
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.access import CHANGEABLE

AREA = "access"
_A_DAY_S = 86_400
_PROXIES_KEEP_S = 60  # nginx and AWS's load balancers, as they come


def check(report: Report, settings: Settings) -> None:
    """Needs no server."""
    with report.trying(AREA):
        _check_names(report, settings)
    with report.trying(AREA):
        _check_drills(report, settings)
    with report.trying(AREA):
        _check_shares(report, settings)


def _check_names(report: Report, settings: Settings) -> None:
    auth = settings.auth
    if auth.mode == "oidc" and auth.user_claim in CHANGEABLE:
        report.warn(
            AREA,
            "Users are known by a name that can change hands",
            f"auth.user_claim = {auth.user_claim!r}: who renames themselves at the issuer is a second person, or another",
            'set auth.user_claim = "sub" (what the issuer never gives to another); events before it keep the names they have',
        )
    if auth.mode == "oidc" and not auth.tenants:
        report.warn(
            AREA,
            "A claim that says * makes a user of all tenants",
            f"auth.tenants is empty, so the claim {auth.tenant_claim} is believed as it is",
            'name the value that means all tenants: auth.tenants = { "platform-team" = "*" }; * itself then counts no longer',
        )
    if auth.mode != "none" and auth.revoked_file is None and auth.max_ttl_s > _A_DAY_S:
        report.warn(
            AREA,
            "Tokens live long and cannot be revoked",
            f"auth.max_ttl_s = {auth.max_ttl_s}, and there is no auth.revoked_file",
            "set auth.revoked_file, which `sbh token revoke` writes, or lower auth.max_ttl_s to 86400",
        )


def _check_drills(report: Report, settings: Settings) -> None:
    database = restore_database(settings)
    if not (database.password or database.password_file or database.password_secret):
        return
    with suppress(RequestError):  # the drill itself says it
        server = drill_server(settings)
        if not isinstance(server, DrillDatabase) or "passfile" in server.dsn or "service" in server.dsn:
            return
        report.warn(
            AREA,
            "Drills have no password for their server",
            "drill.dsn names another one, or another user, which is not told that of the settings, and [drill] has none",
            "set drill.password_file to a file with the password of the role on that server",
        )


def _check_shares(report: Report, settings: Settings) -> None:
    api = settings.api
    if api.expensive_per_tenant >= api.expensive_threads > 1:
        report.warn(
            AREA,
            "One tenant's plans can keep all others' waiting",
            f"api.expensive_per_tenant = {api.expensive_per_tenant}, and api.expensive_threads = {api.expensive_threads}",
            f"set api.expensive_per_tenant below {api.expensive_threads}, or more api.expensive_threads",
        )
    if api.behind_proxy and api.keep_alive_s <= _PROXIES_KEEP_S:
        report.warn(
            AREA,
            "The API closes connections that the proxy in front may still use",
            f"api.keep_alive_s = {api.keep_alive_s}, and proxies keep them for {_PROXIES_KEEP_S} s as they come: requests are lost",
            "set api.keep_alive_s = 75, or have the proxy close earlier",
        )
    if settings.audit.repeats_s == 0 and settings.auth.mode != "none":
        report.warn(
            AREA,
            "Who looks at the same again and again fills the audit trail",
            "audit.repeats_s = 0: an object for each call, which is never deleted",
            "set audit.repeats_s = 60: repeats of a minute are one event with a count",
        )
