"""Putting a tenant's rows back: compare what was staged, decide, write only the differences, prove.

Everything happens in the restore's one transaction (transaction.py), where no foreign key is checked by the server: those of the
tenant are checked by queries of our own before the commit.

`decide` compares `want` with `have` (staging.py) and leaves two tables: `todo`, rows to insert, and `gone`, live rows to
delete. A row that differs is deleted and inserted: that works for identity columns and for values swapped between unique
rows. Both are done a bounded number of rows at a time, with rests in between (pace.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sbh_pipelines.database.merge.modes import RULES, Winner
from sbh_pipelines.database.merge.pace import Pace, batches
from sbh_pipelines.database.merge.staging import Staging
from sbh_pipelines.database.schema.tenancy import MappedTable
from sbh_pipelines.database.session.connection import translated
from sbh_pipelines.database.session.search_path import own_names
from sbh_pipelines.database.session.sql import free_name, from_only, ident, literal, sql_name
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines.model import MergeMode

_FEW_ROWS = 20_000  # are read back one by one


@dataclass(frozen=True, slots=True)
class TableChanges:
    """Rows to be written to one table: a changed row counts as updated only. `kept` ones differ and stay."""

    inserted: int
    updated: int
    deleted: int
    kept: int = 0

    @property
    def any(self) -> bool:
        return bool(self.inserted or self.updated or self.deleted)


class TableMerge:
    """The merge of one table: `decide`, then `delete` (children before parents), then `insert`, then `unproven`."""

    def __init__(self, staging: Staging, mode: MergeMode, newest: str | None, pace: Pace) -> None:
        self.staging, self.table, self._rules, self._newest = staging, staging.table, RULES[mode], newest
        self._pace = pace
        self.todo, self.gone = staging.want, staging.have
        self.changes = TableChanges(0, 0, 0)
        self.surplus, self.surplus_rows = "", 0  # of a table without a key: places of rows of nobody that go
        self.spared = 0  # rows that stay because others refer to them
        self.undecided = 0  # rows that differ, where nothing tells which of the two is the later one

    @property
    def _cursor(self) -> Any:
        return self.staging.connection.cursor()

    @property
    def todo_rows(self) -> int:
        return self.changes.inserted + self.changes.updated

    @property
    def few(self) -> bool:
        """Whether what is written is read back row by row."""
        return self.todo_rows < _FEW_ROWS

    # deciding

    def decide(self) -> TableChanges:
        """Compare both sides; nothing is written. Needs the staging to be finished."""
        with translated("compare rows", self.table.full_name):
            self.changes = self._decide_keyed() if self.staging.keyed else self._decide_keyless()
        return self.changes

    def _decide_keyed(self) -> TableChanges:
        s, cursor = self.staging, self._cursor
        missing, changed, later = s.wanted, 0, 0
        if s.wanted and s.had:
            # One comparison of all rows; the rows themselves are copied only where some are the same.
            cursor.execute(
                f"CREATE TEMP TABLE {self._verdict} ON COMMIT DROP AS"
                f" SELECT w.ctid AS wanted, h.ctid AS had, h.ctid IS NOT NULL AND ({self._later('w', 'h')}"
                f" OR h.nobodys AND {self._unlinked('w', 'h')}) AS later"
                f" FROM {s.want} w LEFT JOIN {s.have} h ON {s.same_key('w', 'h')}"
                f" WHERE h.ctid IS NULL OR NOT {s.same('w', 'h')}"
            )
            cursor.execute(
                "SELECT count(*) FILTER (WHERE had IS NULL), pg_catalog.count(had), count(*) FILTER (WHERE later)"
                f" FROM {self._verdict}"
            )
            missing, changed, later = cursor.fetchone()
        matched = s.wanted - missing
        if self._rules.exact:
            if matched > changed:  # else all that was staged differs, and is what is to be written
                self._make_as("todo", f"SELECT w.* FROM {s.want} w JOIN {self._verdict} v ON v.wanted = w.ctid")
                extra = (
                    f"NOT EXISTS (SELECT FROM {s.want} w WHERE {s.same_key('w', 'h')})" if s.had > matched else "false"
                )
                differs = f"EXISTS (SELECT FROM {self._verdict} v WHERE v.had = h.ctid)"
                self._make_as("gone", f"SELECT h.* FROM {s.have} h WHERE {differs} OR {extra}")
            return TableChanges(missing, changed, s.had - matched)
        chosen = "v.had IS NULL OR v.later" if later else "v.had IS NULL"
        if matched:
            rows = f"{s.want} w JOIN {self._verdict} v ON v.wanted = w.ctid"
            self._make_as("todo", f"SELECT w.* FROM {rows} WHERE {chosen}")
        replaced = f"EXISTS (SELECT FROM {self._verdict} v WHERE v.had = h.ctid AND v.later)" if later else "false"
        self._make_as("gone", f"SELECT h.* FROM {s.have} h WHERE {replaced}")
        if self._rules.by_time and self._newest is None:
            self.undecided = changed - later
        return TableChanges(missing, later, 0, changed - later)

    @property
    def _verdict(self) -> str:
        return f"pg_temp.sbh_verdict_{self.staging.number}"

    def _later(self, want: str, have: str) -> str:
        """The condition under which the backup's row takes the place of the live one."""
        if self._rules.winner is Winner.BACKUP:
            return "true"
        if self._rules.winner is Winner.LIVE or self._newest is None:
            return "false"
        column = self.staging.columns[self._newest]
        mine, theirs = f"{want}.{column}", f"{have}.{column}"
        return f"coalesce({mine} > {theirs}, {theirs} IS NULL AND {mine} IS NOT NULL)"

    def _unlinked(self, want: str, have: str) -> str:
        """The condition under which a row of nobody lacks what makes it the tenant's: the tenant has lost it, whatever the mode."""
        columns = [f for c in self.table.linking_columns if (f := self.staging.columns.get(c)) is not None]
        return f"({' OR '.join(f'{want}.{c} IS DISTINCT FROM {have}.{c}' for c in columns) or 'false'})"

    def _decide_keyless(self) -> TableChanges:
        # Without a key rows are a multiset: the nth of equal texts here matches the nth of equal texts there.
        s = self.staging
        want, have = self._numbered(s.want), self._numbered(s.have)
        same = "h.sbh_text = w.sbh_text AND h.sbh_n = w.sbh_n"
        listed = ", ".join(f"w.{c}" for c in s.columns.values())
        inserted = self._make_as(
            "todo", f"SELECT {listed} FROM {want} w WHERE NOT EXISTS (SELECT FROM {have} h WHERE {same})"
        )
        surplus = (
            f"SELECT h.sbh_text, count(*) AS excess FROM {have} h"
            f" LEFT JOIN {want} w ON {same} WHERE w.sbh_text IS NULL GROUP BY h.sbh_text"
        )
        if not self._rules.removes:
            surplus += " LIMIT 0"
        self._make_as("gone", surplus)
        cursor = self._cursor
        cursor.execute(f"SELECT coalesce(pg_catalog.sum(excess), 0)::bigint FROM {self.gone}")
        return TableChanges(inserted, 0, cursor.fetchone()[0])

    def _numbered(self, name: str) -> str:
        text = f"{self.staging.record('r')}::text"
        return f"(SELECT {text} AS sbh_text, pg_catalog.row_number() OVER (PARTITION BY {text}) AS sbh_n, r.* FROM {name} r)"

    def _make_as(self, name: str, query: str) -> int:
        table = f"pg_temp.sbh_{name}_{self.staging.number}"
        cursor = self._cursor
        cursor.execute(f"CREATE TEMP TABLE {table} ON COMMIT DROP AS {query}")
        rows: int = cursor.rowcount
        if name == "todo" or self.staging.keyed:
            self.staging.analyze(cursor, table)
        setattr(self, name, table)
        return rows

    def spare(self, condition: str) -> int:
        """Live rows `x` that satisfy the condition stay, of those that go for good; their number. For tables with a key."""
        s, cursor = self.staging, self._cursor
        if self.gone == s.have:
            self._make_as("gone", f"SELECT h.* FROM {s.have} h")
        comes = f"EXISTS (SELECT FROM {self.todo} y WHERE {s.same_key('y', 'x')})"
        cursor.execute(f"DELETE FROM {self.gone} x WHERE NOT {comes} AND {condition}")
        spared: int = cursor.rowcount
        changes = self.changes
        self.changes = replace(changes, deleted=changes.deleted - spared, kept=changes.kept + spared)
        self.spared += spared
        return spared

    def remove(self, rows: str, count: int) -> None:
        """Live rows of nobody that would be the tenant's are to go: see followers.py."""
        s = self.staging
        with translated("remove rows that came since", self.table.full_name):
            if s.keyed:
                listed = ", ".join(f"t.{ident(name)}" for name in s.columns)
                place = f"t.{place_columns(s.table)[1]}" if self.table.table.kind == "r" else "NULL::tid"
                columns = ", ".join(s.columns.values())
                for target in dict.fromkeys((s.have, self.gone)):
                    self._cursor.execute(
                        f"INSERT INTO {target} ({columns}, place, nobodys) SELECT {listed}, {place}, true FROM {rows} t"
                    )
                    s.analyze(self._cursor, target)
                s.adopted += count
                s.had += count
            else:
                self.surplus, self.surplus_rows = rows, count
        self.changes = replace(self.changes, deleted=self.changes.deleted + count)

    # writing

    def hold_adopted(self) -> None:
        """Lock the rows that were nobody's. Raises SourceConflict where one was changed since the restore's snapshot."""
        if self.staging.adopted and self.staging.keyed:
            with translated("hold rows of no tenant", self.table.full_name):
                self._cursor.execute(
                    f"SELECT count(*) FROM (SELECT FROM {from_only(self.table.table)} AS t JOIN {self.staging.adopted_rows} h"
                    f" ON {self.staging.key_of_live('t', 'h')} FOR UPDATE OF t) held"
                )

    def delete(self) -> None:
        """Delete the live rows that are not to stay as they are. Parents must still be there."""
        with translated("delete rows", self.table.full_name, writing=True):
            if not self.staging.keyed:
                if self.changes.deleted:
                    self._delete_keyless()
            elif self.changes.deleted or self.changes.updated:
                live, cursor = from_only(self.table.table), self._cursor
                found = "t.ctid = h.place" if self.staging.places else self.staging.key_of_live("t", "h")
                # One by one, whatever the planner thinks of it: a scan for each batch takes longer.
                cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
                deleted = 0
                for batch in batches(self.staging.connection, self.gone, self._pace):
                    cursor.execute(f"DELETE FROM {live} AS t USING {self.gone} AS h WHERE {found}{batch('h')}")
                    deleted += cursor.rowcount
                cursor.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
                self._all_deleted(deleted)

    def also_deleted(self, rows: int) -> None:
        """Rows went that nobody had decided on: found when everything was written."""
        self.changes = replace(self.changes, deleted=self.changes.deleted + rows)

    def _all_deleted(self, deleted: int) -> None:
        decided = self.changes.deleted + self.changes.updated
        if deleted != decided:
            raise ProofFailed(
                "Rows could not be deleted; rolled back",
                on=self.table.full_name,
                why=f"{decided} were to go, {deleted} went",
                remedy="look for ENABLE ALWAYS or REPLICA triggers on the table; nothing was changed",
            )

    def _delete_keyless(self) -> None:
        cursor = self._cursor
        place = f"t.tableoid AS part, t.ctid AS place, {self.staging.live_record('t')}::text AS sbh_text"
        rows = f"SELECT {place} FROM {self.table.source} WHERE {self.table.tenant_is([self.staging.tenant_key])}"
        if self.staging.adopted:
            rows += f" UNION ALL SELECT {place} FROM {self.table.own_source} WHERE {self.table.belongs_to_nobody}"
        cursor.execute(
            f"DELETE FROM {from_only(self.table.table)} AS d USING (SELECT m.*,"
            f" pg_catalog.row_number() OVER (PARTITION BY m.sbh_text) AS sbh_n FROM ({rows}) m) AS l, {self.gone} AS s"
            f" WHERE l.sbh_text = s.sbh_text AND l.sbh_n <= s.excess AND d.tableoid = l.part AND d.ctid = l.place"
        )
        deleted = cursor.rowcount
        if self.surplus:
            part, place = place_columns(self.table)
            cursor.execute(
                f"DELETE FROM {from_only(self.table.table)} AS t USING {self.surplus} s"
                f" WHERE t.tableoid = s.{part} AND t.ctid = s.{place}"
            )
            deleted += cursor.rowcount
        self._all_deleted(deleted)

    def insert(self, notice: Callable[[float], None]) -> None:
        """Insert what is to come back. Needs `delete`. `notice` is told the part that is done, 0 to 1."""
        if not (self.changes.inserted or self.changes.updated):
            return
        live = ", ".join(ident(c) for c in self.staging.columns)
        staged = ", ".join(f"w.{c}" for c in self.staging.columns.values())
        cursor, done = self._cursor, 0
        with translated("write rows", self.table.full_name, writing=True):
            for batch in batches(self.staging.connection, self.todo, self._pace):
                cursor.execute(
                    f"INSERT INTO {sql_name(self.table.table)} ({live}) OVERRIDING SYSTEM VALUE"
                    f" SELECT {staged} FROM {self.todo} w WHERE true{batch('w')}"
                )
                done += cursor.rowcount
                notice(done / self.todo_rows)
        self._raise_sequences()

    def _raise_sequences(self) -> None:
        """Move sequences behind identity and serial columns past what was inserted; they never go back.

        Values beyond a sequence's range are none that it gave.
        """
        with translated("adjust a sequence", self.table.full_name), own_names(self.staging.connection):
            for column in self.table.table.columns:
                if column.sequence and column.name in self.staging.columns and _counts(column.type):
                    sequence, staged = literal(column.sequence), self.staging.columns[column.name]
                    self._cursor.execute(
                        f"SELECT setval({sequence}, w.top) FROM pg_sequences s CROSS JOIN LATERAL ("
                        f"SELECT max({staged})::bigint AS top FROM {self.todo}"
                        f" WHERE {staged} BETWEEN s.min_value AND s.max_value) w"
                        f" WHERE (quote_ident(s.schemaname) || '.' || quote_ident(s.sequencename)) = {sequence}"
                        " AND s.increment_by > 0 AND w.top IS NOT NULL AND (s.last_value IS NULL OR w.top > s.last_value)"
                    )

    # proving

    def strangers(self) -> int:
        """Rows of `todo` that are not the tenant's where they are now. Of tables without a key, see `unproven`."""
        if not (self.todo_rows and self.staging.keyed):
            return 0
        mine = self.table.tenant_is([self.staging.tenant_key])
        with translated("look whose rows they are", self.table.full_name):
            cursor = self._cursor
            if not self.table.hops:
                own = f"(SELECT w.* FROM {self.todo} w WHERE {self.staging.is_own('w')})"
                cursor.execute(f"SELECT count(*) FROM {self.staging.named(own, 't')} WHERE NOT coalesce({mine}, false)")
            else:
                found = self.staging.key_of_live("t", "w")
                cursor.execute(
                    f"SELECT count(*) FROM {self.todo} w WHERE {self.staging.is_own('w')} AND NOT EXISTS"
                    f" (SELECT FROM {self.table.source} WHERE {found} AND {mine})"
                )
            rows: int = cursor.fetchone()[0]
        return rows

    def unproven(self) -> int:
        """Rows of `todo` that the live table does not have as they were staged."""
        if not self.changes.any:
            return 0
        s, cursor, live = self.staging, self._cursor, from_only(self.table.table)
        with translated("read back what was written", self.table.full_name):
            if not s.keyed:
                mine = (
                    f"(SELECT {s.record('w')}::text AS sbh_text, count(*) AS n FROM {self.todo} w"
                    f" WHERE {s.is_own('w')} GROUP BY 1)"
                )
                text = f"{s.live_record('t')}::text"
                theirs = (
                    f"(SELECT {text} AS sbh_text, count(*) AS n FROM {self.table.source}"
                    f" WHERE {self.table.tenant_is([s.tenant_key])} GROUP BY 1)"
                )
                cursor.execute(
                    f"SELECT count(*) FROM {mine} w LEFT JOIN {theirs} l ON l.sbh_text = w.sbh_text"
                    " WHERE coalesce(l.n, 0) < w.n"
                )
                lost: int = cursor.fetchone()[0]
                return lost
            same = s.same_records(s.record("w"), s.live_record("t"))
            if self.few:  # each by its key, whatever the planner thinks of it
                cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
            else:  # only rows that this transaction wrote can be meant
                live = f"(SELECT t.ctid, t.* FROM {live} t WHERE t.xmin = pg_catalog.pg_current_xact_id()::xid)"
            cursor.execute(
                f"SELECT count(*) FROM {self.todo} w LEFT JOIN {live} t ON {s.key_of_live('t', 'w')}"
                f" WHERE t.ctid IS NULL OR NOT {same}"  # a composite key of NULLs IS NULL, and yet a key
            )
            wrong: int = cursor.fetchone()[0]
            cursor.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
        return wrong


def place_columns(table: MappedTable) -> tuple[str, str]:
    """Names for a row's relation and place beside all columns of the table, none of which has such a name."""
    return free_name("sbh_part", table.captured_columns), free_name("sbh_place", table.captured_columns)


def _counts(kind: str) -> bool:
    return kind in ("smallint", "integer", "bigint") or kind.startswith("numeric")
