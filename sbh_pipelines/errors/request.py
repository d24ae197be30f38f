"""Errors of what was asked for, or of who asked."""

from sbh_pipelines.errors.base import SbhError


class RequestError(SbhError):
    """The caller asked for something that cannot be."""

    code, exit_status, http_status = "SBH-200", 2, 400
    advice = "the text says what; `--help` of the command, or [api.md](api.md)"


class InvalidId(RequestError):
    """The id of a tenant, a backup or a restore is malformed, or a time is none."""

    code, http_status = "SBH-201", 422
    advice = (
        "copy it from `sbh tenants list`, `sbh backup list TENANT` or `sbh restore list -t TENANT`; a time is "
        "written `@2026-01-15T14:32`"
    )


class UnknownTenant(RequestError):
    """There is no such tenant in the tenants table."""

    code, http_status = "SBH-202", 404
    advice = "`sbh tenants list`; look for a typing error"


class UnknownBackup(RequestError):
    """The tenant has no such backup, or none at all."""

    code, http_status = "SBH-203", 404
    advice = "`sbh backup list TENANT`; another region, or a copy (`--from-copy NAME`), may have it"


class UnknownRestore(RequestError):
    """The tenant has no restore of this id, or its record was dropped with the backups it names."""

    code, http_status = "SBH-204", 404
    advice = "`sbh restore list -t TENANT`"


class NotConfirmed(RequestError):
    """What was asked for overwrites or destroys, and was not confirmed."""

    code, http_status = "SBH-205", 409
    advice = "look at the plan (`sbh restore diff`, `--dry-run`), then repeat it with `--confirm`"


class AccessDenied(RequestError):
    """The role or the tenant of the caller does not allow it."""

    code, exit_status, http_status = "SBH-206", 4, 403
    advice = "`sbh token inspect` says who the token stands for; ask an administrator"


class ForgetRefused(RequestError):
    """The backup is pinned, held, the newest, or the last full one known to be good."""

    code, http_status = "SBH-207", 409
    advice = "`sbh backup holds TENANT` shows pins and holds; `sbh backup unpin` takes a pin away"


class UnknownHold(RequestError):
    """There is no such pin or hold."""

    code, http_status = "SBH-208", 404
    advice = "`sbh backup holds TENANT`"


class Unauthenticated(RequestError):
    """There is no token, or one that is not believed: expired, revoked, or signed by somebody else."""

    code, exit_status, http_status = "SBH-209", 4, 401
    advice = "`sbh token inspect` says why; ask for a new one"


class TooManyRequests(RequestError):
    """The caller asks more often than is allowed, or the server has too much to do."""

    code, http_status, transient = "SBH-210", 429, True
    advice = "wait for the seconds that `Retry-After` says; the rates are in [settings.md](settings.md), *api*"


class IdempotencyConflict(RequestError):
    """The idempotency key was used for another request."""

    code, http_status = "SBH-211", 422
    advice = "repeat the request as it was, or use a new key"


class ApprovalNeeded(RequestError):
    """A second person has to approve it: there is no approval yet, or it is of another restore, expired or used."""

    code, exit_status, http_status = "SBH-212", 4, 403
    advice = (
        '`sbh restore request BACKUP -t TENANT --reason "…"`; another administrator runs `sbh approvals approve ID '
        "-t TENANT`; then `sbh restore run … --approval ID`"
    )


class EraseRefused(RequestError):
    """The erasure was not confirmed by the tenant's slug, or a legal hold is in the way, or an earlier one is not
    finished.
    """

    code, http_status = "SBH-213", 409
    advice = "the text says which; release a hold only with who placed it"


class TenantErased(RequestError):
    """The tenant's backups were erased with their keys, and it was not admitted again."""

    code, http_status = "SBH-214", 410
    advice = "`sbh tenants certificate TENANT` shows the certificate; `sbh tenants readmit TENANT` allows new backups"


class TookTooLong(RequestError):
    """The answer was not there in time."""

    code, http_status, transient = "SBH-215", 503, True
    advice = "ask for less at once, or again later"


class SlugChangedHands(RequestError):
    """The backup is of the tenant that had the slug before."""

    code, http_status = "SBH-216", 409
    advice = (
        "choose a backup of this tenant: `sbh backup list TENANT`; an administrator reads the former's with "
        "`--former-key`"
    )


class SlugTaken(RequestError):
    """The slug's repository is of the tenant that had it before: nothing under it is read or written."""

    code, http_status = "SBH-217", 409
    advice = (
        "another customer: `sbh tenants retire SLUG --confirm SLUG`; the same one with a new key: `sbh tenants "
        "adopt`. See [operations.md](operations.md), *When a restore fails*"
    )


class OwnerRefused(RequestError):
    """A repository cannot be adopted, retired or erased in this way, because it would be another tenant's."""

    code, http_status = "SBH-218", 409
    advice = "the text says whose it is, and gives the command"


class TenantMoved(RequestError):
    """The tenant went to another site, or has not arrived from one: its backups are made there."""

    code, http_status = "SBH-219", 409
    advice = "work at the site that the text names, or finish the move; `sbh tenants list` shows who is where"


class MoveRefused(RequestError):
    """The tenant cannot be moved so: the sites, or what is at either, do not allow it. Nothing was written."""

    code, http_status = "SBH-220", 409
    advice = "the text says what is in the way; see [sites.md](sites.md), *Moving a tenant*"


class MoveUnproven(RequestError):
    """What arrived is not what the site that the tenant leaves has now: the move is not finished, and backups go on there."""

    code, http_status = "SBH-221", 409
    advice = "stop what still writes for the tenant, then give the same command again: it brings the difference"
