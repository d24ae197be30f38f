"""Draws docs/images/benchmarks.svg from what the benchmarks printed: a bar for each ratio, its aim, and where both are even.

python bench/full_backup.py | tail -1 > bench/results/full_backup.json     # for each that was run anew
python bench/draw.py
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "benchmarks.svg"
PAGE = PICTURE.parents[1] / "benchmarks.md"
_HEAD = "| what | ratio | aim | command | load |"

_WIDTH, _LABELS, _RIGHT = 960, 420, 70
_ROW, _TOP, _BAR = 30, 64, 16
_MOST = 1.5  # ratios above end at the edge, with an arrow


@dataclass(frozen=True, slots=True)
class Shown:
    """One bar.

    Attributes:
        bench: The program, without `.py`.
        ratio: The name of the ratio in what it prints.
        what: What is compared, in words.
        aim: The ratio that is wanted at most.
    """

    bench: str
    ratio: str
    what: str
    aim: float


SHOWN = (
    Shown("full_backup", "wall_vs_restic", "200 tenants backed up: time, beside pg_dump | restic", 1.0),
    Shown("full_backup", "stored_vs_restic", "the same: bytes stored, beside restic", 1.05),
    Shown("incremental", "incremental_vs_full", "1 % of all rows changed: time, beside a full backup", 0.35),
    Shown("incremental", "incremental_journal_vs_full", "the same, with the change journal", 0.15),
    Shown("incremental", "unchanged_vs_full", "nothing changed: time, beside a full backup", 0.03),
    Shown("fleet_hour", "wall_vs_minute", "an hour's tick of 3,000 tenants, 100 changed: time, beside a minute", 1.0),
    Shown("fleet_hour", "cpu_ms_per_unchanged_tenant", "the same: CPU of an unchanged tenant, beside 1 ms", 1.0),
    Shown("fleet_hour", "cpu_changed_vs_25_ms", "the same: CPU of a changed tenant, beside 25 ms", 1.0),
    Shown("restore", "restore_0_1pct_vs_delete_copy", "0.1 % of a tenant damaged: time, beside delete and load", 0.12),
    Shown("restore", "restore_100pct_vs_delete_copy", "all of it damaged: time, beside delete and load", 1.0),
    Shown("files", "wall_vs_rclone", "10,000 files: time, beside rclone copy", 0.9),
    Shown(
        "many_files", "again_wall_vs_rclone", "100,000 small files, ten changed: time, beside rclone copy again", 0.9
    ),
    Shown("copies", "wall_vs_rclone", "a second place for 300 tenants: time, beside rclone sync", 1.2),
    Shown("copies", "tick_vs_first", "the same, 1 % changed since: time, beside the first copy", 0.05),
    Shown("memory", "peak_vs_bound", "memory: growth of a backup, beside backup.memory_mib", 1.0),
    Shown("api", "list_p50_vs_15_ms", "60 of 60,000 backups listed over HTTP: median, beside 15 ms", 1.0),
    Shown("api", "fleet_p50_vs_300_ms", "the console's page of 1,000 tenants: median, beside 300 ms", 1.0),
    Shown("journal", "application_slowdown", "the application with the journal on: time, beside off", 1.05),
)


def result(bench: str) -> dict[str, Any]:
    """What a program printed last, or an empty object."""
    file = RESULTS / f"{bench}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def measured() -> Iterator[tuple[Shown, float]]:
    """What was measured, in the order of `SHOWN`; what has no result is left out."""
    for shown in SHOWN:
        ratios = result(shown.bench).get("ratios", {})
        if shown.ratio in ratios:
            yield shown, float(ratios[shown.ratio])


def table() -> str:
    """The same in Markdown; the load is that of the machine, over the last minute of the run."""
    lines = [_HEAD, "|---|---:|---:|---|---:|"]
    for shown, ratio in measured():
        load = result(shown.bench)["figures"]["machine"]["load_1m"]
        missed = "" if ratio <= shown.aim else ", **not reached**"
        what = shown.what.replace("|", "\\|")  # else it would end the cell
        lines.append(f"| {what} | {ratio:g} | {shown.aim:g}{missed} | `bench/{shown.bench}.py` | {load:g} |")
    return "\n".join(lines)


def picture() -> str:
    """The picture, SVG."""
    rows = list(measured())
    height = _TOP + _ROW * len(rows) + 16
    even = _at(1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="Benchmarks: ratios and aims">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="16" y="26" font-size="16" font-weight="600" fill="#1a1a2e">What it costs, beside what it is compared with</text>',
        '<text x="16" y="46" fill="#556">Shorter is better. The mark on each bar is the aim; amber: not reached.</text>',
        f'<line x1="{even}" y1="{_TOP - 6}" x2="{even}" y2="{height - 12}" stroke="#889" stroke-dasharray="3 3"/>',
        f'<text x="{even}" y="{_TOP - 12}" text-anchor="middle" fill="#556">as much</text>',
    ]
    for at, (shown, ratio) in enumerate(rows):
        parts += _row(_TOP + at * _ROW, shown, ratio)
    return "\n".join([*parts, "</svg>", ""])


def _row(top: int, shown: Shown, ratio: float) -> Iterator[str]:
    end, aim, middle = _at(ratio), _at(shown.aim), top + _BAR / 2 + 5
    colour = "#2f7d5b" if ratio <= shown.aim else "#d08a1d"
    more = " →" if ratio > _MOST else ""
    yield f'<text x="{_LABELS - 12}" y="{middle:g}" text-anchor="end" fill="#223">{escape(shown.what)}</text>'
    yield f'<rect x="{_LABELS}" y="{top}" width="{end - _LABELS:g}" height="{_BAR}" rx="2" fill="{colour}"/>'
    yield f'<line x1="{aim:g}" y1="{top - 4}" x2="{aim:g}" y2="{top + _BAR + 4}" stroke="#1a1a2e" stroke-width="2"/>'
    yield f'<text x="{max(end, aim) + 8:g}" y="{middle:g}" fill="#223">{ratio:g}{more}</text>'


def _at(ratio: float) -> float:
    return round(_LABELS + min(ratio, _MOST) / _MOST * (_WIDTH - _LABELS - _RIGHT), 1)


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(_HEAD)
    _, _, after = rest.partition("\n\n")
    PAGE.write_text(f"{before}{table()}\n\n{after}", "utf-8")
