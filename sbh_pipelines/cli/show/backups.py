"""Backups for people: the list, one manifest, what a run of `sbh backup create` made, and what a validation found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sbh_pipelines.backup.contents.manifest import Component, Manifest
from sbh_pipelines.backup.create.draft import Draft, DraftStatus
from sbh_pipelines.cli.output import count, facts, plural, printable, seconds, table, utc, verdict
from sbh_pipelines.cli.show.plan import left_out_table
from sbh_pipelines.errors import SbhError
from sbh_pipelines.model import size_text
from sbh_pipelines.repository.format import DATABASE

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import Validation


@dataclass(frozen=True, slots=True)
class UnchangedTenant:
    """A tenant that was found to be what a backup says.

    Attributes:
        tenant_id: The tenant.
        unchanged_since: The backup that describes it.
        recovery_point: When it was found so, ISO 8601, UTC.
    """

    tenant_id: str
    unchanged_since: str | None
    recovery_point: str | None


@dataclass(frozen=True, slots=True)
class KeptBackups:
    """A tenant whose backups were not forgotten as the policy wants.

    Attributes:
        tenant_id: The tenant.
        error: Why.
    """

    tenant_id: str
    error: SbhError


@dataclass(frozen=True, slots=True)
class FailedTenant:
    """A tenant that was not backed up.

    Attributes:
        tenant_id: The tenant; `?` where its slug cannot be used.
        backup_id: What the backup would have been called.
        step: The step that failed.
        error: Why.
    """

    tenant_id: str
    backup_id: str
    step: str
    error: SbhError


@dataclass(frozen=True, slots=True)
class CreatedBackups:
    """What came of backing up several tenants.

    Attributes:
        backups: The manifests of those that were made.
        unchanged: Tenants that needed none.
        retention_failed: Tenants whose old backups are still there.
        failed: Tenants that have no new backup.
    """

    backups: Sequence[Manifest]
    unchanged: Sequence[UnchangedTenant]
    retention_failed: Sequence[KeptBackups]
    failed: Sequence[FailedTenant]


def files_missing(number: int, names: Sequence[str] = ()) -> str:
    """What is said of files that rows refer to and that were not in the bucket; empty where there are none."""
    if not number:
        return ""
    more = f", and {number - len(names):,} more" if names and number > len(names) else ""
    which = f": {', '.join(map(printable, names))}{more}" if names else ""
    return f"{plural(number, 'file')} that rows refer to {'was' if number == 1 else 'were'} not in the bucket{which}"


def created_backups(drafts: Sequence[Draft], unusable: Sequence[SbhError]) -> CreatedBackups:
    """`unusable` are tenants whose slug cannot be used: they are in no backup, which must not go by unseen."""
    return CreatedBackups(
        [draft.manifest for draft in drafts if draft.manifest and not draft.error],
        [_unchanged(draft) for draft in drafts if draft.status is DraftStatus.UNCHANGED],
        [
            KeptBackups(draft.tenant.id, draft.retention.error)
            for draft in drafts
            if draft.retention and draft.retention.error
        ],
        [
            *(FailedTenant(d.tenant.id, d.backup_id, d.step, d.error) for d in drafts if d.error),
            *(FailedTenant(f"? ({error.on})", "", "begin", error) for error in unusable),
        ],
    )


def _unchanged(draft: Draft) -> UnchangedTenant:
    point = draft.recovery_point.time if draft.recovery_point else None
    return UnchangedTenant(draft.tenant.id, draft.unchanged_since, point)


def show_created(out: Any, created: CreatedBackups, missing: Mapping[str, Sequence[str]]) -> None:
    """`missing`: by tenant the names of a few files that its rows refer to and that were not there, as far as they are known."""
    if created.backups:
        rows = [
            (
                manifest.tenant_id,
                manifest.id,
                _type(manifest),
                count(manifest.rows),
                count(manifest.file_count),
                size_text(manifest.size),
                size_text(manifest.stats.get("bytes_stored")),
            )
            for manifest in created.backups
        ]
        columns = ("tenant", "backup", "type", ">rows", ">files", ">size", "->stored anew")
        out.print(table(f"{plural(len(created.backups), 'tenant')} backed up", columns, rows))
    if created.unchanged:
        same = ((u.tenant_id, u.unchanged_since, utc(u.recovery_point)) for u in created.unchanged)
        title = f"{plural(len(created.unchanged), 'tenant')} unchanged"
        out.print(table(title, ("tenant", "unchanged since", "safe up to"), same))
    kept = {one.tenant_id: one.error for one in created.retention_failed}
    for manifest in created.backups:
        if error := kept.get(manifest.tenant_id):
            out.print(f"Old backups of {manifest.tenant_id} were not forgotten: {error}", style="yellow", markup=False)
    for manifest in created.backups:
        for what, why in sorted(manifest.left_out.items()):
            out.print(f"Not in the backup of {manifest.tenant_id}: {what}: {why}", style="yellow", markup=False)
    for manifest in created.backups:
        if said := files_missing(manifest.missing_references, missing.get(manifest.tenant_id, ())):
            out.print(f"{manifest.tenant_id}: {said}", style="yellow", soft_wrap=True)
    if created.failed:
        broken = ((f.tenant_id, f.step, f.error.code, _what(f), f.error.why, f.error.remedy) for f in created.failed)
        headings = ("tenant", "step", "code", "~what failed", "~why", "~what to do next")
        out.print(table(f"{plural(len(created.failed), 'tenant')} failed", headings, broken))


def _what(failed: FailedTenant) -> str:
    """What failed, and on what; a tenant's name is in its line already."""
    error = failed.error
    return error.what if error.on in ("", failed.tenant_id) else f"{error.what}: {error.on}"


def backups_table(title: str, manifests: Sequence[Manifest]) -> Any:
    """A line for each backup."""
    lacking = any(manifest.missing_references for manifest in manifests)
    rows = [
        (
            manifest.id,
            manifest.type + (f" ({manifest.purpose})" if manifest.is_aside else ""),
            utc(manifest.created_at),
            manifest.created_by,
            count(manifest.rows),
            count(manifest.file_count),
            *((count(manifest.missing_references),) if lacking else ()),
            size_text(manifest.size),
            size_text(manifest.stats.get("bytes_stored")),
            manifest.description or "",
        )
        for manifest in manifests
    ]
    found = ("->files", ">missing files") if lacking else ("->files",)
    columns = ("backup", "type", "created", "-by", ">rows", *found, ">size", "->stored anew", "-~description")
    return table(title, columns, rows)


def show_manifest(out: Any, manifest: Manifest, missing: Sequence[str] = ()) -> None:
    """What the backup is, its recovery point, its components, its tables; `missing`: names of a few files that it lacks."""
    point: Mapping[str, object] = manifest.document.get("recovery_point") or {}
    out.print(
        facts(
            {
                "backup": manifest.id,
                "tenant": f"{manifest.tenant_id} ({manifest.region})",
                "type": _type(manifest),
                "builds on": manifest.parent,
                "created": f"{utc(manifest.created_at)} by {manifest.created_by}",
                "description": manifest.description,
                "recovery point": f"{utc(manifest.point_time)}, LSN {point.get('lsn')}, snapshot {point.get('snapshot')}",
                "size": size_text(manifest.size),
                "stored anew": size_text(manifest.stats["bytes_stored"]) if "bytes_stored" in manifest.stats else None,
                "journal": _proof(manifest),
                "checksum": manifest.checksum,
                "format": f"version {manifest.format_version}, key epoch {manifest.key_epoch}",
            }
        )
    )
    components = manifest.components
    rows = [(name, part.type, size_text(part.size), _content(part), part.key) for name, part in components.items()]
    out.print(table("Components", ("component", "type", ">size", "~content", "-key"), rows))
    if said := files_missing(manifest.missing_references, missing):
        out.print(said, style="yellow", soft_wrap=True)
    tables = components[DATABASE].tables if DATABASE in components else []
    if tables:
        lines = [(t.table, count(t.rows), size_text(t.bytes), count(t.groups)) for t in tables]
        out.print(table("Tables", ("table", ">rows", ">size", ">row groups"), lines))
    elif names := sorted(name for part in components.values() for name in part.table_names):
        out.print(facts({"tables": ", ".join(names)}))
    if moment := manifest.moment:
        out.print(facts(moment.lines()))
    if manifest.reread:
        out.print(table("Read whole, or looked through", ("~what", "~why"), sorted(manifest.reread.items())))
    if manifest.left_out:
        out.print(left_out_table(manifest.left_out))


def show_moment(out: Any, manifest: Manifest) -> None:
    """A backup that was put together for a moment, and the command that shows what a restore of it would do."""
    show_manifest(out, manifest)
    out.print(f"Next: sbh restore diff {manifest.id} -t {manifest.tenant_id}", soft_wrap=True)


def _type(manifest: Manifest) -> str:
    """The backup's type; where another was asked for, that and why."""
    made, asked = manifest.type, manifest.requested_type or manifest.type
    if manifest.is_safety:
        return f"{made}, a safety backup: made before a restore, and passed over by `latest`"
    if manifest.is_recovered:
        return f"{made}, put together for a moment of the past, and passed over by `latest`"
    return made if made == asked else f"{made}, {asked} was asked for: {manifest.type_reason}"


def _proof(manifest: Manifest) -> str | None:
    """Of a full backup beside a change journal: whether the journal led to what was read."""
    stats = manifest.stats
    if "journal_compared" not in stats:
        return None
    compared, differs = int(stats["journal_compared"]), int(stats.get("journal_differs", 0))
    found = f"{differs} differ, see `sbh journal gaps`" if differs else "all agree"
    return f"{compared} of {compared + int(stats.get('journal_uncompared', 0))} tables compared with what it led to: {found}"


def _content(component: Component) -> str:
    if component.file_count is not None:
        return f"{plural(component.file_count, 'file')}, {size_text(component.total_size)}"
    if component.table_names or component.rows is not None:
        rows = f", {plural(component.rows, 'row')}" if component.rows is not None else ""
        return f"{plural(len(component.table_names), 'table')}{rows}"
    return ""


def show_validation(out: Any, found: "Validation") -> None:
    out.print(
        facts(
            {
                "backup": found.backup_id,
                "tenant": found.tenant_id,
                "valid": verdict(found.valid, "yes" if found.valid else f"no, {plural(len(found.issues), 'issue')}"),
                "checked": f"{count(found.objects_checked)} objects, {count(found.chunks_checked)} chunks,"
                f" {size_text(found.bytes_checked)}" + (", all read back" if found.deep else ""),
                "took": seconds(found.seconds),
            }
        )
    )
    if said := files_missing(found.missing_references, found.missing_files):
        out.print(f"{said}. The backup is whole without them.", style="yellow", soft_wrap=True)
    if found.issues:
        rows = [(i.code, i.what, i.on, i.why, i.remedy) for i in found.issues]
        out.print(table("Issues", ("code", "~what", "~on", "~why", "~what to do next"), rows))
