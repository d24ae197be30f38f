"""What the settings want done before and after a restore in place, e.g. to put the tenant into maintenance."""

import http.client
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager

from sbh_pipelines import outgoing
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.rebuild.operator_sql import run_statement
from sbh_pipelines.errors import HookFailed, SbhError
from sbh_pipelines.model import Tenant
from sbh_pipelines.settings import DatabaseSettings, Hook
from sbh_pipelines.settings.places.locality import is_plain_http, require_tls


@contextmanager
def run_hooks(site: Site, tenant: Tenant, backup_id: str, database: DatabaseSettings) -> Iterator[None]:
    """`restore.before` now and `restore.after` at the end, also when the restore failed. Raises HookFailed.

    Where a hook before the restore fails, those after it run all the same, and the restore does not begin. Raises SettingsError
    before anything where a webhook would be called without TLS on another machine.
    """
    settings = site.settings.restore
    for hook in (*settings.before, *settings.after):
        if hook.webhook_url is not None and is_plain_http(hook.webhook_url.get_secret_value()):
            allow_http = site.settings.storage.allow_http
            require_tls(hook.webhook_url.get_secret_value(), "A hook's webhook_url", allow_http=allow_http)
    outcome = "failed"
    try:
        for number, hook in enumerate(settings.before, 1):
            _run(hook, f"restore.before[{number}]", "before", "begins", tenant, backup_id, database)
        yield
        outcome = "completed"
    except BaseException as error:
        try:
            _after(settings.after, outcome, tenant, backup_id, database)
        except SbhError as second:
            error.add_note(f"and afterwards: {second}")
        raise
    else:
        _after(settings.after, outcome, tenant, backup_id, database)


def _after(hooks: list[Hook], outcome: str, tenant: Tenant, backup_id: str, database: DatabaseSettings) -> None:
    failed: SbhError | None = None
    for number, hook in enumerate(hooks, 1):
        try:
            _run(hook, f"restore.after[{number}]", "after", outcome, tenant, backup_id, database)
        except SbhError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _run(
    hook: Hook, name: str, when: str, outcome: str, tenant: Tenant, backup_id: str, database: DatabaseSettings
) -> None:
    if hook.sql is not None:
        try:
            run_statement(database, hook.sql, tenant.key, tenant.id, hook.timeout_s)
        except SbhError as error:
            raise _failed(name, when, error.why or error.what) from None
        return
    assert hook.webhook_url is not None
    body = {"event": f"restore.{when}", "outcome": outcome, "tenant_id": tenant.id, "backup_id": backup_id}
    url = hook.webhook_url.get_secret_value()
    try:
        outgoing.post(url, body, hook.timeout_s)
    except urllib.error.HTTPError as error:
        if error.code in _REDIRECTS:
            raise _failed(name, when, "the webhook answered with a redirect, which nobody follows", _FINAL) from None
        raise _failed(name, when, f"the webhook answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The error's text may hold the URL, which is a secret.
        raise _failed(name, when, f"the webhook could not be called ({type(error).__name__})") from None


_REDIRECTS = range(300, 400)
_FINAL = "name the address that it leads to"


def _failed(name: str, when: str, why: str, remedy: str = "correct the hook, or take it out") -> HookFailed:
    done = "nothing was written" if when == "before" else "the restore itself has ended; see its status"
    return HookFailed(f"A hook {when} the restore failed; {done}", on=name, why=why, remedy=remedy)
