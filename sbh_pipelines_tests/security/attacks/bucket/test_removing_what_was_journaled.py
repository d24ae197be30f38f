"""The attacker deletes or exchanges segments of the change journal, so that a tenant comes back with changes missing.

A moment behind the hole is refused, and one before it is whole. Where the newest segment was taken, which leaves no hole, the next
drain finds out that the server told more than is there.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.errors import JournalGap, MomentOutOfReach
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer

TENANT = 1


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    """Three changes of the tenant, each with a segment of its own."""
    with recovered_application(server, tmp_path) as made:
        for title in ("one", "two", "three"):
            made.do(f"UPDATE projects SET title = '{title}' WHERE tenant_id = {TENANT}")
            made.drain()
        yield made


def segments(application: Recovered) -> list[list[Path]]:
    """Those of the last three drains, each in every region, the oldest first."""
    ends: dict[str, list[Path]] = {}
    for file in application.directory.rglob("*"):
        if file.is_file() and (found := re.fullmatch(r"[0-9A-F]{16}-([0-9A-F]{16})-[0-9a-f]{16}", file.name)):
            ends.setdefault(found[1], []).append(file)
    return [files for _, files in sorted(ends.items())][-3:]


def test_a_segment_in_the_middle_is_gone(application: Recovered) -> None:
    for file in segments(application)[1]:
        file.unlink()
    one, two, three = application.kept
    assert application.stored(TENANT, application.recover(TENANT, one.at)) == one.rows[TENANT]
    for kept in (two, three):
        with pytest.raises((JournalGap, MomentOutOfReach)):
            application.recover(TENANT, kept.at)


def test_a_segment_is_another_one(application: Recovered) -> None:
    """The first under the name of the second."""
    first, second, _ = segments(application)
    for file in second:
        shutil.copy(next(one for one in first if one.parent == file.parent), file)
    for kept in application.kept[1:]:
        with pytest.raises((JournalGap, MomentOutOfReach)):
            application.recover(TENANT, kept.at)


def test_the_newest_segment_is_gone(application: Recovered) -> None:
    for file in segments(application)[-1]:
        file.unlink()
    before = len(application.service.journal.gaps(ADMIN).gaps)
    two, three = application.kept[-2:]
    with pytest.raises((JournalGap, MomentOutOfReach)):
        application.recover(TENANT, three.at)
    application.drain()
    assert len(application.service.journal.gaps(ADMIN).gaps) > before
    assert application.stored(TENANT, application.recover(TENANT, two.at)) == two.rows[TENANT]
    application.back_up("incremental", TENANT)
    application.drain()
    assert application.stored(TENANT, application.recover(TENANT, application.now())) == three.rows[TENANT]
