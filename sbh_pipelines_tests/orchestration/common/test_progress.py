"""Progress lines and texts."""

import logging

import pytest

from sbh_pipelines.model import Progress
from sbh_pipelines.orchestration.common.batch import ProgressLog
from sbh_pipelines.orchestration.common.metadata import markdown


def test_progress_is_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand notices in ten seconds are two lines."""
    now = 0.0
    sink = ProgressLog(logging.getLogger("test"), every_s=5.0, clock=lambda: now)
    with caplog.at_level(logging.INFO):
        for n in range(1, 1001):
            now = n / 100
            sink(Progress("snapshot_tables", "public.tasks", n, 1000, "row groups"))
    assert [r.message for r in caplog.records] == [
        "snapshot_tables: public.tasks: 500 of 1,000 row groups",
        "snapshot_tables: public.tasks: 1,000 of 1,000 row groups",
    ]


def test_a_table_cannot_be_broken_by_names_in_it() -> None:
    table = markdown(["name", "n"], [["a|b\nc<script>", 1234], ["\\|", 1.5]])
    assert table.splitlines()[2] == "| a\\|b c&lt;script> | 1,234 |"
    assert table.splitlines()[1] == "| --- | ---: |"


def test_a_long_table_says_what_it_leaves_out() -> None:
    assert markdown(["n"], [[n] for n in range(1000)]).endswith("… and 800 more")
