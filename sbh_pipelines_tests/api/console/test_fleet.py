"""The fleet's page reads what there is once, however many people look."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sbh_pipelines.api.console import fleet
from sbh_pipelines.errors import SourceUnavailable


def known(until: float) -> fleet.Known:
    return fleet.Known([], {}, [], "2026-03-01T12:00:00Z", until)


def test_who_comes_at_the_same_time_waits_for_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes away before it is there, and the others have it; where it fails all are told, and the next reads anew."""
    readings: list[Any] = []
    visit: Any = SimpleNamespace(request=SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace())))

    async def read(*_: Any) -> fleet.Known:
        readings.append(None)
        await asyncio.sleep(0.01)
        if len(readings) == 1:
            raise SourceUnavailable("The database does not answer")
        return known(0.0)

    monkeypatch.setattr(fleet, "_read", read)

    async def all_at_once() -> list[Any]:
        waiting = [asyncio.create_task(fleet._known(visit)) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def twice() -> tuple[list[Any], list[Any]]:
        return await all_at_once(), await all_at_once()

    failed, read_anew = asyncio.run(twice())
    assert [type(one) for one in failed] == [asyncio.CancelledError, *[SourceUnavailable] * 4]
    assert [type(one) for one in read_anew] == [asyncio.CancelledError, *[fleet.Known] * 4]
    assert len(readings) == 2


def test_what_is_a_little_old_is_shown_while_it_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    state = SimpleNamespace(fleet=known(now - 1))
    visit: Any = SimpleNamespace(request=SimpleNamespace(app=SimpleNamespace(state=state)))
    begun: list[None] = []

    async def read(*_: Any) -> fleet.Known:
        begun.append(None)
        return known(now + 15)

    monkeypatch.setattr(fleet, "_read", read)
    monkeypatch.setattr(fleet.time, "monotonic", lambda: now)

    async def look() -> fleet.Known:
        shown = await fleet._known(visit)
        await asyncio.sleep(0)
        return shown

    # The loop has a clock of its own.
    held = state.fleet
    assert asyncio.run(look()) is held
    assert begun == [None]


def test_the_first_look_is_short_and_the_next_follows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes first waits for the list, not for a look at each repository; what was not looked at by then is, without a visit."""
    state = SimpleNamespace()
    visit: Any = SimpleNamespace(request=SimpleNamespace(app=SimpleNamespace(state=state)))
    budgets: list[float] = []

    async def read(_: Any, budget_s: float) -> fleet.Known:
        budgets.append(budget_s)
        seen: dict[str, Any] = {} if len(budgets) == 1 else {"acme": {}}
        return fleet.Known([{"id": "acme"}], seen, [], "2026-03-01T12:00:00Z", 0.0)

    monkeypatch.setattr(fleet, "_read", read)

    async def look() -> None:
        first = await fleet._known(visit)
        assert first.seen == {}
        await state.fleet_reading

    asyncio.run(look())
    assert budgets == [fleet._FIRST_BUDGET_S, fleet._BUDGET_S]
    assert state.fleet.seen == {"acme": {}}


def test_who_comes_as_the_first_reading_ends_begins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    visit: Any = SimpleNamespace(request=SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace())))
    readings: list[Any] = []
    late: list[asyncio.Task[fleet.Known]] = []

    async def read(*_: Any) -> fleet.Known:
        readings.append(None)
        late.append(asyncio.create_task(fleet._known(visit)))  # its turn is between the end and what follows it
        return known(float("inf"))

    monkeypatch.setattr(fleet, "_read", read)

    async def look() -> None:
        first = await fleet._known(visit)
        assert await late[0] is first

    asyncio.run(look())
    assert len(readings) == 1
