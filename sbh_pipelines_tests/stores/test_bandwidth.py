"""How much a process sends and receives a second, with a clock of the test's own."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.stores import s3 as s3_module
from sbh_pipelines.stores.bandwidth import Bandwidth
from sbh_pipelines_tests.stores.test_stores import s3

MIB = 1 << 20


class Clock:
    """Time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@given(st.lists(st.integers(1 << 16, 16 * MIB), min_size=2, max_size=40))
def test_what_is_taken_has_its_time(sizes: list[int]) -> None:
    """All but the last have passed when the last begins."""
    clock = Clock()
    bound = Bandwidth(MIB, clock, clock.sleep)
    for size in sizes:
        bound.take(size)
    assert clock.slept == pytest.approx(sum(sizes[:-1]) / MIB)


def test_what_is_small_counts_and_does_not_wait() -> None:
    clock = Clock()
    bound = Bandwidth(MIB, clock, clock.sleep)
    bound.take(64 * MIB)
    for _ in range(100):
        bound.take(1000)  # a lease
    assert clock.slept == 0
    bound.take(MIB)
    assert clock.slept == pytest.approx(64 + 100_000 / MIB)


def test_every_way_of_a_store_is_bound(embedded_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real server: puts and streams up, gets, ranges and streams down, through whatever client carries them."""
    clock = Clock()
    bounds = {name: Bandwidth(MIB, clock, clock.sleep) for name in ("up", "down")}
    monkeypatch.setattr(s3_module, "bandwidth", lambda direction, _: bounds[direction])
    store = s3(embedded_stack, upload_mib_s=1.0, download_mib_s=1.0)
    key, body = f"bandwidth/{uuid.uuid4().hex}", bytes(2 * MIB)

    def slept() -> float:
        before, clock.now = clock.slept, clock.now + 1000  # what was taken is over
        return before

    start = slept()
    store.put(key, body)
    store.put_stream(key, [body, body], {"Content-Type": "text/plain"}, size=2 * len(body))
    store.put_stream(key, [body], {"Storage-Class": "STANDARD_IA"}, size=len(body))  # by a client of ours
    assert clock.slept - start == pytest.approx(6)
    start = slept()
    store.get(key)
    store.get_range(key, 0, MIB)
    store.get_ranges(key, [(0, MIB), (MIB, MIB)])
    assert b"".join(store.stream(key)[1]) == body
    assert clock.slept - start >= 5
    store.delete([key])
