"""Is a tenant's newest backup as large as its backups usually are? A pure function.

The measure is what the tenant has, rows, files and their bytes, and not what was stored for it: every backup describes the
whole tenant, so those of all types can be compared, and the same type comes first. The median of the backups before it
is what is usual: one odd backup among them changes nothing, and a tenant that has really shrunk is usual again once half
of them are of its new size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.settings import HealthSettings

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class UnusualMeasure:
    """A measure of the newest backup against what is usual.

    Attributes:
        backup_id: The newest backup.
        measure: What was measured: rows, files or bytes.
        value: How many it has.
        usual: How many the backups before it had, the median.
        compared: With how many backups it was compared.
    """

    backup_id: str
    measure: str
    value: int
    usual: float
    compared: int

    @property
    def small(self) -> bool:
        return self.value < self.usual

    @property
    def text(self) -> str:
        now, before = (
            (f"{self.value / MIB:,.1f} MiB", f"{self.usual / MIB:,.1f} MiB")
            if self.measure == "bytes"
            else (f"{self.value:,} {self.measure}", f"{self.usual:,.0f}")
        )
        return f"{now}, where {before} were usual in the {self.compared} backups before it"


def unusual_measures(backups: Sequence[BackupSummary], settings: HealthSettings) -> list[UnusualMeasure]:
    """What is unusual about the newest of a tenant's backups; those made for a restore do not count."""
    known = sorted(
        (b for b in backups if b.figures is not None and not b.aside), key=lambda b: (b.created_at, b.id), reverse=True
    )
    if not known:
        return []
    newest, before = known[0], known[1:]
    same = [b for b in before if b.type is newest.type]
    compared = (same if len(same) >= settings.size_least else before)[: settings.size_window]
    if len(compared) < settings.size_least:
        return []
    floor_bytes = int(settings.size_floor_mib * MIB)
    found = []
    for measure, floor in (
        ("rows", settings.size_floor_rows),
        ("files", settings.size_floor_rows),
        ("bytes", floor_bytes),
    ):
        value, usual = _value(newest, measure), median(_value(b, measure) for b in compared)
        shrunk = usual >= floor and usual > 0 and value < usual * settings.size_shrunk_below
        grown = value >= floor and value > max(usual, floor) * settings.size_grown_above
        if shrunk or grown:
            found.append(UnusualMeasure(str(newest.id), measure, value, usual, len(compared)))
    return found


def _value(backup: BackupSummary, measure: str) -> int:
    assert backup.figures is not None
    return int(getattr(backup.figures, "logical" if measure == "bytes" else measure))
