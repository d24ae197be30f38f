"""Errors as answers: application/problem+json, RFC 9457, with the fields and the HTTP status of the error tree.

Users of one tenant are not told what is the platform's own: addresses, paths, buckets, hosts, what a driver said. They get
what failed, the code, whether it may pass, and the request's id, under which the operators find the rest in the log.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from starlette.responses import Response

from sbh_pipelines.errors import RequestError, RestoreError, SbhError
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
_ASK = "ask the operators of the platform, and give them the id of the request"
_LATER = "try again later"
_COMMAND = re.compile(r"`sbh ([a-z-]+(?: [a-z-]+)?)[^`]*`")
_INSTEAD = {  # of commands that users of one tenant do not have
    "backup list": "GET /api/backup",
    "backup show": "GET /api/backup/{id}",
    "backup create": "POST /api/backup",
    "backup validate": "POST /api/backup/{id}/validate",
    "backup status": "GET /api/backup/{id}/status",
    "restore list": "GET /api/restore",
    "restore status": "GET /api/restore/{id}",
    "restore diff": "POST /api/backup/{id}/diff",
    "restore run": "POST /api/backup/{id}/restore",
    "restore undo": "POST /api/restore/{id}/undo",
    "tenants recovery-points": "GET /api/journal/windows",
    "journal show": "GET /api/journal",
}
_INTERNAL = re.compile(
    r"""(?<!\S)\S*://\S+                       # addresses, with whatever is glued to them
      | (?<![\w./])(?!/api/)/(?:[\w.@+-]+/)+[\w.@+-]*   # absolute paths
      | \b(?:host|hostaddr|port|user|dbname|password)\s*=\s*\S+ # connection strings
      | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b   # IPv4 addresses
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error, as far as the caller may see it.

    Attributes:
        code: Stable code of the error tree, such as SBH-203.
        what: What failed.
        on: On what it failed.
        why: Why, where that is known.
        remedy: What to do next.
        transient: Whether the same call may succeed later.
    """

    code: str
    what: str
    on: str
    why: str
    remedy: str
    transient: bool


@dataclass(frozen=True, slots=True)
class Problem(ErrorAnswer):
    """RFC 9457, with the fields of the error tree.

    Attributes:
        type: URN of the error's code.
        title: What failed.
        status: The answer's HTTP status.
        detail: What failed, on what and why, in one line.
        request_id: Under which the operators find the rest in the log.
    """

    type: str
    title: str
    status: int
    detail: str
    request_id: str


def sees_internals(user: UserContext | None) -> bool:
    """Platform users operate the platform; everybody else uses it."""
    return user is not None and user.tenant_id == ALL_TENANTS


def scrub(text: str) -> str:
    """The text without addresses, paths and connection strings."""
    return _INTERNAL.sub("…", text)


def error_answer(error: SbhError, user: UserContext | None) -> ErrorAnswer:
    """An error, as far as this user may see it."""
    shown = ErrorAnswer(error.code, error.what, error.on, error.why, error.remedy, error.transient)
    if sees_internals(user):
        return shown
    if isinstance(error, RequestError | RestoreError):
        return replace(
            shown,
            what=scrub(error.what),
            on=scrub(error.on),
            why=scrub(error.why),
            remedy=_without_commands(error.remedy),
        )
    return replace(shown, on="", why="", remedy=_LATER if error.transient else _ASK)


def _without_commands(remedy: str) -> str:
    """A remedy for who has HTTP alone: calls in place of commands; where there is none, whom to ask."""
    if any(found[1] not in _INSTEAD for found in _COMMAND.finditer(remedy)):
        return _ASK
    return scrub(_COMMAND.sub(lambda found: f"`{_INSTEAD[found[1]]}`", remedy))


def error_fields(error: SbhError, user: UserContext | None) -> dict[str, object]:
    """`error_answer` as part of a document."""
    return asdict(error_answer(error, user))


def shown(document: Any, user: UserContext | None) -> Any:
    """A document as this user may see it: of a recovery point tenants' users get the time. The rest of it (positions in the log,
    transactions, the server's identity) tells what all others of the same server do.
    """
    if sees_internals(user):
        return document
    if isinstance(document, dict):
        return {
            name: {"time": value.get("time")}
            if name == "recovery_point" and isinstance(value, dict)
            else shown(value, user)
            for name, value in document.items()
        }
    return [shown(entry, user) for entry in document] if isinstance(document, list) else document


def issue_fields(issue: SbhError, user: UserContext | None) -> dict[str, object]:
    """One issue of a validation, likewise; of a place the name within the repository stays."""
    fields: dict[str, object] = dict(issue.as_dict())
    if sees_internals(user):
        return fields
    shown = {name: scrub(value) if isinstance(value, str) else value for name, value in fields.items()}
    if "/backups/" in issue.on:
        shown["on"] = scrub(issue.on.partition("/backups/")[2])
    return shown


def problem(
    error: SbhError,
    request_id: str,
    user: UserContext | None = None,
    *,
    status: int | None = None,
    instance: str = "",
    more: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The document. `status` is for what only HTTP knows, such as 405; else the error's own counts."""
    shown = error_answer(error, user)
    said = [shown.what + (f" ({shown.on})" if shown.on else ""), shown.why]
    return {
        "type": f"urn:sbh-pipelines:error:{error.code}",
        "title": shown.what,
        "status": status or error.http_status,
        "detail": ": ".join(part for part in said if part),
        **({"instance": instance} if instance else {}),
        **asdict(shown),
        "request_id": request_id,
        **(more or {}),
    }


def problem_response(
    document: Mapping[str, object], headers: Mapping[str, str] | None = None, retry_after_s: int = RETRY_AFTER_S
) -> Response:
    status = int(str(document["status"]))
    extra = dict(headers or {})
    if status in (429, 503) or (status == 409 and document.get("transient")):
        extra.setdefault("Retry-After", str(retry_after_s))
    if status == 401:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="sbh"')
    return Response(json.dumps(document), status, extra, MEDIA_TYPE)


class Refusal(Exception):
    """An error together with what only this answer has: members of the document, headers, a status only HTTP knows."""

    def __init__(
        self,
        error: SbhError,
        more: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error, self.more, self.headers, self.status = error, dict(more or {}), dict(headers or {}), status
