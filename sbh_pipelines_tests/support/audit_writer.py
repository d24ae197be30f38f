"""A process of its own that appends to a trail in a directory: `python -m …audit_writer DIRECTORY WHO COUNT`."""

import sys
from pathlib import Path

from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.trail.event import AuditKey, Chain, entry_of
from sbh_pipelines.repository.trail.trail import Trail
from sbh_pipelines.stores.local import open_local

KEY = AuditKey.of(bytes(range(32)))
ACME = Chain("acme", "eu-west-1")


def main(directory: str, who: str, count: str) -> None:
    store = open_local(Path(directory))
    head = f"_sbh-catalog/audit/heads/{ACME.tenant_id}.json"
    trail = Trail(ACME, store, f"files/{ACME.tenant_id}/backups/audit/", store, head, lambda: KEY, utc_now)
    for number in range(int(count)):
        one = entry_of("thing.done", "ann", "backup", "python", {"number": int(who) * 1000 + number})
        trail.append(lambda _, one=one: [one])  # type: ignore[misc]


if __name__ == "__main__":
    main(*sys.argv[1:])
