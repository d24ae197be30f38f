"""The bar of moments: an hour is one block, whatever part of it is within reach."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.orchestration.journal.strip import ALL, NONE, SOME, strip

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-{text}+00:00")


def lines(*spans: tuple[datetime, datetime], since: datetime) -> list[str]:
    return strip(spans, since, NOW).splitlines()[2:-3]


def test_an_hour_is_a_block() -> None:
    spans = (at("14T09:30"), at("14T12:00")), (at("15T00:00"), at("15T05:15"))
    assert lines(*spans, since=at("14T06:00")) == [
        "2026-01-14  " + " " * 6 + NONE * 3 + SOME + ALL * 2 + SOME + NONE * 11,
        "2026-01-15  " + ALL * 5 + SOME + NONE * 7,
    ]


def test_a_backup_alone_is_in_part() -> None:
    """Its own moment is one that can be reached."""
    moment = at("15T03:20")
    assert lines((moment, moment), since=at("15T00:00")) == ["2026-01-15  " + NONE * 3 + SOME + NONE * 9]


def test_the_hour_that_goes_on_is_whole_as_far_as_it_went() -> None:
    assert lines((at("15T12:00"), NOW), since=at("15T12:00")) == ["2026-01-15  " + " " * 12 + ALL]


def test_without_a_moment_there_is_none() -> None:
    assert lines(since=at("15T11:00")) == ["2026-01-15  " + " " * 11 + NONE * 2]


def test_a_long_time_is_cut_to_a_month() -> None:
    assert len(lines(since=NOW - timedelta(days=366))) == 31


@given(st.lists(st.integers(0, 48 * 60), min_size=2, max_size=12, unique=True).map(sorted))
def test_every_hour_says_how_much_of_it_is_within_reach(minutes: list[int]) -> None:
    """Held against the minutes of it, one by one."""
    start = at("13T00:00")
    pairs = list(zip(minutes[::2], minutes[1::2], strict=False))
    spans = [(start + timedelta(minutes=a), start + timedelta(minutes=b)) for a, b in pairs]
    blocks = "".join(line[12:] for line in strip(spans, start, at("15T00:00")).splitlines()[2:-3])
    reached = [any(a <= minute < b for a, b in pairs) for minute in range(48 * 60)]
    ends = {b for _, b in pairs}
    for hour, block in enumerate(blocks):
        of_it = reached[hour * 60 : hour * 60 + 60]
        expected = ALL if all(of_it) else SOME if any(of_it) or hour * 60 in ends else NONE
        assert block == expected, hour
