"""`sbh audit`: who did what, when; whether anything of it was tampered with; and all of it in a file."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.tenants import FormerKeyOption, complete_tenant
from sbh_pipelines.cli.output import Answer, count, facts, plural, print_issues, table, utc, verdict
from sbh_pipelines.errors import AuditBroken, RequestError
from sbh_pipelines.model import parse_moment, typed

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import (
        ChainReport,
        EventListing,
        ExportReport,
        FileReport,
        TrailReport,
        UnreadableTrail,
    )

app = typer.Typer(name="audit", help="The audit trail: list, verify, export.")

_PLATFORM, _WORK = "*", "*@"
_PAGE = 1000

OneTenant = Annotated[
    str | None,
    typer.Argument(
        help="A tenant's slug, also of one that is gone.", metavar="[TENANT]", autocompletion=complete_tenant
    ),
]
PlatformOption = Annotated[bool, typer.Option("--platform", help="What belongs to no tenant, and denied calls.")]
WorkOption = Annotated[
    bool,
    typer.Option("--work", help="With --from-copy: what was done at the copy, which no trail brought there tells."),
]
RegionOption = Annotated[
    str | None, typer.Option("--region", help="With --platform: of this region; default: the platform's own.")
]


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


@command(app, "list", permission="audit.read")
def list_events(
    invocation: Invocation,
    tenant: OneTenant = None,
    platform: PlatformOption = False,
    region: RegionOption = None,
    event: Annotated[str, typer.Option("--event", help="Only these: restore.started, or restore.*")] = "*",
    since: Annotated[str | None, typer.Option("--since", help="At or after this time (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before this time.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only what this user did.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=_PAGE, help="At most so many.")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended: its `next`.")] = None,
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
    work: WorkOption = False,
) -> Answer:
    """List events, newest first. The list itself is recorded. A damaged part of the trail exits 8."""
    found = invocation.service(from_copy).audit.events(
        invocation.user(),
        _trail(tenant, platform, from_copy if work else None),
        event=event,
        since=moment(since),
        until=moment(until),
        user=user,
        limit=limit,
        cursor=cursor,
        region=region,
        former_key=former_key,
    )
    brief = [f"{event.seq} {event.event}" for event in found.events]
    return Answer(found, lambda out: _show_list(out, found), brief, AuditBroken.exit_status if found.errors else 0)


@command(app, "verify", permission="audit.read")
def verify(
    invocation: Invocation,
    tenant: OneTenant = None,
    platform: PlatformOption = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every tenant's, and the platform's of every region.")
    ] = False,
    region: RegionOption = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", help="An event that an earlier verification printed; it must be there.", metavar="SEQ:HASH"
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="An exported trail instead: its chain, without keys or a store.")
    ] = None,
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
    work: WorkOption = False,
) -> Answer:
    """Read whole trails: an event that was removed, changed, moved, inserted or copied from elsewhere is found (exit 8).

    Note the last event that it prints, SEQ:HASH, in a place of your own: with it, --expect finds even a trail that was put back
    together with its head.
    """
    if sum((tenant is not None, platform, everything, file is not None, work)) != 1:
        raise RequestError("Which trail?", remedy="a tenant, --platform, --all or --file FILE")
    results: Sequence[TrailReport | UnreadableTrail | FileReport]
    if file is not None:
        from sbh_pipelines.backup.service.audit import Audit

        results = [Audit.check_file(file)]
    elif everything:
        results = list(invocation.service(from_copy).audit.verify_all(invocation.user()))
    else:
        trail = _trail(tenant, platform, from_copy if work else None)
        audit = invocation.service(from_copy).audit
        results = [audit.verify(invocation.user(), trail, expect=expect, region=region, former_key=former_key)]
    broken = [result for result in results if not result.valid]
    brief = [f"{result.tenant_id}: {'valid' if result.valid else 'broken'}" for result in results]
    answer = {"trails": results, "broken": len(broken)} if everything else results[0]
    return Answer(answer, lambda out: _show_verified(out, results), brief, AuditBroken.exit_status if broken else 0)


@command(app, "export", permission="audit.export")
def export(
    invocation: Invocation,
    to: Annotated[Path, typer.Option("--to", help="The file to write; it must not exist.", metavar="FILE")],
    tenant: OneTenant = None,
    platform: PlatformOption = False,
    region: RegionOption = None,
    kind: Annotated[
        Format, typer.Option("--format", help="jsonl: an event a line, as stored. csv: for spreadsheets.")
    ] = (Format.JSONL),
    former_key: FormerKeyOption = None,
    from_copy: FromCopyOption = None,
    work: WorkOption = False,
) -> Answer:
    """Write a whole trail to a file, oldest event first. `sbh audit verify --file` checks it anywhere. A broken trail exits 8."""
    report = invocation.service(from_copy).audit.export(
        invocation.user(),
        to,
        _trail(tenant, platform, from_copy if work else None),
        format=kind,
        region=region,
        former_key=former_key,
    )
    return Answer(
        report,
        lambda out: _show_exported(out, report),
        [report.file],
        0 if report.valid else AuditBroken.exit_status,
    )


def moment(text: str | None) -> datetime | None:
    """A time, or a day, UTC where it does not say. Raises RequestError."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError:
        raise RequestError("Not a time", on=typed(text), remedy="e.g. 2024-01-15, 2024-01-15T12:00:00Z") from None


def _trail(tenant: str | None, platform: bool, work_at: str | None = None) -> str:
    if sum((tenant is not None, platform, work_at is not None)) != 1:
        raise RequestError("Which trail?", remedy="a tenant, or --platform; or --work with --from-copy NAME")
    if work_at is not None:
        return f"{_WORK}{work_at}"
    return _PLATFORM if tenant is None else tenant


def _name(result: "EventListing | ChainReport | UnreadableTrail") -> str:
    from sbh_pipelines.repository.trail.event import trail_name

    shared = result.tenant_id.startswith(_PLATFORM)
    return f"{trail_name(result.tenant_id)}, {result.region}" if shared else result.tenant_id


def _show_list(out: Any, found: "EventListing") -> None:
    rows = [
        (e.seq, utc(e.at).removesuffix(" UTC"), e.event, e.user_id, e.via, ", ".join(_props(e.props)))
        for e in found.events
    ]
    title = f"{plural(len(rows), 'event')} of {_name(found)}"
    out.print(table(title, ("->seq", "at, UTC", "event", "user", "-via", "~what"), rows))
    if found.next:
        out.print(f"More: --cursor {found.next}")
    print_issues(out, found.errors)


def _props(props: Mapping[str, object]) -> list[str]:
    """Short, on one line; --json has all of it."""
    said = []
    for name, value in props.items():
        if value not in (None, "", [], {}):
            text = _plain(value)
            shown = text if len(text) <= 60 else text[:59] + "…"
            # An id says itself of what it is.
            said.append(shown if text.startswith(name.removesuffix("id")) else f"{name}={shown}")
    return said[:8]


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(map(_plain, value.values()))
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _show_verified(out: Any, results: "Sequence[ChainReport | UnreadableTrail]") -> None:
    from sbh_pipelines.backup.service.results import UnreadableTrail

    read = [result for result in results if not isinstance(result, UnreadableTrail)]
    if len(results) == 1 and read:
        _show_chain(out, read[0])
    else:
        columns = ("trail", "verdict", ">events", ">late", "last event", "~error")
        rows = [
            (_name(r), verdict(False, "unknown"), "", "", "", r.error.what)
            if isinstance(r, UnreadableTrail)
            else (_name(r), _verdict(r), count(r.events), count(r.late), f"{r.seq}:{r.hash[:16]}…" if r.seq else "", "")
            for r in results
        ]
        out.print(table(plural(len(results), "audit trail"), columns, rows))
    for result in read:
        print_issues(out, result.issues)
        if more := result.broken - len(result.issues):
            out.print(f"… and {more:,} more of {_name(result)}")


def _show_chain(out: Any, found: "ChainReport") -> None:
    out.print(
        facts(
            {
                "trail": _name(found),
                "verdict": _verdict(found),
                "events": count(found.events),
                "recorded late": found.late or "",
                "from": utc(found.first_at),
                "to": utc(found.last_at),
                "last event": _last_event(found),
            }
        )
    )


def _show_exported(out: Any, report: "ExportReport") -> None:
    out.print(
        facts(
            {
                "file": report.file,
                "trail": _name(report),
                "events": count(report.events),
                "verdict": _verdict(report),
                "last event": _last_event(report),
            }
        )
    )
    print_issues(out, report.issues)


def _verdict(found: "ChainReport") -> Any:
    return verdict(found.valid, "whole" if found.valid else "broken")


def _last_event(found: "ChainReport") -> str:
    return f"{found.seq}:{found.hash}" if found.seq else "none"
