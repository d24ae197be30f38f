"""What more tenants than one machine can hold would cost, by arithmetic and a small simulation from what `fleet_hour` measured.

Nothing is run: a shard's tick takes the start of a process, its share of what an unchanged tenant took, and of what a changed one
took. Shards are of unequal size, tenants change by the hour of the day; runs wait for a place among those that run at once. The
defaults are 100,000 tenants in 20 shards, each with a database of its own. Nothing here knows of a network, or of another store.
"""

import argparse
import heapq
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RESULT = Path(__file__).with_name("results") / "fleet_hour.json"
_SEED = 7
_DAYS = 7


@dataclass(frozen=True, slots=True)
class Cost:
    """What `fleet_hour` measured, taken apart.

    Attributes:
        start_s: Wall of a process's start.
        unchanged_s: Wall for each unchanged tenant.
        changed_s: Wall more for each changed one.
        cpu_unchanged_s: CPU of client, database and store for each unchanged tenant, starts included.
        cpu_changed_s: CPU more for each changed one.
        requests_unchanged: Requests to the store for each unchanged tenant.
        requests_changed: Requests more for each changed one.
    """

    start_s: float
    unchanged_s: float
    changed_s: float
    cpu_unchanged_s: float
    cpu_changed_s: float
    requests_unchanged: float
    requests_changed: float

    @classmethod
    def of(cls, result: dict[str, Any]) -> "Cost":
        figures, ratios = result["figures"], result["ratios"]
        none, some = figures["unchanged"], figures["changed"]
        tenants, changed = figures["tenants"], figures["changed_tenants"]
        return cls(
            start_s=none["start_up_seconds"],
            unchanged_s=max(none["wall_s"] - none["start_up_seconds"], 0.0) / tenants,
            changed_s=max(some["wall_s"] - none["wall_s"], 0.0) / changed,
            cpu_unchanged_s=ratios["cpu_ms_per_unchanged_tenant"] / 1000,
            cpu_changed_s=ratios["cpu_ms_per_changed_tenant"] / 1000,
            requests_unchanged=sum(none["requests"].values()) / tenants,
            requests_changed=ratios["requests_per_changed_tenant"],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=8, help="runs at once, as in deploy/dagster.yaml (default 8)")
    parser.add_argument("--changed", type=float, default=0.01, help="share that changes in an hour, on average (0.01)")
    args = parser.parse_args()
    cost = Cost.of(json.loads(_RESULT.read_text("utf-8")))
    random.seed(_SEED)
    sizes = _sizes(args.tenants, args.shards)
    hours = [_hour(cost, sizes, args.changed * _busy(hour % 24), args.at_once) for hour in range(24 * _DAYS)]
    ends = sorted(hour["end_s"] for hour in hours)
    figures = {
        "tenants": args.tenants,
        "shards": args.shards,
        "largest_shard": max(sizes),
        "runs_at_once": args.at_once,
        "tick_s_median": round(ends[len(ends) // 2], 1),
        "tick_s_longest": round(ends[-1], 1),
        "cpu_s_an_hour": round(sum(hour["cpu_s"] for hour in hours) / len(hours)),
        "cores": round(sum(hour["cpu_s"] for hour in hours) / len(hours) / 3600, 2),
        "requests_an_hour": round(sum(hour["requests"] for hour in hours) / len(hours)),
        "cores_within_the_busiest_tick": round(max(hour["cpu_s"] / hour["end_s"] for hour in hours), 1),
        "requests_a_second_within_the_busiest_tick": round(max(hour["requests"] / hour["end_s"] for hour in hours)),
    }
    for name, value in figures.items():
        print(f"{name:45} {value:>12,}")
    print(json.dumps({"bench": "scale", "figures": figures}))


def _sizes(tenants: int, shards: int) -> list[int]:
    """Tenants of each shard: the largest has some three times as many as the smallest."""
    weights = [math.exp(random.uniform(-0.55, 0.55)) for _ in range(shards)]
    return [round(tenants * weight / sum(weights)) for weight in weights]


def _busy(hour: int) -> float:
    """How many tenants change at an hour of the day, beside the average: few at night, twice as many at noon."""
    return 1.0 - 0.95 * math.cos(2 * math.pi * (hour - 1) / 24)


def _hour(cost: Cost, sizes: Sequence[int], share: float, at_once: int) -> dict[str, float]:
    """One tick of all shards: when the last run ended, the CPU and the requests of all."""
    free = [0.0] * at_once
    end = cpu = requests = 0.0
    for size in sizes:
        changed = min(size, max(0, round(random.gauss(size * share, math.sqrt(size * share)))))
        begins = heapq.heappop(free)
        ends = begins + cost.start_s + size * cost.unchanged_s + changed * cost.changed_s
        heapq.heappush(free, ends)
        end = max(end, ends)
        cpu += size * cost.cpu_unchanged_s + changed * cost.cpu_changed_s
        requests += size * cost.requests_unchanged + changed * cost.requests_changed
    return {"end_s": end, "cpu_s": cpu, "requests": requests}


if __name__ == "__main__":
    main()
