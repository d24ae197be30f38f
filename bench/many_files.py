"""One tenant with 100,000 files of 2 KB, of which ten change: what the next backup costs, next to `rclone copy` run again.

Both have made their first copy before. rclone lists both buckets and compares; SBH Pipelines lists one, and compares with the list
of the backup before, whose parts that did not change are taken over.
"""

from collections.abc import Mapping
from typing import Any

import _common as common
import files
from _common import Measured

_SMALL_BYTES, _CHANGED = 2_000, 10


def main() -> None:
    args = common.arguments(__doc__, repeat=1, files=100_000)
    count = min(args.files, 2_000) if args.small else args.files
    rclone = common.rclone()
    with common.running_stack(args.keep) as servers:
        store = files.fill(servers, count, 0, _SMALL_BYTES)
        names = [files.OURS.replace("{region}", region) for region in files.REGIONS]
        with common.buckets(servers, [*names, files.RCLONE], versioned=True):
            figures: dict[str, Any] = {"first": _summary(files.ours(servers, "full"))}
            if rclone:
                figures["rclone_first"] = _summary(files.copied(servers, rclone, "there", files.RCLONE))
            for i in range(0, count, count // _CHANGED):
                files.put_small(store, i, _SMALL_BYTES, seed=count + i)
            figures["again"] = _summary(files.ours(servers, "incremental"))
            if rclone:
                figures["rclone_again"] = _summary(files.copied(servers, rclone, "there", files.RCLONE))
    _report(count, figures)


def _summary(measured: Measured) -> dict[str, Any]:
    return common.summary([measured])


def _report(count: int, figures: Mapping[str, Mapping[str, Any]]) -> None:
    titles = {"first": "first", "rclone_first": "rclone, first", "again": "ten changed", "rclone_again": "rclone again"}
    common.show(
        f"{count:,} files of {_SMALL_BYTES:,} bytes, then ten of them changed",
        ["", *(titles[name] for name in figures)],
        common.contender_rows(figures),
    )
    ratios = {"again_vs_first": common.ratio(figures["again"]["wall_s"], figures["first"]["wall_s"])}
    if "rclone_again" in figures:
        for part, name in (("first", "rclone_first"), ("again", "rclone_again")):
            for what in ("wall_s", "cpu_total_s"):
                ratios[f"{part}_{what.split('_')[0]}_vs_rclone"] = common.ratio(
                    figures[part][what], figures[name][what]
                )
    common.finish("many_files", {"files": count, **figures}, ratios)


if __name__ == "__main__":
    main()
