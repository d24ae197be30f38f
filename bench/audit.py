"""Measures the audit trail: what one append costs, alone and with others at once, and how fast a trail is verified.

Each on a directory with fsync and on SeaweedFS over HTTP. `cold` is the first append of a process, `warm` each further one;
`together` are 16 threads that append to one tenant at the same time.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import _common as common

from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.trail.check import check_trail
from sbh_pipelines.repository.trail.event import AuditKey, Chain, entry_of
from sbh_pipelines.repository.trail.trail import Trail
from sbh_pipelines.stores.local import open_local
from sbh_pipelines.stores.object_store import Store
from sbh_pipelines.stores.s3 import open_s3

_KEY = AuditKey.of(bytes(range(32)))
_BUCKET = "bench-audit"
_THREADS = 16
_PROPS = {"backup_id": "backup_20240115_1200", "type": "full", "size": 1048576, "region": "eu-west-1", "parent": None}


def main() -> None:
    args = common.arguments(__doc__, repeat=1, appends=300)
    appends = 40 if args.small else args.appends
    figures: dict[str, Any] = {"appends": appends}
    rows = []
    with common.running_stack(args.keep) as servers, common.buckets(servers, [_BUCKET]):
        keys = common.s3_access(servers)
        access = {
            "endpoint_url": servers.s3_endpoint,
            "access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
        }
        for place in ("directory", "seaweedfs"):
            with _store(place, access) as store:
                found = _measured(store, appends)
            figures |= {f"{place}_{name}": value for name, value in found.items()}
            rows.append([place, *(f"{value:,}" for value in found.values())])
    columns = ["store", "cold ms", "warm ms p50", "warm ms p99", "requests", "together/s", "links", "verified/s"]
    common.show("Audit trail", columns, rows)
    common.finish("audit", figures, {})


def _measured(store: Store, appends: int) -> dict[str, float]:
    chain = Chain("acme", "eu-west-1")
    entry = entry_of("backup.created", "ann", "backup", "api", _PROPS)

    def opened(chain: Chain = chain) -> Trail:
        return Trail(
            chain, store, f"{chain.tenant_id}/audit/", store, f"heads/{chain.tenant_id}.json", lambda: _KEY, utc_now
        )

    def append(to: Trail) -> float:
        begun = perf_counter()
        to.append(lambda _: [entry])
        return (perf_counter() - begun) * 1000

    append(opened())
    cold = median(append(opened()) for _ in range(10))
    trail = opened()
    append(trail)
    before = sum(store.requests.values())
    warm = sorted(append(trail) for _ in range(appends))
    requests = (sum(store.requests.values()) - before) / appends
    other = opened(Chain("bolt", "eu-west-1"))
    each = max(appends // _THREADS, 2)
    threads = [threading.Thread(target=lambda: [append(other) for _ in range(each)]) for _ in range(_THREADS)]
    begun = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = _THREADS * each / (perf_counter() - begun)
    begun = perf_counter()
    checked = check_trail(trail, lambda _: None)
    assert not checked.broken
    return {
        "cold_ms": round(cold, 2),
        "warm_p50_ms": round(median(warm), 2),
        "warm_p99_ms": round(warm[int(len(warm) * 0.99)], 2),
        "requests_per_append": round(requests, 2),
        "together_per_s": round(together),
        "together_links": other.last_link(),
        "verified_per_s": round(checked.events / (perf_counter() - begun)),
    }


@contextmanager
def _store(place: str, access: dict[str, str]) -> Iterator[Store]:
    if place == "seaweedfs":
        yield open_s3(_BUCKET, "eu-west-1", **access)  # type: ignore[arg-type]
        return
    with tempfile.TemporaryDirectory() as directory:
        yield open_local(Path(directory) / "bucket")


if __name__ == "__main__":
    main()
