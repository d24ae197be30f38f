"""The compliance report in words: one line per control with the figures of the period, and the whole as Markdown.

What a control asks and what stays the reader's own duty is docs/compliance.md's; here are figures only. `not known` stands where
nothing was measured, and nothing is said to be fine because no event says otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sbh_pipelines.cli.output import plural
from sbh_pipelines.model import timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import ComplianceReport, TenantCompliance

NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Control:
    """Paragraphs of four rulebooks that ask for one thing, and what the report shows of it."""

    subject: str
    paragraphs: str
    evidence: Callable[["ComplianceReport"], str]


def controls(report: "ComplianceReport") -> list[dict[str, str]]:
    """[{subject, paragraphs, evidence}]."""
    return [{"subject": c.subject, "paragraphs": c.paragraphs, "evidence": c.evidence(report)} for c in CONTROLS]


def _backups(report: "ComplianceReport") -> str:
    t = report.totals
    late = f"; {plural(t.events_late, 'event')} recorded late" if t.events_late else ""
    unchanged = "" if report.platform is None else f"; unchanged {plural(report.platform.unchanged, 'time')}"
    made = f"{plural(t.backups_made, 'backup')} of {plural(t.tenants, 'tenant')} made"
    return f"{made}, {t.backups_failed:,} failed{unchanged}{late}"


def _points(report: "ComplianceReport") -> str:
    t = report.totals
    if t.longest_gap_s is None:
        return f"{NOT_KNOWN}: no recovery point in the period"
    gap = f"longest time between two backups {_span(t.longest_gap_s)} ({t.longest_gap_of})"
    over = f"{plural(t.gaps_over, 'such time')} over the tenant's objective"
    return f"{gap}; {over}, ticks that found it unchanged not counted"


def _times(report: "ComplianceReport") -> str:
    times = report.totals.recovery_time
    if not times:
        return f"{NOT_KNOWN}: no drill in the period"
    said = [
        f"{name}: worst {_span(one.worst_s)} of {_span(one.objective_s)} allowed"
        + (f", missed {plural(one.missed, 'time')}" if one.missed else "")
        for name, one in times.items()
    ]
    return "; ".join(said)


def _drills(report: "ComplianceReport") -> str:
    t = report.totals
    return f"{t.drills_passed:,} of {plural(t.drills, 'drill')} passed" if t.drills else "none in the period"


def _validated(report: "ComplianceReport") -> str:
    t = report.totals
    return f"{plural(t.validated, 'validation')}, {t.invalid:,} found damage" if t.validated else "none in the period"


def _restores(report: "ComplianceReport") -> str:
    t = report.totals
    users = sorted({user for line in report.tenants for user in line.users})
    who = (
        f"; by {', '.join(users[:10])}" + (f" and {len(users) - 10:,} more" if len(users) > 10 else "") if users else ""
    )
    done = f"{plural(t.restores_completed, 'restore')} completed, {t.restores_failed:,} failed, {t.restores_undone:,} undone"
    return f"{done}; {plural(t.exported, 'export')}{who}"


def _retention(report: "ComplianceReport") -> str:
    changed = (
        "" if report.platform is None else f"; the policy changed {plural(report.platform.policy_changes, 'time')}"
    )
    return f"{plural(report.totals.deleted, 'backup')} forgotten, each with its rule{changed}"


def _holds(report: "ComplianceReport") -> str:
    t = report.totals
    return f"{t.holds_placed:,} placed, {t.holds_released:,} released, {t.holds_now:,} in force now"


def _erasures(report: "ComplianceReport") -> str:
    return f"{plural(report.totals.erased, 'tenant')} erased"


def _keys(report: "ComplianceReport") -> str:
    platform = 0 if report.platform is None else report.platform.keys_rotated
    s = report.settings
    sse = f", server-side {s.server_side_encryption}" if s.server_side_encryption not in (None, "none") else ""
    return f"keys by {s.key_provider}{sse}; {plural(report.totals.keys_rotated + platform, 'rotation')} recorded"


def _access(report: "ComplianceReport") -> str:
    t = report.totals
    platform = 0 if report.platform is None else report.platform.denied
    identity = {
        "none": "no tokens: whoever may run the commands",
        "local": "local tokens",
        "oidc": "tokens of an OIDC issuer",
    }
    said = identity.get(report.settings.tokens, report.settings.tokens)
    return f"{plural(t.accessed, 'access', 'accesses')} recorded, {t.denied + platform:,} denied; identity: {said}"


def _approvals(report: "ComplianceReport") -> str:
    t = report.totals
    return f"{plural(t.approved, 'restore')} approved by a second person, {t.break_glass:,} without one (break-glass)"


def _trails(report: "ComplianceReport") -> str:
    t = report.totals
    broken = f"; broken: {', '.join(t.trails_broken[:10])}" if t.trails_broken else ""
    platform = ""
    if report.platform is not None:
        verdicts = [
            f"{a.region} {NOT_KNOWN if a.valid is None else 'whole' if a.valid else 'broken'}"
            for a in report.platform.audit
        ]
        platform = f"; the platform's: {', '.join(verdicts)}"
    days = report.settings.object_lock_days
    lock = f"; object lock {plural(days, 'day')}, {report.settings.object_lock_mode}" if days else "; no object lock"
    return f"{t.trails_valid:,} of {plural(t.tenants, 'trail')} verified whole{broken}{platform}{lock}"


def _places(report: "ComplianceReport") -> str:
    return f"regions allowed: {', '.join(report.settings.regions)}"


CONTROLS: Sequence[Control] = (
    Control("Backups are made", "GDPR 32(1)(c); SOC 2 A1.2; HIPAA 164.308(a)(7)(ii)(A); PCI DSS 9.4.1.1", _backups),
    Control("Data lost at worst", "GDPR 32(1)(c); SOC 2 A1.2; HIPAA 164.308(a)(7)(ii)(B)", _points),
    Control("Time to recover", "GDPR 32(1)(c); SOC 2 A1.3; HIPAA 164.308(a)(7)(ii)(B)", _times),
    Control("Recovery is rehearsed", "GDPR 32(1)(d); SOC 2 A1.3, CC7.5; HIPAA 164.308(a)(7)(ii)(D)", _drills),
    Control("Backups are proved", "GDPR 5(1)(f), 32(1)(d); SOC 2 A1.2; HIPAA 164.312(c)(1)", _validated),
    Control(
        "Restores and exports", "GDPR 15, 20, 33; SOC 2 CC7.4, CC7.5; HIPAA 164.312(b); PCI DSS 10.2, 12.10", _restores
    ),
    Control("Retention is enforced", "GDPR 5(1)(e); SOC 2 CC6.5, C1.2; PCI DSS 3.2.1; HIPAA 164.316(b)(2)", _retention),
    Control("Legal holds", "GDPR 17(3), 18; SOC 2 C1.1", _holds),
    Control("Erasure", "GDPR 17, 28(3)(g); SOC 2 C1.2, CC6.5; PCI DSS 3.2.1", _erasures),
    Control("Keys and encryption", "GDPR 32(1)(a); SOC 2 CC6.1; HIPAA 164.312(a)(2)(iv); PCI DSS 3.5-3.7", _keys),
    Control("Access", "GDPR 25, 32(4); SOC 2 CC6.1-CC6.3; HIPAA 164.312(a)(1), (d); PCI DSS 7, 8, 10.2.1", _access),
    Control("Second person", "SOC 2 CC6.3, CC8.1; PCI DSS 6.5", _approvals),
    Control("The trail is whole", "GDPR 5(2), 30; SOC 2 CC7.2; HIPAA 164.312(b); PCI DSS 10.3, 10.5", _trails),
    Control("Residency", "GDPR 44-46; SOC 2 CC6.1", _places),
)


def markdown(report: "ComplianceReport") -> str:
    """The report as a document of its own."""
    since, until, at = map(timestamp, (report.since, report.until, report.at))
    lines = [
        "# Compliance report",
        "",
        f"Backups and restores from {since} to {until}, as of {at}. Figures are from audit trails that",
        "were verified while they were read, and from the repositories. docs/compliance.md says what they are evidence of.",
        "",
        "| Subject | Asked for by | In the period |",
        "|---|---|---|",
        *(f"| {_cell(c['subject'])} | {_cell(c['paragraphs'])} | {_cell(c['evidence'])} |" for c in controls(report)),
        "",
        "## Tenants",
        "",
        "| Tenant | Region | Backups | Failed | Longest gap | Drills passed | Restores | Forgotten | Holds | Denied | Trail |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        *("| " + " | ".join(_cell(str(v)) for v in row) + " |" for row in map(tenant_row, report.tenants)),
    ]
    restored = [(line.tenant_id, r) for line in report.tenants for r in line.restored]
    if restored:
        lines += ["", "## Restores", "", "| At | Tenant | What | By | Restore | Backup |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.at} | {_cell(t)} | {r.event} | {_cell(r.user_id)} | {r.restore_id} | {r.backup_id} |"
            for t, r in restored
        ]
    if report.errors:
        lines += ["", "## Not looked at", ""]
        lines += [f"* {_cell(e.tenant_id)}: {_cell(e.error.code)} {_cell(e.error.what)}" for e in report.errors]
    return "\n".join(lines) + "\n"


def tenant_row(line: "TenantCompliance") -> tuple[object, ...]:
    """What a table shows of a tenant."""
    audit = line.audit
    return (
        line.tenant_id,
        line.region,
        line.backups["made"],
        line.backups["failed"],
        _span(line.recovery_point.longest_gap_s),
        f"{line.drills_passed}/{line.drills}",
        line.restores["completed"] + line.restores["undone"],
        line.deleted,
        line.holds.now,
        line.denied,
        f"whole, {audit.events:,} events" if audit.valid else f"broken: {audit.broken:,} findings",
    )


def _span(seconds: float | None) -> str:
    if seconds is None:
        return NOT_KNOWN
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _cell(text: str) -> str:
    """One line that ends no cell and is no markup."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    for mark in "\\|`<>*_[]":
        plain = plain.replace(mark, "\\" + mark)
    return plain
