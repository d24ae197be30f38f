"""`sbh journal`: what changes between two backups. Set it up, drain it, look into it."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import FromCopyOption, Invocation, command
from sbh_pipelines.cli.commands.tenants import SlugArgument
from sbh_pipelines.cli.output import Answer, count, plural
from sbh_pipelines.cli.show.journal import (
    drain_line,
    gaps_table,
    show_drain,
    show_listing,
    show_setup,
    show_status,
    suspect_of,
)
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import JournalError, RequestError, SbhError
from sbh_pipelines.model import parse_moment, typed

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import DrainResult

app = typer.Typer(name="journal", help="The change journal: what changes between two backups, so that no work is lost.")

_AGO = re.compile(r"(\d{1,6})\s*(s|min|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_EXAMPLE = "2024-01-15T14:30 (UTC, unless it says otherwise), or 2h: so long ago"


@command(app, "setup", permission="journal.manage")
def setup(invocation: Invocation) -> Answer:
    """Make the slot and the publication, and register the tenants: from now on their changes are kept. May be repeated.

    `sbh doctor` says before what the server and the tables need.
    """
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        done = service.journal.setup(user, progress=progress)
    return Answer(done, lambda out: show_setup(out, done), [drain_line(done.drained)])


@command(app, "drain", permission="journal.manage")
def drain(invocation: Invocation) -> Answer:
    """Read what was committed since the last drain, and store it. Dagster does so by `schedules.journal_drain`."""
    service, user = invocation.service(), invocation.user()
    with invocation.progress() as progress:
        done = service.journal.drain(user, progress=progress)
    return Answer(done, lambda out: show_drain(out, done), [drain_line(done)])


@dataclass(frozen=True, slots=True)
class Drains:
    """What a loop of drains did.

    Attributes:
        drains: Those that were done.
        failures: Those that failed.
        changes: Changes in all of them.
    """

    drains: int
    failures: int
    changes: int


@command(app, "run", permission="journal.manage")
def run(
    invocation: Invocation,
    every: Annotated[
        float | None,
        typer.Option(
            "--every",
            help="Seconds from the end of a drain to the next; default: journal.loop_seconds.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Drain again and again, a line for each, until SIGTERM or Ctrl-C, which let the drain at work come to its end.

    For a service manager. A drain that fails for a reason that may pass is tried again; any other error ends the loop.
    """
    service, user = invocation.service(), invocation.user()
    pause = service.settings.journal.loop_seconds if every is None else every
    say = (lambda _: None) if invocation.as_json else print
    with _asked_to_stop() as stop:
        done = _loop(lambda: service.journal.drain(user), stop, pause, say)
    return Answer(
        done, lambda out: out.print(f"{plural(done.drains, 'drain')}, {plural(done.failures, 'failure')}"), []
    )


def _loop(work: "Callable[[], DrainResult]", stop: threading.Event, pause: float, say: Callable[[str], None]) -> Drains:
    drains = failures = changes = 0
    while not stop.is_set():
        try:
            result = work()
            drains, changes = drains + 1, changes + result.changes
            say(drain_line(result))
        except SbhError as error:
            # What a drain found broken is healed by the next one, which says where the gap is.
            if not (error.transient or isinstance(error, JournalError)):
                raise
            failures += 1
            say(f"{_now()}  failed  {error}")
        stop.wait(pause)
    return Drains(drains, failures, changes)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@command(app, "status", permission="journal.status")
def status(invocation: Invocation) -> Answer:
    """Show the slot, how far each region is drained, what is covered, and the gaps. What is broken exits 8."""
    found = invocation.service().journal.status(invocation.user())
    bad = found.issues[0].exit_status if found.issues else JournalError.exit_status if found.trouble else 0
    brief = [f"{region.region} {region.drained_until or 'never'}" for region in found.regions]
    return Answer(found, lambda out: show_status(out, found), brief, bad)


@command(app, "show", permission="journal.read")
def show(
    invocation: Invocation,
    tenant: SlugArgument,
    since: Annotated[
        str | None,
        typer.Option("--since", help=f"No transaction before: {_EXAMPLE}.", metavar="TIME", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="None after this time.", metavar="TIME", show_default=False)
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option("--table", help="Only changes of this table. May be repeated.", metavar="TABLE")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", help="Rows shown of each table and kind of change.", min=0, max=1000)
    ] = 0,
    show_sensitive: Annotated[
        bool, typer.Option("--show-sensitive", help="In samples, show the values of columns declared sensitive.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", help="The newest so many transactions.", min=1, max=10_000)] = 50,
    from_copy: FromCopyOption = None,
) -> Answer:
    """Show what was done to a tenant's rows, transaction by transaction: to find the one that should not have been.

    Ends with the moment before the one that took the most, and the command that compares now with then.
    """
    from sbh_pipelines.backup.service.results import ShowRequest

    now = datetime.now(UTC)
    request = ShowRequest(
        since=_moment(since, now), until=_moment(until, now), tables=tables or (), samples=samples,
        show_sensitive=show_sensitive, limit=limit,
    )  # fmt: skip
    found = invocation.service(from_copy).journal.show(tenant, invocation.user(), request)
    suspect = suspect_of(found, from_copy)
    document = {**as_document(found), "suspect": as_document(suspect) if suspect else None}
    brief = [" ".join(filter(None, (str(one.xid or ""), one.before))) for one in found.transactions]
    return Answer(
        document,
        lambda out: show_listing(out, found, suspect),
        brief,
        found.issues[0].exit_status if found.issues else 0,
    )


@command(app, "gaps", permission="journal.status")
def gaps(invocation: Invocation) -> Answer:
    """List what ended what the journal could tell: after each, moments can be reached from the next backup on."""
    found = invocation.service().journal.gaps(invocation.user())

    def shown(out: Any) -> None:
        out.print(gaps_table(found.gaps))
        for issue in found.issues:
            out.print(str(issue), style="red", markup=False)

    brief = [f"{gap.time} {gap.region} {gap.kind}" for gap in found.gaps]
    return Answer(found, shown, brief, found.issues[0].exit_status if found.issues else 0)


@command(app, "drop", permission="journal.manage")
def drop(
    invocation: Invocation,
    confirm: Annotated[
        str, typer.Option("--confirm", help="The slot's name: no change is kept from then on.", metavar="SLOT")
    ] = "",
) -> Answer:
    """Drop slot and publication, so that the server lets go of its log. What was stored stays; a gap begins.

    Turn journal.enabled off as well, or the next drain begins anew.
    """
    done = invocation.service().journal.drop(invocation.user(), confirm=confirm)
    held = f"the server lets go of {count(done.slot.held_bytes)} bytes of its log" if done.slot else "there was no slot"
    if done.left:
        held += f"; the publication {done.publication} is another's, and was left"
    return Answer(done, lambda out: out.print(f"the journal is given up: {held}", markup=False), [confirm])


def _moment(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return parse_moment(text.removeprefix("@"))
    except (ValueError, OverflowError):  # so many days ago there was no calendar
        raise RequestError("Not a time", on=typed(text), remedy=f"write it as {_EXAMPLE}") from None
