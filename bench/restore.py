"""What it costs to put one tenant's rows back: 408,150 of the 3 M in a table, of which a part was lost or changed.

The table is the fleet's `events`: a primary key, an index on `tenant_id`, a foreign key to `tenants`, the tenant's rows on
all of its pages. Each measurement has a new copy of the database with the damage done to it, vacuumed and written out.
Contenders: ours (`tables=events`, without a safety backup, and once with one); delete-and-copy, the tenant's rows deleted
and loaded by psql from a file that is there already, in one transaction; and the runbook, the same after the whole
`pg_dump` was restored into another database and the rows were taken from there. After each the rows must be as before.

Then the latencies of single-row queries and updates of other tenants: idle, during a restore of all rows, which rests between its
batches, and during one that does not.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _common as common
import _restore_data as data
from _restore_contenders import BUCKETS, DAMAGES, LITTLE, OTHER, RUNBOOKS, WHOLE, Contenders, Run

_SMALL = 0.03
_IDLE_S = 10.0


def main() -> None:
    args = common.arguments(__doc__, repeat=1)
    scale = _SMALL if args.small else 1.0
    with (
        common.running_stack(args.keep) as servers,
        tempfile.TemporaryDirectory(prefix="sbh-bench-") as folder,
        common.buckets(servers, BUCKETS, versioned=True),
    ):
        rows = data.fill(servers, tenants=50 if args.small else 200, scale=scale)
        bench = Contenders(servers, Path(folder))
        try:
            bench.prepare()
            runs: dict[str, list[Run]] = {}
            for _ in range(args.repeat):
                for name, made in bench.round().items():
                    runs.setdefault(name, []).append(made)
            others = bench.others(_IDLE_S / 3 if args.small else _IDLE_S)
        finally:
            data.drop(servers)
            data.drop(servers, OTHER)
    _report(rows, bench, runs, others)


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        **common.summary([run.measured for run in runs]),
        "wal_mb": round(common.median([run.wal for run in runs]) / 1e6, 1),
        "parts_s": {name: round(spent, 2) for name, spent in runs[-1].parts.items()},
    }


def _report(rows: int, bench: Contenders, runs: Mapping[str, Sequence[Run]], others: Mapping[str, Any]) -> None:
    figures: dict[str, Any] = {name: _summary(found) for name, found in runs.items()}
    for name in DAMAGES:
        figures[f"sbh_{name}"] |= {
            key: runs[f"sbh_{name}"][-1].measured.answer()[key]
            for key in ("rows_inserted", "rows_updated", "rows_deleted", "bytes_downloaded")
        }
    for contender, title in {"sbh": "SBH Pipelines", "copy": "Delete-and-copy"}.items():
        shown = {name: figures[f"{contender}_{name}"] for name in DAMAGES}
        common.show(
            f"{title}: {rows:,} rows of one tenant, {bench.copied / 1e6:,.0f} MB of COPY text; by what was lost",
            ["", *(damage.name for damage in DAMAGES.values())],
            [
                ["rows lost or changed", *(f"{bench.damaged[name]:,}" for name in shown)],
                *common.contender_rows(shown),
                ["WAL written, MB", *(found["wal_mb"] for found in shown.values())],
            ],
        )
    more = {"safety backup, 100 %": "sbh_safely", "runbook": "runbook", "runbook, one table": "runbook_one_table"}
    shown = {title: figures[name] for title, name in more.items()}
    common.show(
        "With a safety backup; the runbook",
        ["", *shown],
        [*common.contender_rows(shown), ["WAL written, MB", *(found["wal_mb"] for found in shown.values())]],
    )
    common.show("Wall seconds by part, the last round", ["", ""], _parts(figures))
    common.show(
        "Single rows of other tenants, ms",
        ["", *others],
        [
            ["seconds", *(round(found["seconds"], 1) for found in others.values())],
            *(
                [f"{script} {figure}", *(found[script][figure] for found in others.values())]
                for script in ("queries", "updates")
                for figure in ("transactions", "p50_ms", "p99_ms", "max_ms")
            ),
        ],
    )
    common.finish("restore", {"rows": rows, **figures, "others": others}, _ratios(figures, others))


def _parts(figures: Mapping[str, Any]) -> list[list[object]]:
    chosen = ("sbh_0_1pct", f"sbh_{WHOLE}", "sbh_safely", *RUNBOOKS)
    return [[f"{name}: {part}", spent] for name in chosen for part, spent in figures[name]["parts_s"].items()]


def _ratios(figures: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, float]:
    """What the runbook takes hardly depends on what was lost; ours is named in the ratio, else it is 0.1 %.

    The p99 is that of queries or updates, whichever became the worse.
    """
    ratios = {}
    for name in DAMAGES:
        ours, peer = figures[f"sbh_{name}"], figures[f"copy_{name}"]
        ratios[f"restore_{name}_vs_delete_copy"] = common.ratio(ours["wall_s"], peer["wall_s"])
        ratios[f"wal_{name}_vs_delete_copy"] = common.ratio(ours["wal_mb"], peer["wal_mb"])
        ratios[f"cpu_{name}_vs_delete_copy"] = common.ratio(ours["cpu_total_s"], peer["cpu_total_s"])
    ratios["safety_backup_vs_none"] = common.ratio(figures["sbh_safely"]["wall_s"], figures[f"sbh_{WHOLE}"]["wall_s"])
    for name in RUNBOOKS:
        ratios[f"{name}_vs_restore"] = common.ratio(figures[name]["wall_s"], figures[f"sbh_{LITTLE}"]["wall_s"])
    for name in ("1pct", WHOLE):
        ratios[f"runbook_vs_restore_{name}"] = common.ratio(
            figures["runbook"]["wall_s"], figures[f"sbh_{name}"]["wall_s"]
        )
    for state, ratio in {
        "restoring": "other_tenants_p99_vs_idle",
        "unpaced": "other_tenants_p99_unpaced_vs_idle",
    }.items():
        ratios[ratio] = max(
            common.ratio(others[state][script]["p99_ms"], others["idle"][script]["p99_ms"])
            for script in ("queries", "updates")
        )
    return ratios


if __name__ == "__main__":
    main()
