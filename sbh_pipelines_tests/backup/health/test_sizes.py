"""What is an unusual size: the median of the backups before decides, and one odd backup among them changes nothing."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.summary import BackupSummary, Figures
from sbh_pipelines.backup.health.unusual_size import MIB, unusual_measures
from sbh_pipelines.model import SAFETY, BackupId, BackupType
from sbh_pipelines.settings import HealthSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = HealthSettings()


def backups(*rows: int, kind: BackupType = BackupType.FULL, size: int = 0, purpose: str = "") -> list[BackupSummary]:
    """One an hour, with these numbers of rows."""
    return [
        BackupSummary(
            BackupId.at(START + timedelta(hours=n)),
            kind,
            START + timedelta(hours=n),
            purpose,
            Figures(size, size, 0, 1.0, count, 0, None),
        )
        for n, count in enumerate(rows)
    ]


def test_nine_tenths_lost() -> None:
    (odd,) = unusual_measures(backups(1000, 1010, 990, 100), RULES)
    assert (odd.measure, odd.value, odd.usual, odd.small, odd.compared) == ("rows", 100, 1000, True, 3)
    assert "100 rows" in odd.text


def test_everything_lost() -> None:
    assert [odd.value for odd in unusual_measures(backups(1000, 1000, 1000, 0), RULES)] == [0]


def test_grown() -> None:
    (odd,) = unusual_measures(backups(1000, 1010, 990, 4000), RULES)
    assert not odd.small


def test_too_few_to_compare_with_or_too_small_to_matter() -> None:
    assert unusual_measures([], RULES) == []
    assert unusual_measures(backups(1000, 1000, 1), RULES) == []
    assert unusual_measures(backups(20, 20, 20, 1), RULES) == []
    assert unusual_measures(backups(1, 1, 1, 99), RULES) == []


def test_one_odd_backup_before_changes_nothing() -> None:
    assert unusual_measures(backups(1000, 1000, 5, 1000, 1000), RULES) == []


def test_what_really_changed_is_usual_once_half_of_them_are_so() -> None:
    assert unusual_measures(backups(*[1000] * 5, *[100] * 5), RULES)
    assert unusual_measures(backups(*[1000] * 5, *[100] * 7), RULES) == []


def test_a_backup_made_before_a_restore_does_not_count() -> None:
    wrecked = backups(0, 0, 0, 0, 0, 5, purpose=SAFETY)
    assert unusual_measures([*backups(1000, 1000, 1000, 1000), wrecked[-1]], RULES) == []


def test_other_types_stand_in_where_its_own_are_too_few() -> None:
    """Every backup describes the whole tenant, whatever its type."""
    fulls = backups(1000, 1000, 1000)
    (first_incremental,) = backups(0, 0, 0, 100, kind=BackupType.INCREMENTAL)[3:]
    assert unusual_measures([*fulls, first_incremental], RULES)


def test_bytes_are_told_as_mib() -> None:
    large, small = backups(0, 0, 0, size=100 * MIB), backups(0, 0, 0, 0, size=2 * MIB)[3:]
    (odd,) = unusual_measures([*large, *small], RULES)
    assert (odd.measure, odd.text[:7]) == ("bytes", "2.0 MiB")


def test_a_backup_of_an_old_release_is_passed_over() -> None:
    nothing = BackupSummary(BackupId("backup_20250101_0000"), BackupType.FULL, START - timedelta(days=9))
    assert unusual_measures([nothing, *backups(1000, 1000, 1000, 1000)], RULES) == []


@given(st.lists(st.integers(0, 10**9), max_size=40))
def test_never_small_and_large_and_never_without_cause(rows: list[int]) -> None:
    found = unusual_measures(backups(*rows), RULES)
    assert len(found) <= 1
    for odd in found:
        assert odd.value < odd.usual / 2 if odd.small else odd.value > odd.usual * 3


@given(st.integers(100, 10**6), st.lists(st.floats(0.8, 1.5), min_size=4, max_size=40))
def test_ordinary_changes_are_not_told(base: int, shares: list[float]) -> None:
    assert unusual_measures(backups(*(int(base * share) + 100 for share in shares)), RULES) == []
