"""Two temporary tables for each table of a restore: `want`, rows of the backup, and `have`, live rows.

They need not hold all rows: rows that are known to be equal on both sides may be left out. Their columns are those of the
live table, named c1, c2, ... whatever the table's are called, so that no name of the application's can collide with one of
ours. Where the table's columns are not those of the backup any more, its rows come in as text first (`raw`) and go through
the mapping (`mapping.py`).
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any

from sbh_pipelines.database.capture.line_sums import LineSums, pieces_counted
from sbh_pipelines.database.merge.fit.mapping import TableMapping, stored_key, wanted_columns
from sbh_pipelines.database.schema.key_hash import KeyCode
from sbh_pipelines.database.session.connection import Connection, translated
from sbh_pipelines.database.session.copying import copy, copy_in
from sbh_pipelines.database.session.sql import copy_options, exchanged, from_only, ident, sql_name

_SPOOL = 8 << 20  # bytes of live rows kept in memory before they go to a temporary file
# Types whose equal values (of one text) are stored alike, and arrays of them.
_PLAIN = re.compile(
    r"(smallint|integer|bigint|numeric|real|double precision|boolean|text|character varying|character|\"char\"|bytea|uuid|date"
    r"|timestamp|time|interval|jsonb?|inet|cidr|macaddr8?|bit|bit varying|name|oid)"
    r"(\([0-9,]+\))?( with(out)? time zone)?(\[\])?"
)


class Spool:
    """Rows of live groups that the backup lacks, kept until the COPY that found them is over."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL)
        self.rows = 0

    def add(self, text: bytes, rows: int) -> None:
        self.file.write(text)
        self.rows += rows

    def close(self) -> None:
        self.file.close()


def _chosen_fields(text: bytes, at: Sequence[int]) -> bytes:
    """Some fields of each row of COPY text."""
    rows = (line.split(b"\t") for line in text.split(b"\n")[:-1])
    return b"".join([b"\t".join([fields[n] for n in at]) + b"\n" for fields in rows])


class Staging:
    """The temporary tables of one table. Fill `want` and `have`, then `finish`."""

    def __init__(
        self, connection: Connection, mapping: TableMapping, tenant_key: str, number: int, *, dry_run: bool
    ) -> None:
        """With `dry_run` nothing will be written, so defaults that are not given yet may not use up a sequence."""
        self._dry_run = dry_run
        self.connection, self.mapping, self.table, self.tenant_key = connection, mapping, mapping.table, tenant_key
        self.want, self.have = f"pg_temp.sbh_want_{number}", f"pg_temp.sbh_have_{number}"
        self.number = number
        self.encoding = exchanged(mapping.header.encoding, self.table.encoding)  # of the backup's rows
        self.columns = {c: f"c{nth}" for nth, c in enumerate(self.table.captured_columns, 1)}
        self.wanted = self.had = 0  # rows, once `finish` was called
        self.adopted = 0  # of `had`, rows that were nobody's: see adoption.py
        self.left = ""  # a temporary table of wanted rows that are to be nobody's: of an undo
        self.places = False  # whether `have` says where the live rows are
        types = {c.name: c.type for c in self.table.table.columns}
        # Of each stored column that comes back as it is: where it is in the backup's rows, and what it is called.
        self.unchanged = [(c.position, c.column.name) for c in mapping.columns if c.plain and c.position is not None]
        self.whole = mapping.same
        self.lines = (
            None if dry_run else LineSums(os.urandom(32))
        )  # of the backup's rows, as far as they come back as they are
        self._one_image = all(_PLAIN.fullmatch(types[name]) for name in self.columns)
        self._raw = f"pg_temp.sbh_raw_{number}" if not mapping.same else ""
        with translated("stage rows", self.table.full_name):
            cursor = connection.cursor()
            live = ", ".join(ident(c) for c in self.columns)
            for name in (self.want, self.have):
                cursor.execute(
                    f"CREATE TEMP TABLE {name} ({', '.join(self.columns.values())}) ON COMMIT DROP AS"
                    f" SELECT {live} FROM {sql_name(self.table.table)} WITH NO DATA"
                )
            cursor.execute(f"ALTER TABLE {self.have} ADD place tid, ADD nobodys boolean NOT NULL DEFAULT false")
            if self._raw:
                fields = ", ".join(f"c{nth} text" for nth in range(1, len(mapping.header.columns) + 1))
                cursor.execute(f"CREATE TEMP TABLE {self._raw} ({fields}) ON COMMIT DROP")

    def fill_want(self, pieces: Iterator[bytes]) -> None:
        """COPY text of rows as the backup holds them."""
        if self.lines is not None:
            pieces = self._counted(pieces, self.lines)
        with translated("stage rows", self.table.full_name, writing=True):
            copy_in(self.connection.cursor(), self._raw or self.want, pieces, self.encoding)

    def _counted(self, pieces: Iterator[bytes], lines: LineSums) -> Iterator[bytes]:
        if self.whole:
            return pieces_counted(pieces, lines)
        return pieces_counted(pieces, lines, partial(_chosen_fields, at=[position for position, _ in self.unchanged]))

    def fill_have(self, rows: Spool) -> None:
        """COPY text of live rows."""
        with translated("stage rows", self.table.full_name):
            rows.file.seek(0)
            staged = ", ".join(self.columns.values())
            into = f"{self.have} ({staged}) FROM STDIN{copy_options(self.table.encoding)}"
            copy(self.connection.cursor(), f"COPY {into}", rows.file)

    def fill_have_all(self) -> None:
        """All live rows of the tenant."""
        self._select_have("")

    def fill_have_buckets(self, code: KeyCode, mask: int, buckets: Sequence[int]) -> None:
        """The live rows of the tenant whose keys lie in these buckets."""
        if len(buckets) > mask:  # all of them
            self._select_have("")
        elif buckets:
            self._select_have(f" AND (({code.bucket}) & {mask}) = ANY('{{{','.join(map(str, buckets))}}}'::int[])")

    def fill_have_fresh(self, places: Sequence[str] | None, fresh: str) -> None:
        """The live rows that satisfy the condition `fresh`, and those that have the key of a wanted row: these one by one.

        `places` (ctid) is where the fresh ones are, where that is known. For ordinary tables that have the tenant in a column of
        their own. Needs `want` to be filled.
        """
        live, rows = self._live(), from_only(self.table.table)
        mine = self.table.tenant_is([self.tenant_key])
        found = fresh
        if places is not None:
            found = f"t.ctid = ANY('{{{','.join(chr(34) + place + chr(34) for place in places)}}}'::tid[])"
        with translated("stage rows", self.table.full_name):
            cursor = self.connection.cursor()
            self.analyze(cursor, self.want)
            if places != []:
                cursor.execute(f"INSERT INTO {self.have} SELECT {live} FROM {rows} t WHERE {found} AND {mine}")
            # The planner would rather scan the table, which takes longer for so few.
            cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
            cursor.execute(
                f"INSERT INTO {self.have} SELECT {live} FROM {self.want} w JOIN {rows} t ON {self.key_of_live('t', 'w')}"
                f" WHERE {mine} AND NOT ({fresh})"
            )
            cursor.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")

    def analyze(self, cursor: Any, name: str) -> None:
        """Tell the planner how large a temporary table is."""
        # The key's columns are what the planner needs; statistics of wide ones take long.
        key = [self.columns[c] for c in self.table.table.primary_key if c in self.columns] or list(
            self.columns.values()
        )
        cursor.execute(f"ANALYZE {name} ({', '.join(key)})" if key else f"ANALYZE {name}")

    def _select_have(self, condition: str) -> None:
        with translated("stage rows", self.table.full_name):
            self.connection.cursor().execute(
                f"INSERT INTO {self.have} SELECT {self._live()} FROM {self.table.source}"
                f" WHERE {self.table.tenant_is([self.tenant_key])}{condition}"
            )

    def _live(self) -> str:
        """The live columns, and where the row is: not in a partitioned table, whose partitions have places of their own."""
        place = "t.ctid" if self.table.table.kind == "r" else "NULL::tid"
        self.places = self.table.table.kind == "r"
        return ", ".join((*(f"t.{ident(c)}" for c in self.columns), place))

    def finish(self) -> None:
        """Map what came in as text, count, and let the planner know the sizes."""
        with translated("stage rows", self.table.full_name, writing=True):
            cursor = self.connection.cursor()
            if self._raw:
                values = ", ".join(wanted_columns(self.mapping, "s", "l", dry_run=self._dry_run))
                cursor.execute(
                    f"INSERT INTO {self.want} SELECT {values} FROM {self._raw} s"
                    f" LEFT JOIN {from_only(self.table.table)} l ON {self._same_key_raw()}"
                )
                cursor.execute(f"DROP TABLE {self._raw}")
                self._raw = ""
            for name in (self.want, self.have):
                self.analyze(cursor, name)
            cursor.execute(
                f"SELECT (SELECT count(*) FROM {self.want}), count(*), count(*) FILTER (WHERE nobodys) FROM {self.have}"
            )
            self.wanted, self.had, self.adopted = cursor.fetchone()

    def _same_key_raw(self) -> str:
        """The live row with the key of a raw one; nothing for tables without a key."""
        keys, operators = self.table.table.primary_key, self.table.table.key_operators
        triples = zip(keys, operators, stored_key(self.mapping, "s"), strict=True)
        return " AND ".join(f"l.{ident(key)} {equals} ({mine})" for key, equals, mine in triples) or "false"

    # pieces of SQL over the staged rows

    def is_own(self, alias: str) -> str:
        """The condition that a wanted row, staged under this alias, is to be the tenant's: all are, but for an undo."""
        if not self.left:
            return "true"
        same = self.same_key("sbh_left", alias) if self.keyed else ""
        same = same or f"{self.record('sbh_left')}::text = {self.record(alias)}::text"
        return f"NOT EXISTS (SELECT FROM {self.left} sbh_left WHERE {same})"

    @property
    def adopted_rows(self) -> str:
        """A FROM item of the live rows that were nobody's."""
        return f"(SELECT * FROM {self.have} WHERE nobodys)"

    @property
    def keyed(self) -> bool:
        return bool(self.table.table.primary_key) and all(k in self.columns for k in self.table.table.primary_key)

    def same_key(self, one: str, other: str) -> str:
        """Two staged rows have one key."""
        pairs = zip(self.table.table.primary_key, self.table.table.key_operators, strict=True)
        return " AND ".join(f"{one}.{self.columns[k]} {equals} {other}.{self.columns[k]}" for k, equals in pairs)

    def key_of_live(self, live: str, staged: str) -> str:
        """A live row has the key of a staged one."""
        pairs = zip(self.table.table.primary_key, self.table.table.key_operators, strict=True)
        return " AND ".join(f"{live}.{ident(k)} {equals} {staged}.{self.columns[k]}" for k, equals in pairs)

    def record(self, alias: str) -> str:
        return f"ROW({', '.join(f'{alias}.{c}' for c in self.columns.values())})"

    def same(self, one: str, other: str) -> str:
        """Two staged rows are the same."""
        return self.same_records(self.record(one), self.record(other))

    def same_records(self, one: str, other: str) -> str:
        """Two records are the same to the last bit, or at least have the same text: equality a type may lack, and 1.0 = 1.00.

        Comparing images is much faster, and all there is to do where equal values have one image; those of equal composite
        values may differ. The cast keeps the parser from comparing two rows column by column.
        """
        images = f"{one}::record OPERATOR(pg_catalog.*=) {other}::record"
        return f"({images})" if self._one_image else f"({images} OR {one}::text = {other}::text)"

    def live_record(self, alias: str) -> str:
        return f"ROW({', '.join(f'{alias}.{ident(c)}' for c in self.columns)})"

    def placed(self, rows: str, alias: str) -> str:
        """`named` of a temporary table, with the place of each row in it as `ctid`, a name that no column has."""
        columns = "".join(f", x.{staged} AS {ident(name)}" for name, staged in self.columns.items())
        return f"(SELECT x.ctid AS ctid{columns} FROM {rows} x) AS {alias}"

    def named(self, rows: str, alias: str) -> str:
        """A FROM item that gives staged rows under the names of the table's columns."""
        columns = ", ".join(f"x.{staged} AS {ident(name)}" for name, staged in self.columns.items())
        return f"(SELECT {columns} FROM {rows} x) AS {alias}"
