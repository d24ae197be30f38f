"""What a plan says a restore will take: what was measured while it compared, what is left to write, and the rests in between."""

import pytest

from sbh_pipelines.backup.restore.plan import Estimate, Work
from sbh_pipelines.settings import RestoreSettings

UNPACED = RestoreSettings(pace=0)


def _work(seconds: float = 3.0, staged: int = 800_000, to_write: int = 400_000, files: int = 0) -> Work:
    return Work(seconds, staged, 20_000_000, to_write, files)


def test_a_slower_server_takes_longer() -> None:
    """To write a row takes some times as long as to stage one took."""
    fast, slow = (
        Estimate.of(_work(), UNPACED, safety_backup=False),
        Estimate.of(_work(9.0), UNPACED, safety_backup=False),
    )
    assert fast.seconds == pytest.approx(3 + 6, abs=1)
    assert slow.seconds > 2 * fast.seconds


def test_rests_are_named() -> None:
    unpaced = Estimate.of(_work(), UNPACED, safety_backup=False)
    paced = Estimate.of(_work(), RestoreSettings(pace=1.0), safety_backup=False)
    assert unpaced.resting_s == 0
    assert paced.resting_s > 4
    assert paced.seconds == pytest.approx(unpaced.seconds + paced.resting_s, abs=0.11)
    few = Estimate.of(_work(to_write=400), RestoreSettings(pace=1.0), safety_backup=False)
    assert few.resting_s == 0


def test_few_staged_rows_say_little() -> None:
    """Comparing has a cost that does not depend on the rows: a row is never taken to cost as much."""
    assert Estimate.of(_work(2.0, staged=10, to_write=10), UNPACED, safety_backup=False).seconds == 2.0


def test_a_safety_backup_and_files_cost_too() -> None:
    bare = Estimate.of(_work(), UNPACED, safety_backup=False)
    assert Estimate.of(_work(), UNPACED, safety_backup=True).seconds > bare.seconds
    with_files = Estimate.of(_work(files=100_000_000), UNPACED, safety_backup=False)
    assert with_files.seconds == pytest.approx(bare.seconds + 4, abs=0.11)
    assert with_files.bytes_to_download == bare.bytes_to_download + 200_000_000
