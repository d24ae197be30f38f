"""Layers over a base give the rows of the last snapshot: whether they name the keys that went, or those that stayed."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.layers import table_rows
from sbh_pipelines.backup.contents.stored_table import Base, Group, Layer, LayerWriter, State, StoredTable
from sbh_pipelines.database.schema.key_hash import TEXT, bucket_of
from sbh_pipelines.database.schema.table_header import TableHeader
from sbh_pipelines.errors import CorruptObject
from sbh_pipelines.repository.pack import PackWriter
from sbh_pipelines.repository.repository import Repository

BITS = 2
HEADER = TableHeader.from_dict(
    {
        "schema": "public",
        "name": "docs",
        "columns": [[name, "text", True, ""] for name in ("body", "name", "n")],
        "key": ["n", "name"],
    }
)
Rows = dict[tuple[bytes, bytes], bytes]
STATES = st.lists(
    st.tuples(
        st.booleans(),
        st.dictionaries(st.tuples(st.sampled_from([b"1", b"2", b"3"]), st.sampled_from([b"a", b"\\t", b""])), st.binary(max_size=0) | st.sampled_from([b"x", b"y"])),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


class Chunks:
    """A repository and a writer of it, in memory."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}

    def put(self, body: bytes, keep: bool = False) -> Future[bytes]:
        name = hashlib.sha256(body).digest()
        self.bodies[name] = body
        done: Future[bytes] = Future()
        done.set_result(name)
        return done

    def read_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        return (self.bodies[chunk] for chunk in chunks)


def _text(rows: Rows) -> bytes:
    return b"".join(b"%s\t%s\t%s\n" % (body, name, n) for (n, name), body in rows.items())


def _layer(chunks: Chunks, before: Rows, after: Rows, *, named: bool) -> Layer:
    """What the journal, or a scan, writes of it."""
    writer = LayerWriter(cast(PackWriter, chunks))
    changed = {key: body for key, body in after.items() if before.get(key) != body}
    if changed:
        writer.group(_text(changed), len(changed))
    gone = before.keys() - after.keys()
    if named:
        for key in gone:
            writer.deleted(b"\t".join(key))
        return writer.finish()
    for bucket in {_bucket(key) for key in gone}:
        left = [key for key in after if _bucket(key) == bucket]
        for key in left:
            writer.survivor(bucket, b"\t".join(key))
        if not left:
            writer.emptied(bucket)
    return writer.finish()


def _bucket(key: tuple[bytes, bytes]) -> int:
    return bucket_of(TEXT, key) & ((1 << BITS) - 1)


def _state(layers: list[Layer], rows: int) -> State:
    return State(TEXT, "seed", BITS, rows, "", (), Base("", 0, 0, 0, "", ()), tuple(layers), "1")


def _assembled(chunks: Chunks, base: Rows, state: State) -> list[bytes]:
    groups = [Group(chunks.put(_text(base)).result(), len(base), 0, ())] if base else []
    table = StoredTable(HEADER, state, iter(groups), ())
    return sorted(b"".join(table_rows(cast(Repository, chunks), table)).splitlines())


@given(STATES)
def test_layers_of_both_kinds_over_each_other_give_the_rows_of_the_last(states: list[tuple[bool, Rows]]) -> None:
    chunks = Chunks()
    (_, base), *later = states
    layers, before = [], base
    for named, after in later:
        layers.append(_layer(chunks, before, after, named=named))
        before = after
    state = State.from_dict(_state(layers, len(before)).as_dict())
    assert state == _state(layers, len(before))
    assert _assembled(chunks, base, state) == sorted(_text(before).splitlines())
    assert {bytes.fromhex(chunk) for chunk in state.chunks()} <= chunks.bodies.keys()


def test_a_layer_that_names_too_few_of_the_keys_that_went_is_damage() -> None:
    chunks = Chunks()
    base: Rows = {(b"1", b"a"): b"x", (b"2", b"a"): b"x"}
    layer = _layer(chunks, base, {(b"2", b"a"): b"x"}, named=True)
    assert layer.deleting == 1
    without = Layer(**{**asdict(layer), "deleted": (), "deleting": 0})
    assert _assembled(chunks, base, _state([layer], 1)) == [b"x\ta\t2"]
    with pytest.raises(CorruptObject, match="do not add up"):
        _assembled(chunks, base, _state([without], 1))


def test_a_layer_without_deleted_keys_is_stored_as_earlier_releases_read_it() -> None:
    """They refuse a layer with fields that they do not know, so it must have none without need."""
    chunks = Chunks()
    scanned = _layer(chunks, {(b"1", b"a"): b"x"}, {}, named=False).as_dict()
    assert scanned.keys() == {"rows", "bytes", "chunks", "survivors", "surviving"}
    folded = _layer(chunks, {(b"1", b"a"): b"x"}, {}, named=True).as_dict()
    assert folded.keys() - scanned.keys() == {"deleted", "deleting"}


def test_a_layer_of_a_later_release_is_refused() -> None:
    document: dict[str, Any] = {**_state([Layer(0, 0, (), (), 0)], 0).as_dict()}
    document["layers"][0]["moved"] = ["00"]
    with pytest.raises(TypeError):
        State.from_dict(document)
