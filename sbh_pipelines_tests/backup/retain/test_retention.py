"""The policy as a specification: golden tables of what is kept and why, and what holds for every policy and history.

`golden/retention/*.toml` are histories and policies, the `.txt` beside each is the expected table. After a deliberate change
write them anew, and read the difference: `UPDATE_GOLDEN=1 pytest sbh_pipelines_tests/backup/retain/test_retention.py -k golden`.
"""

import itertools
import os
import random
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.contents.summary import BackupSummary
from sbh_pipelines.backup.retain.policy import Verdict, decide, policy_of
from sbh_pipelines.errors import CorruptObject, SettingsError
from sbh_pipelines.model import RECOVERED, BackupId, BackupType, Tenant, TenantId
from sbh_pipelines.settings import RetentionClass, RetentionSettings, Settings, load_settings
from sbh_pipelines_tests.support.effort import examples

GOLDEN = Path(__file__).parent / "golden" / "retention"
SPECIFIED = RetentionSettings()
NOTHING = RetentionSettings(
    full_backups=RetentionClass(),
    incremental_backups=RetentionClass(),
    differential_backups=RetentionClass(),
    keep_within_hours=0,
)
FULL, INCREMENTAL, DIFFERENTIAL = BackupType.FULL, BackupType.INCREMENTAL, BackupType.DIFFERENTIAL
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 1, 15, tzinfo=UTC)


def backup(moment: datetime, kind: BackupType = FULL, nth: int = 1) -> BackupSummary:
    return BackupSummary(BackupId.at(moment, nth), kind, moment)


def kept(verdicts: Sequence[Verdict]) -> set[str]:
    return {v.backup_id for v in verdicts if v.keep}


# golden tables


def history(case: Mapping[str, Any]) -> list[BackupSummary]:
    """The backups of a case, oldest first. A run with a `zone` is a cron line in local time: a day may have 23 or 25 hours."""
    made = []
    for run in case["backups"]:
        begin, every = run["from"], timedelta(hours=run.get("every_h", 24))
        for n in range(run.get("count", 1)):
            moment = (begin + n * every).replace(tzinfo=ZoneInfo(run.get("zone", "UTC"))).astimezone(UTC)
            made.append(backup(moment, BackupType(run["type"]), run.get("nth", 1)))
    assert len({b.id for b in made}) == len(made)
    return sorted(made, key=lambda b: (b.created_at, b.id))


def outcomes(case: Mapping[str, Any], policy: RetentionSettings) -> Iterator[tuple[BackupSummary, bool, str]]:
    """(backup, kept, why), newest first. Decided at every backup, as it happens; `once` decides for all at the end."""
    options = {"protected": case.get("protected", {}), "doubted": case.get("doubted", [])}
    made, left, fate = history(case), dict[str, BackupSummary](), dict[str, tuple[bool, str]]()
    for number, new in enumerate(made, 1):
        left[new.id] = new
        if case.get("once") and number < len(made):
            continue
        for verdict in decide(policy, left.values(), **options):
            fate[verdict.backup_id] = verdict.keep, ", ".join(verdict.reasons)
            if not verdict.keep:
                del left[verdict.backup_id]
    yield from ((b, *fate[b.id]) for b in reversed(made))


def drawn(case: Mapping[str, Any]) -> str:
    """The expected table: a section per type, one line per backup kept and per stretch of backups dropped."""
    tenant = Tenant(TenantId("acme"), "1", "eu-west-1", case.get("tier", "critical"))
    policy = policy_of(RetentionSettings(**case.get("retention", {})), tenant)
    zone = ZoneInfo(policy.time_zone)
    lines = [f"# {case['about']}"]
    found = sorted(outcomes(case, policy), key=lambda o: list(BackupType).index(o[0].type))
    for kind, group in itertools.groupby(found, key=lambda o: o[0].type):
        ofs = list(group)
        lines += ["", f"{kind}: {sum(keep for _, keep, _ in ofs)} of {len(ofs)} kept; times in {policy.time_zone}"]
        for keep, stretch in itertools.groupby(ofs, key=lambda o: o[1]):
            some = list(stretch)
            for one, _, why in some if keep else some[:1]:
                local = one.created_at.astimezone(zone).isoformat(" ", "minutes")
                more = f" and {len(some) - 1} before it" if not keep and len(some) > 1 else ""
                lines.append(f"{'keep' if keep else 'drop'} {one.id} {local}{more}: {why}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", sorted(GOLDEN.glob("*.toml")), ids=lambda path: path.stem)
def test_golden_tables(case: Path) -> None:
    """Every case of `golden/retention` comes out as its table says."""
    table, expected = drawn(tomllib.loads(case.read_text("utf-8"))), case.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(table, "utf-8")
    assert table == expected.read_text("utf-8")


# what holds for every policy and history

ZONES = ["UTC", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Asia/Kolkata"]
SMALL = st.integers(0, 4)
CLASSES = st.builds(
    RetentionClass,
    keep_last=SMALL,
    keep_within_hours=st.sampled_from([0, 0, 1, 30]),
    keep_within_days=st.sampled_from([0, 0, 2]),
    keep_hourly=SMALL,
    keep_daily=SMALL,
    keep_weekly=SMALL,
    keep_monthly=SMALL,
)
POLICIES = st.builds(
    RetentionSettings,
    full_backups=CLASSES,
    incremental_backups=CLASSES,
    differential_backups=CLASSES,
    keep_within_hours=st.sampled_from([0, 0, 5, 24]),
    time_zone=st.sampled_from(ZONES),
)
# Around the end of summer time in New York, London and on Lord Howe, and over New Year.
ORIGINS = st.sampled_from(
    [datetime(2026, 10, 24, tzinfo=UTC), datetime(2026, 10, 31, tzinfo=UTC), datetime(2025, 12, 20, tzinfo=UTC)]
)
GAPS = st.one_of(st.integers(0, 90), st.integers(0, 60 * 24), st.integers(0, 60 * 24 * 40))


@st.composite
def histories(draw: st.DrawFn) -> list[BackupSummary]:
    """Backups of any type, minutes or weeks apart, several of them in one minute now and then; oldest first."""
    moment, made = draw(ORIGINS), list[BackupSummary]()
    nth: Counter[datetime] = Counter()
    for gap, kind in draw(st.lists(st.tuples(GAPS, st.sampled_from(list(BackupType))), max_size=25)):
        moment += timedelta(minutes=gap)
        nth[moment] += 1
        made.append(backup(moment, kind, nth[moment]))
    return made


@given(POLICIES, histories(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    policy: RetentionSettings, made: list[BackupSummary], shuffler: random.Random
) -> None:
    """Nor does a backup that is given twice."""
    shuffled = [*made, *made[:3]]
    shuffler.shuffle(shuffled)
    assert decide(policy, shuffled) == decide(policy, made)


@given(POLICIES, histories(), st.data())
def test_a_larger_policy_keeps_all_that_a_smaller_one_keeps(
    policy: RetentionSettings, made: list[BackupSummary], data: st.DataObject
) -> None:
    """Raising any number, of any class, drops nothing."""
    name = data.draw(st.sampled_from(["full_backups", "incremental_backups", "differential_backups"]))
    rule = data.draw(st.sampled_from(sorted(RetentionClass.model_fields)))
    rules = getattr(policy, name)
    larger = rules.model_copy(update={rule: getattr(rules, rule) + data.draw(st.integers(1, 3))})
    assert kept(decide(policy, made)) <= kept(decide(policy.model_copy(update={name: larger}), made))


@given(POLICIES, histories(), st.data())
def test_the_newest_the_last_good_full_and_the_protected_are_kept_by_every_policy(
    policy: RetentionSettings, made: list[BackupSummary], data: st.DataObject
) -> None:
    """Whatever else is asked for; and each says so itself."""
    some = st.lists(st.sampled_from(made), max_size=3) if made else st.just([])
    protected = {b.id: ["pinned"] for b in data.draw(some)}
    doubted = {b.id for b in data.draw(some)}
    verdicts = {v.backup_id: v for v in decide(policy, made, protected=protected, doubted=doubted)}
    assert all("pinned" in verdicts[backup_id].rules for backup_id in protected)
    if made:
        assert "newest backup" in verdicts[made[-1].id].rules
    fulls = [b.id for b in made if b.type is FULL]
    good = [backup_id for backup_id in fulls if backup_id not in doubted]
    if good:
        assert "newest full" in verdicts[good[-1]].rules
    else:
        assert all(verdicts[backup_id].keep for backup_id in fulls)


@given(POLICIES, histories())
def test_deciding_again_after_forgetting_drops_nothing_more(
    policy: RetentionSettings, made: list[BackupSummary]
) -> None:
    """And every verdict that keeps names the same rules, since what they counted is still there."""
    before = [v for v in decide(policy, made) if v.keep]
    assert decide(policy, [v.backup for v in before]) == before


@given(POLICIES, histories())
@settings(max_examples=examples(60))
def test_forgetting_at_every_backup_keeps_what_forgetting_once_keeps(
    policy: RetentionSettings, made: list[BackupSummary]
) -> None:
    """How often retention runs makes no difference, so a step that failed is made up for by the next."""
    left: list[BackupSummary] = []
    for new in made:
        left = [v.backup for v in decide(policy, [*left, new]) if v.keep]
    assert {b.id for b in left} == kept(decide(policy, made))


@given(POLICIES, histories())
def test_each_rule_keeps_as_many_as_it_says(policy: RetentionSettings, made: list[BackupSummary]) -> None:
    """Exactly, or one for each hour, day, week and month that has a backup where there are fewer."""
    zone = ZoneInfo(policy.time_zone)
    verdicts = decide(policy, made)
    formats = {"hourly": "%Y-%m-%d %H %z", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}
    for kind in BackupType:
        rules: RetentionClass = getattr(policy, f"{kind}_backups")
        own = [b for b in made if b.type is kind]
        of_kind = [v for v in verdicts if v.backup.type is kind]
        for period, form in formats.items():
            buckets = {b.created_at.astimezone(zone).strftime(form) for b in own}
            by = sum(any(rule.startswith(f"{period} ") for rule in v.rules) for v in of_kind)
            assert by == min(len(buckets), getattr(rules, f"keep_{period}"))
        assert sum(any(rule.startswith("last ") for rule in v.rules) for v in of_kind) == min(len(own), rules.keep_last)


# examples of single rules


def test_a_long_outage_expires_nothing() -> None:
    """Rules count the days that have backups: after a year without any, one new backup pushes out one at most."""
    old = [backup(START + n * DAY) for n in range(7)]
    before, after = kept(decide(SPECIFIED, old)), kept(decide(SPECIFIED, [*old, backup(START + 365 * DAY)]))
    assert before == {b.id for b in old}
    assert len(before - after) <= 1


def test_a_policy_that_keeps_nothing_keeps_the_last_way_back() -> None:
    """The newest backup and the newest full one, each by a rule of its own."""
    made = [
        backup(START),
        backup(START + DAY),
        backup(START + 2 * DAY, INCREMENTAL),
        backup(START + 3 * DAY, DIFFERENTIAL),
    ]
    assert [v.reasons for v in decide(NOTHING, made)] == [
        ["newest backup"],
        ["no rule keeps it: no period is counted for incremental backups"],
        ["newest full"],
        ["no rule keeps it: no period is counted for full backups"],
    ]


def test_the_last_good_full_is_not_the_one_that_may_be_damaged() -> None:
    """A full whose data was found damaged cannot be the last way back; where all may be, all stay."""
    fulls = [backup(START + n * DAY) for n in range(4)]
    tail = backup(START + 9 * DAY, INCREMENTAL)
    verdicts = decide(NOTHING, [*fulls, tail], doubted={fulls[3].id, fulls[1].id})
    assert kept(verdicts) == {tail.id, fulls[2].id}
    assert kept(decide(NOTHING, [*fulls, tail], doubted={f.id for f in fulls})) == {tail.id, *(f.id for f in fulls)}


def test_within_counts_from_the_newest_backup_of_any_type() -> None:
    """Hours and days of a class, the longer counts; of the general rule, for full and differential ones."""
    made = [backup(START + n * 6 * HOUR, list(BackupType)[n % 3]) for n in range(24)]
    newest = made[-1].created_at
    rules = RetentionClass(keep_within_hours=30, keep_within_days=1)
    policy = NOTHING.model_copy(update={"incremental_backups": rules, "keep_within_hours": 48})
    for verdict in decide(policy, made):
        age = newest - verdict.backup.created_at
        limit = 30 * HOUR if verdict.backup.type is INCREMENTAL else 48 * HOUR
        within = any(rule.startswith("within ") for rule in verdict.rules)
        assert within == (timedelta(0) < age < limit), verdict


def test_a_backup_made_before_a_migration_survives_the_daily_one() -> None:
    """Full backups of the 24 hours before the newest backup stay, whatever the day has; older ones only as the day's newest."""
    made = [backup(START + h * HOUR) for h in (1, 2, 3, 20)]
    assert len(kept(decide(SPECIFIED, made))) == 4
    made = [backup(START + h * HOUR) for h in (1, 2, 3, 27)]
    assert [v.keep for v in decide(SPECIFIED, made)] == [True, True, False, False]


def test_incremental_backups_are_counted_by_the_hour_and_not_kept_for_a_day() -> None:
    """With one every ten minutes `keep_hourly = 24` keeps 24 of the last day, not 144."""
    made = [backup(START + n * timedelta(minutes=10), INCREMENTAL) for n in range(6 * 24)]
    assert len(kept(decide(SPECIFIED, made))) == 24


@pytest.mark.parametrize("hours", [1e300, float("inf")])
def test_for_ever_can_be_said_with_any_number(hours: float) -> None:
    """No overflow of dates."""
    policy = NOTHING.model_copy(update={"keep_within_hours": hours})
    assert len(kept(decide(policy, [backup(START), backup(START + 4000 * DAY)]))) == 2


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "a\0b", "/etc/localtime"])
def test_an_unknown_time_zone_is_an_error_that_names_it(zone: str) -> None:
    """It is no reason to fall back to UTC, where other backups might be dropped."""
    with pytest.raises(SettingsError, match="time zone"):
        decide(RetentionSettings(time_zone=zone), [])


# policies of tiers and tenants

TOML = """
[retention]
time_zone = "Europe/London"
[retention.full_backups]
keep_daily = 30
[retention.tiers.archive]
keep_within_hours = 0
[retention.tiers.archive.full_backups]
keep_daily = 0
keep_weekly = 8
[retention.tenants.acme]
time_zone = "UTC"
[retention.tenants.acme.full_backups]
keep_weekly = 99
[retention.tenants.acme.incremental_backups]
keep_last = 3
"""


def test_an_override_replaces_the_fields_it_names_and_no_other(tmp_path: Path) -> None:
    """General, then the tier's, then the tenant's; what none of them names keeps its default."""
    file = tmp_path / "sbh.toml"
    file.write_text(TOML)
    retention = load_settings(file).retention

    def of(slug: str, tier: str) -> RetentionSettings:
        return policy_of(retention, Tenant(TenantId(slug), "1", "eu-west-1", tier))

    plain, archive, acme = of("bolt", "critical"), of("bolt", "archive"), of("acme", "archive")
    assert plain.full_backups == RetentionClass(keep_daily=30, keep_weekly=4, keep_monthly=12)
    assert (plain.time_zone, plain.keep_within_hours) == ("Europe/London", 24)
    assert archive.full_backups == RetentionClass(keep_daily=0, keep_weekly=8, keep_monthly=12)
    assert (archive.keep_within_hours, archive.incremental_backups) == (0, plain.incremental_backups)
    assert acme.full_backups == RetentionClass(keep_daily=0, keep_weekly=99, keep_monthly=12)
    assert acme.incremental_backups == RetentionClass(keep_last=3, keep_hourly=24, keep_daily=7)
    assert (acme.time_zone, acme.keep_within_hours) == ("UTC", 0)


def test_one_number_in_the_environment_does_not_unset_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `SBH_RETENTION__FULL_BACKUPS__KEEP_DAILY=9` would forget every weekly and monthly backup."""
    monkeypatch.setenv("SBH_RETENTION__FULL_BACKUPS__KEEP_DAILY", "9")
    assert Settings().retention.full_backups == RetentionClass(keep_daily=9, keep_weekly=4, keep_monthly=12)


@pytest.mark.parametrize(
    "tables", ["[retention.tiers.archive]\nkeep_forever = 1", "[retention.tenants.acme.full_backups]\nkeep_daily = -1"]
)
def test_a_misspelt_or_negative_override_is_refused(tmp_path: Path, tables: str) -> None:
    """It would keep less than was meant."""
    file = tmp_path / "sbh.toml"
    file.write_text(tables)
    with pytest.raises(SettingsError, match="retention"):
        load_settings(file)


# summaries


def test_a_summary_survives_its_document() -> None:
    """With the seconds of `created_at`, and in UTC."""
    summary = backup(START + timedelta(seconds=7), DIFFERENTIAL, 3)
    assert BackupSummary.from_dict(summary.as_dict()) == summary


@pytest.mark.parametrize(
    "field",
    [
        {"type": "weekly"},
        {"created_at": "yesterday"},
        {"created_at": None},
        {"created_at": "2026-01-01T00:00:00"},
        {"id": "x"},
        {"id": None},
    ],
    ids=str,
)
def test_a_summary_that_cannot_be_understood_is_damage(field: dict[str, Any]) -> None:
    """Its backup is then kept: what a rule would say of it is unknown."""
    with pytest.raises(CorruptObject):
        BackupSummary.from_dict({**backup(START).as_dict(), **field})


# backups put together for a moment of the past


def recovered(moment: datetime, nth: int = 1) -> BackupSummary:
    return BackupSummary(BackupId.at(moment, nth), FULL, moment, RECOVERED)


def test_one_put_together_for_a_moment_takes_nobodys_place() -> None:
    """It is the newest there is, and full: the backup that describes the tenant stays all the same, and it goes itself."""
    own, late = backup(START), recovered(START + DAY)
    assert kept(decide(NOTHING, [own, late])) == {own.id}
    (verdict, _) = decide(NOTHING, [own, late])
    assert verdict.reasons == ["it was made for a restore, and its term is over"]


def test_no_rule_counts_one_put_together_for_a_moment() -> None:
    policy = NOTHING.model_copy(update={"full_backups": RetentionClass(keep_last=2, keep_daily=2)})
    backups = [backup(START), backup(START + HOUR), recovered(START + 2 * HOUR), recovered(START + DAY)]
    assert kept(decide(policy, backups)) == {one.id for one in backups[:2]}


def test_hours_are_counted_from_the_newest_that_was_read() -> None:
    policy = NOTHING.model_copy(update={"keep_within_hours": 2})
    backups = [backup(START), backup(START + HOUR), recovered(START + 9 * DAY)]
    assert kept(decide(policy, backups)) == {one.id for one in backups[:2]}


def test_one_put_together_for_a_moment_stays_while_its_term_lasts() -> None:
    late = recovered(START)
    assert kept(decide(NOTHING, [late], protected={late.id: ["kept until tomorrow"]})) == {late.id}
