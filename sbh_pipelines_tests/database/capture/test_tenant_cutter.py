"""Many tenants' rows in one COPY: groups are those of a COPY for each tenant, and sums are the server's, byte for byte."""

import base64
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines import spill as spill_module
from sbh_pipelines.database.capture import capture, key_sums, row_groups
from sbh_pipelines.database.capture.capture import copy_table, copy_tenants
from sbh_pipelines.database.capture.changes import Window, all_rows, totals
from sbh_pipelines.database.capture.deleted_rows import sums
from sbh_pipelines.database.capture.key_sums import KeySums
from sbh_pipelines.database.capture.tenant_cutter import TenantCutter
from sbh_pipelines.database.schema.key_hash import bucket_bits, key_code
from sbh_pipelines.database.session.connection import connect, savepoint
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import NoRoom
from sbh_pipelines.repository import chunking
from sbh_pipelines.repository.chunking import ChunkSizes
from sbh_pipelines.spill import Spill
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.full_disk import full_disk
from sbh_pipelines_tests.support.mapped import INTEGERS, Mapped, mapped_database

SMALL = ChunkSizes(64, 256, 1024)
KEYS = tuple("123456")
SEEDS = dict(zip(KEYS, (0, 7, -(2**63), 2**63 - 1, -1, 99), strict=True))
SCHEMA = """
INSERT INTO tenants SELECT n, 't' || n, 'r', 't' FROM generate_series(3, 6) n;
CREATE TABLE numbered (tenant_id int REFERENCES tenants, id bigint PRIMARY KEY, body text, note text);
CREATE TABLE named (tenant_id int REFERENCES tenants, id text PRIMARY KEY, body text, note text);
CREATE TABLE marked (tenant_id int REFERENCES tenants, id uuid PRIMARY KEY, body text, note text);
CREATE TABLE theirs (tenant_id int REFERENCES tenants, id bigint, body text, note text, PRIMARY KEY (tenant_id, id));
CREATE TABLE paired (sbh_code text, id bigint, tenant_id int REFERENCES tenants, body text, note text, PRIMARY KEY (id, sbh_code));
CREATE TABLE loose (tenant_id int REFERENCES tenants, id bigint, body text, note text);
CREATE TABLE child (id bigint PRIMARY KEY REFERENCES numbered, body text, note text);
"""
KINDS = {
    "numbered": "tenant, id - 500",
    "named": "tenant, CASE id % 3 WHEN 0 THEN 'Ä' WHEN 1 THEN 'b' ELSE 'B' END || E'\\\\\\n' || id",
    "marked": "tenant, md5(id::text)::uuid",
    "theirs": "tenant, id - 500",
    "paired": "E'\\t' || id % 7, id / 2, tenant",
    "loose": "tenant, id % 2",
    "child": "id - 500",
}
TEXTS = st.one_of(
    st.none(),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30),
    st.sampled_from(
        ["", "\\", "\\.", "\\N", "\n", "\r\n", "\t\t", "\b\f\v", "ж" * 700, "long\\" * 2000, "\N{GRINNING FACE}"]
    ),
)


@dataclass
class Kept:
    """A sink that keeps its groups."""

    groups: list[tuple[bytes, int]]
    closed: int = 0

    def group(self, text: bytes | memoryview, rows: int) -> None:
        assert not self.closed
        self.groups.append((bytes(text), rows))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "ROW_GROUPS", SMALL)
        patch.setattr(key_sums, "_HELD", 200)
        yield


@pytest.fixture(scope="module")
def mapped(embedded_stack: Stack) -> Iterator[Mapped]:
    with fresh_database(embedded_stack) as database:
        yield mapped_database(database, SCHEMA, INTEGERS, None)


@settings(max_examples=examples(60))
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.sampled_from([1, 1, 1, 1, 2, 3, 5, None]), TEXTS, TEXTS), max_size=60),
    st.sampled_from([0, 3000, 1 << 20]),
    st.sampled_from([1, 300, 5000]),
    st.sampled_from([KEYS, KEYS[:1], KEYS[::-1]]),
)
def test_a_batch_gives_what_a_copy_of_each_tenant_gives(
    mapped: Mapped,
    name: str,
    rows: list[tuple[int | None, str | None, str | None]],
    held_bytes: int,
    block: int,
    keys: tuple[str, ...],
) -> None:
    """Groups, and so chunk ids; counts, hashes of all keys, and the sums of each bucket as the server has them."""
    mapped.database.run("TRUNCATE numbered, named, marked, theirs, paired, loose, child")
    rows = [row for row in rows if row[0] is not None or name not in ("theirs",)]
    with closing(mapped.database.connect()) as connection:
        cursor = connection.cursor()
        values = [(nth, tenant, body, note) for nth, (tenant, body, note) in enumerate(rows)]
        cursor.execute("CREATE TEMPORARY TABLE given (id bigint, tenant int, body text, note text)")
        cursor.executemany("INSERT INTO given VALUES (%s, %s, %s, %s)", values)
        if name == "child":
            cursor.execute("INSERT INTO numbered SELECT tenant, id - 500 FROM given")
        cursor.execute(f"INSERT INTO {name} SELECT {KINDS[name]}, body, note FROM given ORDER BY md5(id::text)")
    table = mapped.table(name)
    code = key_code(table)
    seeds = {key: SEEDS[key] for key in keys}
    with closing(connect(mapped.settings.database, "test")) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_TAKEN_APART", block)
        connection.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        sinks = {key: Kept([]) for key in keys}
        found = copy_tenants(connection, table, code, all_rows(table, seeds), sinks, held_bytes)
        expected = totals(connection, table, code, {key: Window(None, seed) for key, seed in seeds.items()})
        bits = {key: bucket_bits(expected[key].rows) if code.keyed else 0 for key in keys}
        bucketed = sums(connection, table, code, {key: Window(None, SEEDS[key], bits[key]) for key in keys})[0]
        for key in keys:
            alone = Kept([])
            copy_table(connection, table, key, alone)
            assert (sinks[key].groups, sinks[key].closed) == (alone.groups, 1)
            assert (found[key].sums.rows, found[key].key_hash) == (expected[key].rows, expected[key].key_hash)
            assert found[key].sums.bits == bits[key]
            assert found[key].sums.counts == bucketed[key].counts
            if code.keyed:
                assert found[key].sums.hashes == bucketed[key].hashes


def test_sums_of_many_buckets_are_the_servers(mapped: Mapped) -> None:
    mapped.database.run("TRUNCATE numbered CASCADE")
    mapped.database.run("INSERT INTO numbered SELECT 1 + n % 3, n * 7 FROM generate_series(1, 9000) n")
    table = mapped.table("numbered")
    code = key_code(table)
    with closing(connect(mapped.settings.database, "test")) as connection:
        found = copy_tenants(connection, table, code, all_rows(table, SEEDS), {key: Kept([]) for key in KEYS}, 1 << 20)
        bits = {key: one.sums.bits for key, one in found.items()}
        assert bits == {"1": 6, "2": 6, "3": 6, "4": 0, "5": 0, "6": 0}
        connection.cursor().execute("BEGIN")
        expected = sums(connection, table, code, {key: Window(None, SEEDS[key], bits[key]) for key in KEYS})[0]
        assert {key: one.sums for key, one in found.items()} == expected


def _line(tenant: int, row: bytes) -> bytes:
    code = base64.b64encode(random.Random(row).randbytes(8) + ((tenant << 20) | len(row) % 1000).to_bytes(4))
    return code + b"\t" + row + b"\n"


@pytest.mark.parametrize("tenants", [1, 10, 2000])
def test_what_is_open_stays_within_its_bound(tenants: int) -> None:
    """However many tenants there are, and where one has nine rows of ten; nothing can be read in the file."""
    noise = random.Random(tenants)
    rows: dict[int, list[bytes]] = defaultdict(list)
    sinks = [Kept([]) for _ in range(tenants)]
    most, block = 40_000, 8_000
    with Spill() as spill:
        counted = KeySums(tenants, True, spill)
        cutter = TenantCutter(sinks, counted, spill, most)
        lines: list[bytes] = []
        for _ in range(8000):
            tenant = 0 if noise.random() < 0.9 else noise.randrange(tenants)
            row = noise.randbytes(noise.randrange(60)).hex().encode()
            rows[tenant].append(row)
            lines.append(_line(tenant, row))
        text = b"".join(lines)
        for at in range(0, len(text), block):
            cutter.write(text[at : at + block])
            assert cutter._held <= most
            assert sum(len(piece) for one in cutter._open for piece in one.pieces) == cutter._held
        cutter.finish()
        assert bool(spill.bytes) == (tenants > 1) or spill.bytes < len(text) // 2
        if spill._file is not None:
            spill._file.seek(0)
            assert b"\n" + rows[0][0][:20] not in spill._file.read()
        found = counted.finish()
    for tenant, sink in enumerate(sinks):
        whole = b"".join(row + b"\n" for row in rows[tenant])
        assert b"".join(group for group, _ in sink.groups) == whole
        assert [n for _, n in sink.groups] == [group.count(b"\n") for group, _ in sink.groups]
        assert found[tenant].sums.rows == len(rows[tenant])


def test_no_pandas_is_imported_to_take_rows_apart() -> None:
    """It takes half a second and 50 MiB: Arrow imports it to look at what is not its own."""
    text = _line(0, b"a") + _line(1, b"b") + _line(0, b"c")
    code = f"""if True:
        import sys
        from sbh_pipelines.database.capture.key_sums import KeySums
        from sbh_pipelines.spill import Spill
        from sbh_pipelines.database.capture.tenant_cutter import TenantCutter

        class Sink:
            def group(self, text, rows):
                print(rows, bytes(text))

            def close(self):
                pass

        with Spill() as spill:
            cutter = TenantCutter([Sink(), Sink()], KeySums(2, True, spill), spill, 0)
            cutter.write({text!r})
            cutter.finish()
        print("pandas" in sys.modules)"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert told.splitlines() == [r"2 b'a\nc\n'", r"1 b'b\n'", "False"]


@pytest.mark.parametrize("written", [100, 2000, 1 << 20])
def test_pieces_come_back_in_any_order(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """Those that are in the file, those that wait to be, and those that are larger than what waits."""
    monkeypatch.setattr(spill_module, "_WRITTEN", written)
    noise = random.Random(1)
    pieces = [noise.randbytes(noise.randrange(3000)) for _ in range(50)]
    with Spill() as spill:
        put = list(enumerate(map(spill.put, pieces)))
        noise.shuffle(put)
        assert all(spill.take(piece) == pieces[nth] for nth, piece in put)


def test_room_that_nobody_needs_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much goes through the file, it is not much larger than what is in it."""
    monkeypatch.setattr(spill_module, "_SLACK", 10_000)
    noise = random.Random(2)
    kept: dict[int, bytes] = {}
    with Spill() as spill:
        for _ in range(400):
            piece = noise.randbytes(noise.randrange(1, 3000))
            kept[spill.put(piece)] = piece
            if len(kept) > 10:
                number = noise.choice(list(kept))
                assert spill.take(number) == kept.pop(number)
            assert spill.bytes <= 2 * sum(len(piece) + 16 for piece in kept.values()) + 10_000 + 2 * 3016
        assert all(spill.take(number) == piece for number, piece in kept.items())


def test_a_stream_that_was_cut_off_is_no_table() -> None:
    """Rows that the server says it sent and that did not come, and a row without an end."""
    with Spill() as spill:
        sums = KeySums(1, True, spill)
        cutter = TenantCutter([Kept([])], sums, spill, 1000)
        cutter.write(_line(0, b"a") + _line(0, b"b")[:-1])
        with pytest.raises(ValueError, match="within a row"):
            cutter.finish()
        with pytest.raises(ValueError, match="sent 2 rows, and 1 came"):
            sums.check(2)


def test_a_full_disk_ends_the_copy_and_leaves_the_session_whole(
    mapped: Mapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped.database.run("TRUNCATE numbered CASCADE")
    mapped.database.run("INSERT INTO numbered SELECT 1, n, repeat('x', 9000) FROM generate_series(1, 200) n")
    table = mapped.table("numbered")
    monkeypatch.setattr(row_groups, "ROW_GROUPS", chunking.ROW_GROUPS)
    monkeypatch.setattr(capture, "_TAKEN_APART", 200_000)
    sinks = {key: Kept([]) for key in KEYS}
    with closing(connect(mapped.settings.database, "test")) as connection:
        connection.cursor().execute("BEGIN")
        with pytest.raises(NoRoom), savepoint(connection), full_disk():
            copy_tenants(connection, table, key_code(table), all_rows(table, SEEDS), sinks, 0)
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM numbered")
        assert cursor.fetchone() == (200,)


def test_a_folder_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with Spill() as spill, pytest.raises(NoRoom, match="TMPDIR"):
        spill.put(b"row")
