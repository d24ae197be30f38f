"""The replication slot: from where on the server keeps its log for us, and how much that is. Plain SQL only.

A slot holds the log back, and the log fills the server's disk: whoever makes one has to look at `SlotState` and drop it in time.
The server writes a slot's position to disk at checkpoints, so after a crash a slot may be further back than it was advanced to.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg2

from sbh_pipelines.database.journal.lsn import as_lsn, as_number, lsn_text
from sbh_pipelines.database.session.connection import Connection, translate, translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import literal
from sbh_pipelines.errors import SlotTrouble, SourceConflict

PLUGIN = "pgoutput"
_FAILOVER = 170000  # from here on a slot can be kept in step on standbys


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as it is now. Positions are numbers.

    Attributes:
        name: Its name.
        plugin: The output plugin it was made for.
        database: The database it is of.
        restart_lsn: From where on the server keeps its log; 0 where nothing is left of it.
        confirmed_flush: Transactions whose commit record begins before it are not given again.
        wal_status: `reserved`, `extended`, `unreserved` (about to be lost) or `lost`.
        safe_wal_size: Bytes that may still be written before it is lost; None where the server has no limit.
        invalidation_reason: Why the server gave it up; None while it has not.
        active: Whether a session uses it now.
        active_pid: That session.
        catalog_xmin_age: How many transactions ago the oldest began whose catalogue rows cannot be vacuumed because of it.
        held_bytes: Of the server's log, because of it.
        failover: Whether standbys keep it in step (from PostgreSQL 17 on).
    """

    name: str
    plugin: str
    database: str
    restart_lsn: int
    confirmed_flush: int
    wal_status: str
    safe_wal_size: int | None
    invalidation_reason: str | None
    active: bool
    active_pid: int | None
    catalog_xmin_age: int
    held_bytes: int
    failover: bool

    @property
    def lost(self) -> bool:
        """Whether nothing can be read from it any more."""
        return self.wal_status == "lost" or self.invalidation_reason is not None or not self.restart_lsn


@dataclass(frozen=True, slots=True)
class SlotSpill:
    """What decoding for the slot cost the server since it began to count.

    Attributes:
        spilled_transactions: Those that were larger than logical_decoding_work_mem.
        spilled_bytes: What was written to its disk for them.
        transactions: All that were decoded; those looked at twice count twice.
        bytes: What they were in memory.
    """

    spilled_transactions: int
    spilled_bytes: int
    transactions: int
    bytes: int


_STATE = f"""
SELECT s.slot_name::text, coalesce(s.plugin::text, ''), coalesce(s.database::text, ''),
       coalesce({as_number("s.restart_lsn")}, 0), coalesce({as_number("s.confirmed_flush_lsn")}, 0),
       coalesce(s.wal_status, 'lost'), s.safe_wal_size::int8, to_jsonb(s) ->> 'invalidation_reason', s.active, s.active_pid,
       coalesce(age(s.catalog_xmin), 0)::int8,
       coalesce({as_number("CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END")}
                - {as_number("s.restart_lsn")}, 0),
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false)
FROM pg_replication_slots s WHERE s.slot_name = %s"""

_SPILL = """
SELECT spill_txns::int8, spill_bytes::int8, total_txns::int8, total_bytes::int8
FROM pg_stat_replication_slots WHERE slot_name = %s"""


def read_slot(connection: Connection, name: str) -> SlotState | None:
    """The slot; None where there is none of that name."""
    with translated("read the replication slot", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_STATE, (name,))
        found = cursor.fetchone()
    return SlotState(*found) if found else None


def read_left_slot(connection: Connection, name: str) -> SlotState | None:
    """The slot of that name, if it is ours by its plugin and of this database: another's is none of ours to give up."""
    with translated("read the replication slot", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(f"{_STATE} AND s.plugin = %s AND s.database = current_database()", (name, PLUGIN))
        found = cursor.fetchone()
    return SlotState(*found) if found else None


def read_spill(connection: Connection, name: str) -> SlotSpill | None:
    """What decoding cost; None where the server has not counted yet."""
    with translated("read the replication slot's statistics", name), own_names(connection):
        cursor = connection.cursor()
        cursor.execute(_SPILL, (name,))
        found = cursor.fetchone()
    return SlotSpill(*found) if found else None


def create_slot(
    connection: Connection,
    name: str,
    *,
    failover: bool = False,
    wait_s: float = 10.0,
    attempts: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Make the slot; the position from which on it gives transactions. The connection is in autocommit.

    The publication has to be there before. The server looks it up as it was when a change was made: a change from before fails
    every read of the slot up to PostgreSQL 17, and is left out without a word from 18 on.
    It waits for every transaction of the server that writes and was begun before: each attempt `wait_s` for any one of them.
    `failover`: standbys keep it in step, where the server can do that. Raises SourceConflict when transactions went on longer.
    """
    made = f"pg_catalog.pg_create_logical_replication_slot({literal(name)}, {literal(PLUGIN)}, false"
    if failover and connection.server_version >= _FAILOVER:
        made += ", false, true"
    for attempt in range(1, attempts + 1):
        try:
            with slot_errors("make the replication slot", name):
                cursor = connection.cursor()
                # One message is one transaction, and the limit is gone after it.
                cursor.execute(
                    f"SELECT pg_catalog.set_config('lock_timeout', {literal(str(int(wait_s * 1000)))}, true);"
                    f"SELECT {as_number('lsn')} FROM {made})"
                )
                return int(cursor.fetchone()[0])
        except SourceConflict as conflict:
            if attempt == attempts:
                raise SourceConflict(
                    conflict.what,
                    on=name,
                    why="a transaction of the server goes on since before: a slot begins when all those have ended",
                    remedy="end the oldest transactions (pg_stat_activity, pg_prepared_xacts), then try again",
                ) from None
            sleep(attempt)
    raise AssertionError("every attempt returns or raises")


def advance_slot(connection: Connection, name: str, position: int) -> None:
    """Let the server forget what was committed before a position: one between records, see `stream`.

    Nothing where it is there already. Raises SlotTrouble.
    """
    state = read_slot(connection, name)
    if state is not None and state.confirmed_flush >= position:
        return
    with slot_errors("advance the replication slot", name):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {as_number('end_lsn')} FROM pg_catalog.pg_replication_slot_advance({literal(name)}, {as_lsn(position)})"
        )
        reached = int(cursor.fetchone()[0])
    if reached < position:
        raise SlotTrouble(
            "The replication slot was not advanced as far as asked for",
            on=name,
            why=f"it is at {lsn_text(reached)}, not at {lsn_text(position)}",
            remedy="try again",
        )


def drop_slot(connection: Connection, name: str) -> bool:
    """Remove the slot, and let go of the log; whether there was one. Raises SourceConflict while a session uses it."""
    if read_slot(connection, name) is None:
        return False
    with slot_errors("drop the replication slot", name):
        connection.cursor().execute(f"SELECT pg_catalog.pg_drop_replication_slot({literal(name)})")
    return True


# Undefined object; not in the state for it: lost, another plugin's, another database's, or the server does not decode.
_TROUBLE = ("42704", "55000")
_REMEDIES = {
    "wal_level": "set wal_level = logical on the server, and restart it",
    "all replication slots are in use": "raise max_replication_slots on the server, and restart it; or drop a slot"
    " that nobody reads (pg_replication_slots)",
    "not created in this database": "name another one under [journal]: slot",
}
_REMEDY = "`sbh journal status` shows the slot; the next drain makes a new one, and records the gap"


@contextmanager
def slot_errors(what: str, name: str) -> Iterator[None]:
    """The driver's errors in ours, with those that are the slot's own as SlotTrouble."""
    try:
        yield
    except psycopg2.Error as error:
        made = translate(error, what, name)
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in made.why), "")
        if remedy or error.pgcode in _TROUBLE:
            raise SlotTrouble(made.what, on=name, why=made.why, remedy=remedy or _REMEDY) from None
        raise made from None
