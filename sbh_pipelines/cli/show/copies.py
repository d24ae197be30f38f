"""Copies on the terminal: how far each is behind, what a run stored, what is whole there."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sbh_pipelines.cli.output import count, plural, print_issues, printable, seconds, table, utc, verdict
from sbh_pipelines.cli.show.spans import span
from sbh_pipelines.model import size_text, timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import (
        CopyRun,
        CopyStatus,
        CopyUpkeep,
        CopyVerification,
        ForgottenAtCopy,
        Promotion,
    )
    from sbh_pipelines.errors import SbhError

_MOST_LINES = 200
_GOOD = ("current", "ended", "left_out")


def status_line(copy: "CopyStatus") -> str:
    """`dr 3 current 1 behind 0 never 0 failed 0 ended 2 left_out`."""
    counts = _counts(copy)
    return " ".join([copy.name, *(f"{number} {standing}" for standing, number in counts.items())])


def show_status(out: Any, copies: Sequence["CopyStatus"]) -> None:
    if not copies:
        out.print("There are no copies: the settings have no [[copies]].")
    for copy in copies:
        told = ", ".join(f"{number:,} {_word(standing)}" for standing, number in _counts(copy).items() if number)
        of = "" if copy.kind == "managed" else f", {copy.kind}"
        title = f"{copy.name} in {copy.to}{of}, objective {span(copy.objective_s)}: {told or 'no tenants'}"
        rows = [
            (
                line.tenant_id,
                line.region,
                verdict(line.standing in _GOOD, _word(line.standing)),
                line.backup_id or "",
                _time(line.recovery_point),
                span(line.lag_s),
                _time(line.verified_at),
            )
            for line in copy.tenants[:_MOST_LINES]
        ]
        columns = ("tenant", "-region", "standing", "newest there", "recovery point", ">lag", "-verified")
        out.print(table(title, columns, rows))
        if (more := len(copy.tenants) - _MOST_LINES) > 0:
            out.print(f"… and {plural(more, 'more tenant')}: --json has all of them")
        for line in copy.tenants[:_MOST_LINES]:
            if line.why:
                style = "" if line.standing in _GOOD and not line.misplaced else "red"
                out.print(printable(f"{line.tenant_id}  {line.why}"), style=style, markup=False)
            if line.kept_backups:
                out.print(printable(f"  next  {_forgotten(copy.name, line.tenant_id)}"), style="dim", markup=False)
        for step in copy.steps:
            text = f"{step.region}  {step.step} is not copied since {utc(timestamp(step.since))}"
            out.print(text, style="red", markup=False)
            print_issues(out, [step.error])
        if copy.by_copy:
            out.print(f"What was verified is as the copy says, for the source does not: {', '.join(copy.by_copy)}")
        _print_unlisted(out, copy.unlisted)
        print_issues(out, [*copy.issues, *copy.damages, *([copy.undeleted] if copy.undeleted else [])])
        if any(line.standing not in _GOOD for line in copy.tenants):
            how = "verify" if copy.kind == "external" else "run"
            out.print(f"  next  sbh copies {how} {copy.name}", style="dim", markup=False)


def show_run(out: Any, done: "CopyRun") -> None:
    if done.outside_hours:
        out.print(f"Nothing was copied: {done.name} may not begin at this time of day (`hours` of the copy).")
        return
    now = datetime.now(UTC)
    copied = [one for one in done.tenants if one.left_out is None]
    rows = [
        (
            one.tenant_id,
            one.region,
            count(one.objects),
            size_text(one.bytes),
            verdict(one.error is None, one.backup_id or ("none yet" if one.error is None else "not verified")),
            span((now - one.recovery_point).total_seconds()) if one.recovery_point else "",
        )
        for one in sorted(copied, key=lambda one: (one.error is None, one.tenant_id))
    ]
    title = (
        f"{done.name}: {plural(done.objects, 'object')}, {size_text(done.bytes)} stored, of"
        f" {plural(len(copied), 'tenant')}, in {seconds(done.seconds)}"
    )
    out.print(table(title, ("tenant", "-region", ">objects", ">size", "verified there", ">lag"), rows))
    shared = [(kind, count(objects), size_text(size)) for kind, (objects, size) in done.shared.items() if objects]
    if shared:
        out.print(table("Besides", ("~what", ">objects", ">size"), shared))
    for one in done.tenants:
        if one.left_out is not None:
            out.print(printable(f"{one.tenant_id}  left out: {one.left_out}"), markup=False)
        if one.kept_backups and one.kept_since:
            told = f"{plural(one.kept_backups, 'backup')} of it lie at {done.name}, not continued since"
            out.print(printable(f"{one.tenant_id}  {told} {utc(timestamp(one.kept_since))}"), markup=False)
            out.print(printable(f"  next  {_forgotten(done.name, one.tenant_id)}"), style="dim", markup=False)
    _print_unlisted(out, done.unlisted)
    _print_errors(out, [(one.tenant_id, one.error) for one in done.tenants if one.error is not None])
    print_issues(out, done.issues)
    out.print(f"  next  sbh copies status {done.name}", style="dim", markup=False)


def show_verification(out: Any, found: "CopyVerification") -> None:
    rows = [
        (
            one.tenant_id,
            one.region,
            verdict(
                one.valid, "valid" if one.valid and one.backup_id else "nothing there" if one.valid else "not valid"
            ),
            one.backup_id or "",
            _time(one.recovery_point),
            count(one.objects),
            size_text(one.bytes) if found.deep else "",
            seconds(one.seconds),
        )
        for one in sorted(found.tenants, key=lambda one: (one.valid, one.tenant_id))
    ]
    how = "everything downloaded" if found.deep else "signatures, documents, presence of packs"
    title = f"{found.name}: {plural(len(found.tenants), 'tenant')}, {how}, {seconds(found.seconds)}"
    columns = ("tenant", "-region", "outcome", "newest whole", "recovery point", "->objects", "->downloaded", "->took")
    out.print(table(title, columns, rows))
    for tenant_id, why in found.left_out.items():
        out.print(printable(f"{tenant_id}  left out: {why}"), markup=False)
    _print_unlisted(out, found.unlisted)
    _print_errors(out, [(one.tenant_id, one.error) for one in found.tenants if one.error is not None])
    print_issues(out, found.issues)


def show_upkeep(out: Any, done: "CopyUpkeep") -> None:
    rows = [
        (
            one.tenant_id,
            verdict(not one.issues, "done" if not one.issues else "not all done"),
            count(len(one.kept)),
            count(len(one.forgotten)),
            count(one.objects),
            size_text(one.bytes),
            count(one.locked),
        )
        for one in sorted(done.tenants, key=lambda one: (not one.issues, one.tenant_id))
    ]
    title = f"{done.name}: {plural(len(done.tenants), 'tenant')}, {seconds(done.seconds)}"
    columns = ("tenant", "outcome", ">kept", ">forgotten", "->objects removed", ">size", "->locks renewed")
    out.print(table(title, columns, rows))
    if done.records or done.segments:
        out.print(
            f"{plural(done.records, 'catalog record')} merged away, {plural(done.segments, 'journal segment')} removed"
        )
    for tenant_id, why in done.left_out.items():
        out.print(printable(f"{tenant_id}  left out: {why}"), markup=False)
    for one in done.tenants:
        if one.all_stays:
            out.print(printable(f"{one.tenant_id}  nothing is forgotten: {one.all_stays}"), markup=False)
    _print_unlisted(out, done.unlisted)
    _print_errors(out, [(one.tenant_id, issue) for one in done.tenants for issue in one.issues])
    print_issues(out, [*done.issues, *([done.undeleted] if done.undeleted else [])])


def _print_unlisted(out: Any, error: "SbhError | None") -> None:
    if error is not None:
        out.print(
            printable(
                "The application did not list its tenants; whose backups these are is as the catalogs say:"
                f" [{error.code}] {error.what}"
            ),
            style="yellow",
            markup=False,
        )


def _forgotten(name: str, tenant_id: str) -> str:
    return f"sbh copies forget {name} --tenant {tenant_id} --confirm    # removes what lies there"


def show_forgotten(out: Any, done: "ForgottenAtCopy") -> None:
    if not done.repositories:
        out.print(printable(f"Nothing of {done.tenant_id} is at {done.name}."), markup=False)
        return
    told = f"{plural(done.objects, 'object')}, {plural(done.versions, 'version')}, {size_text(done.bytes)} removed from {done.name}"
    out.print(printable(f"{', '.join(done.repositories)}  {told}"), markup=False)
    if done.left:
        until = (
            f", the last of them until {utc(done.locked_until)}: give the same command then"
            if done.locked_until
            else ""
        )
        out.print(
            printable(
                f"{plural(done.left, 'version')} could not be deleted{until}; their keys are destroyed, nothing opens them"
            ),
            style="yellow",
            markup=False,
        )
        for example in done.examples[:5]:
            out.print(printable(f"  {example}"), style="dim", markup=False)


def show_promotion(out: Any, found: "Promotion") -> None:
    rows = [
        (
            one.tenant_id,
            one.region,
            verdict(one.standing in ("ready", "left_out"), _word(one.standing)),
            one.backup_id or "",
            _time(one.recovery_point),
            _time(one.at_source),
        )
        for one in found.tenants[:_MOST_LINES]
    ]
    if rows:
        title = f"{found.name}: {plural(len(found.tenants), 'tenant')} at the copy"
        out.print(table(title, ("tenant", "-region", "standing", "newest there", "up to", "at the source up to"), rows))
    if (more := len(found.tenants) - _MOST_LINES) > 0:
        out.print(f"… and {plural(more, 'more tenant')}: --json has all of them")
    for one in found.tenants[:_MOST_LINES]:
        if one.why:
            style = "" if one.standing == "left_out" else "red"
            out.print(printable(f"{one.tenant_id}  {one.why}"), style=style, markup=False)
    print_issues(out, found.issues)
    for change in found.changes:
        out.print(printable(change), style="yellow", markup=False)
    places = ", ".join(f"{region}: {place}" for region, place in found.place.items())
    if not found.promoted:
        if found.source_lost:
            out.print("What each tenant has at the copy is all there will be; what came after `up to` is lost.")
        else:
            out.print("The place of the backups is closed to writing, copied a last time, and nothing of it is lost.")
        out.print(printable(f"Backups are made then in {places}"), markup=False)
        again = f"sbh copies promote {found.name}{' --source-lost' if found.source_lost else ''} --confirm"
        out.print(f"  next  {again}", style="dim", markup=False)
        return
    out.print(
        printable(f"{found.name} is the primary since {_time(found.since)}. Backups are made in {places}"), markup=False
    )
    out.print("At the top of sbh.toml, on every machine, and start again what runs with it:")
    out.print(f"  {found.setting}", markup=False)
    for step in ("sbh doctor", "sbh backup create --all --type incremental"):
        out.print(f"  next  {step}", style="dim", markup=False)


def _print_errors(out: Any, errors: Sequence[tuple[str, "SbhError"]]) -> None:
    """What is wrong with each; what to do is said once where it is the same for all."""
    for tenant_id, error in errors:
        text = f"{tenant_id}  [{error.code}] {error.what} ({error.on}): {error.why}"
        out.print(printable(text), style="red", markup=False)
    for remedy in dict.fromkeys(error.remedy for _, error in errors if error.remedy):
        out.print(printable(f"  next  {remedy}"), style="dim", markup=False)


def _counts(copy: "CopyStatus") -> dict[str, int]:
    standings = ("current", "behind", "never", "failed", "ended", "left_out")
    return {one: sum(line.standing == one for line in copy.tenants) for one in standings}


def _word(standing: str) -> str:
    return standing.replace("_", " ")


def _time(moment: datetime | None) -> str:
    return utc(timestamp(moment)) if moment else ""
