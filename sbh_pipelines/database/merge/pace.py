"""How a restore leaves the server to the others: it writes rows in batches, and rests between them.

A batch is cut so that it takes about a tenth of a second, and the rest after it is a multiple of what it took. So nothing has to be
known of the server: where it is busy a batch takes longer, and the rest with it. The two ideas are those of programs that copy
tables beside an application's work: `--chunk-time` of pt-online-schema-change, `--nice-ratio` of gh-ost.

While it rests, what the transaction has locked stays locked: the tenant's rows that it deleted, the tenant's own row, and what
else refers to them and was changed with them, where `references` had it so.
"""

import time
from collections.abc import Callable, Iterator

from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.settings import RestoreSettings

_BATCH_S = 0.1
_FIRST_ROWS = 5_000  # of each table: how long they take is not known yet
_LEAST_ROWS = 2_000  # what a statement takes before its first row does not get less with the rows
_LONGEST_REST_S = 5.0  # after a batch that stalled, or had wide rows
_UNPACED_S = 1.0  # a restore that writes for no longer is over before anybody would notice


class Pace:
    """Of one restore: how many rows are written at once, and how long the next batch has to wait."""

    def __init__(self, settings: RestoreSettings) -> None:
        self._settings, self._paced = settings, settings.pace > 0
        self.rows: float = min(settings.batch_rows, _FIRST_ROWS) if self._paced else settings.batch_rows
        self._worked = self._owed = 0.0

    def rest(self) -> None:
        """Before a batch: what the one before it has left to rest."""
        owed, self._owed = self._owed, 0.0
        if owed:
            time.sleep(owed)

    def worked(self, seconds: float, *, full: bool) -> None:
        """After a batch; `full`: of as many rows as were wanted."""
        self._worked += seconds
        paced = self._settings.pace * seconds if self._worked > _UNPACED_S else 0.0
        self._owed = max(min(paced, _LONGEST_REST_S), self._settings.pause_ms / 1000)
        if full and self._paced:
            wanted = max(self.rows * min(2.0, _BATCH_S / max(seconds, 1e-3)), _LEAST_ROWS)
            self.rows = min(wanted, self._settings.batch_rows)

    def begin_table(self) -> None:
        """Rows of another table take another time."""
        if self._paced:
            self.rows = min(self.rows, _FIRST_ROWS)


def rest_of(settings: RestoreSettings, writing: float) -> float:
    """How long a restore rests that writes for so long, s."""
    return settings.pace * max(0.0, writing - _UNPACED_S)


def batches(connection: Connection, rows: str, pace: Pace) -> Iterator[Callable[[str], str]]:
    """Conditions that cut a temporary table into pieces: ranges of its pages.

    Rests before it gives one, and takes the time until the next is asked for as what it took.
    """
    with translated("cut rows into batches"), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(
            "SELECT c.relpages, c.reltuples::bigint, (pg_relation_size(c.oid) / current_setting('block_size')::int)::int"
            " FROM pg_class c WHERE c.oid = %s::regclass",
            (rows,),
        )
        analyzed, counted, pages = cursor.fetchone()
    pace.begin_table()
    per_page = max(1.0, counted / max(analyzed, 1))
    first = 0
    while first < max(pages, 1):
        end = first + max(1, int(pace.rows / per_page))
        pace.rest()
        begun = time.monotonic()
        yield _pages(first, end) if first or end < pages else _everything
        pace.worked(time.monotonic() - begun, full=end <= pages)
        first = end


def _everything(_: str) -> str:
    return ""


def _pages(first: int, end: int) -> Callable[[str], str]:
    return lambda alias: f" AND {alias}.ctid >= '({first},0)'::tid AND {alias}.ctid < '({end},0)'::tid"
