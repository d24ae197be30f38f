"""Work in threads keeps the order of its items, and ends with the first error."""

import threading
import time
from collections.abc import Iterator

import pytest

from sbh_pipelines.concurrency import Allowance, as_done, side_by_side, streamed


def _slow_first(item: int) -> int:
    time.sleep(0.05 if item == 0 else 0)
    return item * item


def _odd_fail(item: int) -> int:
    if item % 2:
        raise ValueError(item)
    return item


def test_results_come_in_the_order_of_the_items() -> None:
    assert side_by_side(_slow_first, range(6), name="t", threads=3) == [0, 1, 4, 9, 16, 25]
    assert list(streamed(_slow_first, range(6), name="t", threads=3, ahead=2)) == [0, 1, 4, 9, 16, 25]


def test_nothing_to_do_is_nothing_done() -> None:
    assert side_by_side(_odd_fail, [], name="t") == []
    assert list(streamed(_odd_fail, [], name="t", ahead=2)) == []


def test_the_first_error_in_order_is_raised() -> None:
    with pytest.raises(ValueError, match=r"^1$"):
        side_by_side(_odd_fail, range(6), name="t")
    with pytest.raises(ValueError, match=r"^1$"):
        list(streamed(_odd_fail, range(6), name="t", ahead=6))


def test_after_an_error_what_has_not_begun_is_left() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ValueError(item)
        time.sleep(0.02)
        done.append(item)

    with pytest.raises(ValueError, match=r"^0$"):
        side_by_side(work, range(200), name="t", threads=1)
    assert len(done) < 100
    with pytest.raises(ValueError, match=r"^0$"):
        list(streamed(work, range(200), name="t", threads=1, ahead=200))
    assert len(done) < 200


def test_a_stream_asks_for_items_as_results_are_taken() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            asked.append(item)
            yield item

    results = streamed(lambda item: item, items(), name="t", ahead=4)
    assert [next(results), next(results)] == [0, 1]
    assert asked == [0, 1, 2, 3, 4]
    results.close()  # type: ignore[attr-defined]


def test_one_that_takes_long_keeps_no_other_waiting() -> None:
    """The first ends only when all others are taken; two are at work, and no more are asked for than are."""
    others, asked = threading.Event(), list[int]()

    def items() -> Iterator[int]:
        for item in range(30):
            asked.append(item)
            yield item

    def work(item: int) -> int:
        assert item or others.wait(240)
        return item * item

    taken = []
    for item, result in as_done(work, items(), name="t", threads=2):
        taken.append((item, result))
        assert len(asked) <= len(taken) + 2
        if len(taken) == 29:
            others.set()
    assert sorted(taken) == [(item, item * item) for item in range(30)]
    assert taken[-1] == (0, 0)


def test_the_first_that_fails_ends_what_is_taken_as_it_is_done() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match=r"^3$"):
        list(as_done(work, range(1000), name="t", threads=2))
    assert len(done) < 100


def test_the_threads_have_the_name() -> None:
    (name,) = side_by_side(lambda _: threading.current_thread().name, [1], name="holds")
    assert name.startswith("holds")


def test_an_allowance_is_never_exceeded_but_by_one_alone() -> None:
    """What needs more than all of it waits until nobody has any, and an error gives back what was taken."""
    allowance, lock = Allowance(10), threading.Lock()
    held: list[int] = []

    def work(size: int) -> None:
        with allowance.taken(size):
            with lock:
                held.append(size)
                assert sum(held) <= 10 or held == [25]
            time.sleep(0.002)
            with lock:
                held.remove(size)
            if size == 7:
                raise ValueError(size)

    def calm(size: int) -> bool:
        try:
            work(size)
        except ValueError:
            return False
        return True

    sizes = [1, 4, 25, 7, 3, 9, 7, 25, 2, 5] * 4
    assert side_by_side(calm, sizes, name="t", threads=6) == [size != 7 for size in sizes]
    with allowance.taken(25):  # all of it is there again
        assert held == []
