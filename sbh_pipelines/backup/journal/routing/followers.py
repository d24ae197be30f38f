"""How many rows refer to a key, asked of the server with a bound: the application comes first.

By an index that is quick. Without one a large table is looked through for each question, so few seconds are spent on that in a
drain; what is not known then is believed to be so.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from sbh_pipelines.backup.journal.routing.routes import Index, Key, Plan, Route

CountRows = Callable[[Route, Index, Sequence[Key], float], Mapping[Key, int] | None]
"""(table, index that its link is looked up in, keys of that, seconds): of each key, how many rows refer to it. None: no answer."""

QUICK_S = 60.0
SLOW_S = 5.0  # all that is spent on a table without an index in one drain


class Followers:
    """Of one snapshot. Not thread-safe."""

    def __init__(self, plan: Plan, count: CountRows, *, quick_only: bool = False) -> None:
        """`quick_only`: tables that would have to be looked through are not asked for, and not counted."""
        self._count = count
        self._of = [
            [route for route in plan.routes if route.leads_to == index.number and (route.quick or not quick_only)]
            for index in plan.indexes
        ]
        self._left = {route.number: QUICK_S if route.quick else SLOW_S for route in plan.routes}

    def tables(self, index: int) -> list[Route]:
        """Those that are counted."""
        return self._of[index]

    def count(self, index: Index, keys: Sequence[Key]) -> Mapping[Key, int] | None:
        """How many rows of them refer to each of the keys; of those that some do. None: that could not be found out in time."""
        found: dict[Key, int] = {}
        for route in self._of[index.number] if keys else ():
            left = self._left[route.number]
            began = time.monotonic()
            counted = self._count(route, index, keys, left) if left > 0 else None
            if counted is None:
                self._left[route.number] = 0
                return None
            self._left[route.number] = left - (time.monotonic() - began)
            for key, number in counted.items():
                found[key] = found.get(key, 0) + number
        return found
