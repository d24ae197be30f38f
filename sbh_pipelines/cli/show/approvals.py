"""How approvals are shown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.output import Answer, table, utc
from sbh_pipelines.cli.show.plan import scope_text

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Approval


def approval_answer(approval: "Approval", next_command: str = "") -> Answer:
    def show(out: Any) -> None:
        out.print(table(f"{approval.approval_id}: {approval.status}", ("", "~"), _rows(approval)))
        if next_command:
            out.print(f"next  {next_command}", soft_wrap=True)

    return Answer(approval, show, [approval.approval_id])


def approvals_table(title: str, found: "Sequence[Approval]") -> Any:
    columns = ("approval", "status", "~what", "asked by", "-asked at", "-decided by", "-used at")
    return table(title, columns, map(_row, found))


def what_text(subject: Mapping[str, Any]) -> str:
    """What is asked for, in one line."""
    if subject["action"] == "undo":
        return f"undo {subject['restore_id']} with {subject['backup_id']}"
    request = RestoreRequest.of(**subject["request"])
    parts = [f"restore {scope_text(request.scope())} with {subject['backup_id']}", f"mode {request.mode}"]
    parts += ["into another database"] if subject["into_database"] else []
    parts += ["keep extra files"] if request.keep_extra_files else []
    parts += ["as the tenant"] if request.as_tenant else []
    parts += ["accept schema changes"] if request.accept_schema_changes else []
    parts += ["no safety backup"] if request.safety_backup is False else []
    return ", ".join(parts)


def _row(approval: "Approval") -> tuple[str, ...]:
    decided = approval.decided_by
    used = utc(approval.used_at) if approval.used_at else ""
    what, asked = what_text(approval.subject), utc(approval.requested_at)
    return (approval.approval_id, approval.status, what, approval.requested_by, asked, decided, used)


def _rows(approval: "Approval") -> list[tuple[str, str]]:
    rows = [
        ("tenant", approval.tenant_id),
        ("what", what_text(approval.subject)),
        ("into", str(approval.subject.get("into_database") or "")),
        ("reason", approval.reason),
        ("asked", f"by {_who(approval.requested_by, approval.requester_issued_by)}, {utc(approval.requested_at)}"),
        ("expires", utc(approval.expires_at)),
    ]
    if approval.decision:
        rows.append(
            (
                approval.decision,
                f"by {_who(approval.decided_by, approval.decider_issued_by)}, {utc(approval.decided_at)}",
            )
        )
        rows.append(("comment", approval.comment))
    if approval.used_by:
        rows.append(("used", f"by {approval.used_by}, {utc(approval.used_at)}"))
    return [(name, value) for name, value in rows if value]


def _who(user_id: str, issued_by: Sequence[str]) -> str:
    return f"{user_id} (token issued by {', '.join(issued_by)})" if issued_by else user_id
