"""A moment that is written wrongly is refused, and shown as it was typed."""

import pytest
from pydantic import TypeAdapter, ValidationError

from sbh_pipelines.api.schema.pages import Moment
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.cli.commands.audit import moment as trail_moment
from sbh_pipelines.cli.commands.upkeep.journal import _moment as journal_moment
from sbh_pipelines.errors import InvalidId, RequestError
from sbh_pipelines.model import utc_now

NO_DATE = ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00")


@pytest.mark.parametrize("text", NO_DATE)
def test_a_time_that_utc_has_no_date_for_is_none(text: str) -> None:
    with pytest.raises(InvalidId, match="Not a moment"):
        Target.parse(f"@{text}")
    for parse in (trail_moment, lambda one: journal_moment(one, utc_now())):
        with pytest.raises(RequestError, match="Not a time"):
            parse(text)
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(text)


def test_longer_ago_than_there_is_a_calendar() -> None:
    with pytest.raises(RequestError, match="Not a time"):
        journal_moment("999999d", utc_now())


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59", "0001-01-01T00:00:00", "2026-01-15T14:32:07.5+01:00"])
def test_the_first_and_the_last_are_moments(text: str) -> None:
    assert Target.parse(Target.parse(f"@{text}").text) == Target.parse(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("yesterday", "yesterday"),
        ("2026-01-15 \x1b[31m", "2026-01-15 ?[31m"),
        ("9" * 41, "9" * 40 + "…"),
        ("xid:two", "two"),
        ("lsn:16\n", "16?"),
    ],
)
def test_what_was_typed_is_shown(text: str, shown: str) -> None:
    with pytest.raises(InvalidId) as caught:
        Target.parse(f"@{text}")
    assert caught.value.on == shown
