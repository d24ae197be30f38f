"""Whether this site is the only one of its name on the Dagster instance.

Two code locations of one name, such as two sites that have none, would remove each other's partitions, take each other's runs
for their own, and end each other's alerts. As a process, for `sbh doctor`: prints what it finds as one JSON document.
"""

import json
import sys
import time

import dagster as dg

from sbh_pipelines.errors import SiteNotAlone
from sbh_pipelines.orchestration.common.dagster_internals import sensor_locations
from sbh_pipelines.orchestration.common.names import named, site

SYNC = "tenants_sync"
EVERY_S = 60
"""How often the sensor that keeps the partitions is evaluated; it is also what tells that a code location is at work."""

_ALIVE_S = 3 * EVERY_S


def not_alone(instance: dg.DagsterInstance, now: float | None = None) -> SiteNotAlone | None:
    """The error that says which code locations have this site's name; None where one has it, or none is at work."""
    moment = time.time() if now is None else now
    ticked = sensor_locations(instance, named(SYNC))
    alive = sorted(location for location, at in ticked.items() if moment - at < _ALIVE_S)
    if len(alive) < 2:
        return None
    return SiteNotAlone(
        "Several code locations are one site",
        on=", ".join(alive),
        why=f"each has site.name = {site().name!r}: they would keep one set of partitions, and end each other's alerts",
        remedy="give each settings file a site.name of its own, and reload the code locations; or stop those that are too many",
    )


def main() -> int:
    with dg.DagsterInstance.get() as instance:
        error = not_alone(instance)
    print(json.dumps({"error": error.as_dict() if error else None}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
