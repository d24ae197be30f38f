"""Laying transactions over a backup gives the state of a prefix of the log, whatever the order in which commits show."""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.create.moment.way.chain import Chain
from sbh_pipelines.backup.create.moment.way.lay import Laid, Unreached, lay
from sbh_pipelines.backup.create.moment.way.stop import BaseTooLate
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.fold import Merge, filled
from sbh_pipelines.repository.journal.segments.changes import commit_time
from sbh_pipelines.repository.journal.segments.directory import Event
from sbh_pipelines.repository.journal.segments.names import Incarnation
from sbh_pipelines_tests.backup.create.moment.way.server_model import HOUR, TABLE, Done, Rows, Server, servers
from sbh_pipelines_tests.repository.journal.journals import (
    INCARNATION,
    CatalogKeyInMemory,
    TenantKeys,
    journal_on,
)
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.memory_store import MemoryStore


def chain_of(server: Server, tenant: TenantKeys) -> Chain:
    journal = journal_on(MemoryStore(), CatalogKeyInMemory())
    server.journal_into(journal, tenant)
    incarnation = Incarnation.parse(INCARNATION)
    assert incarnation is not None
    return Chain(journal, journal.segments(INCARNATION), incarnation, ())


def laid_over(rows: Rows, merge: Merge) -> Rows:
    """The rows of a base with what was merged."""
    found = dict(rows)
    for result in merge.results(TABLE):
        assert result.existed == (result.key in rows)
        if result.exists:
            found[result.key] = filled(result.row, rows.get(result.origin, b""))
        else:
            del found[result.key]
    return found


def is_beyond(one: Done, target: Target) -> bool:
    if target.before is not None:
        return one.xid == target.before
    if target.lsn is not None:
        return one.lsn > target.lsn
    assert target.microseconds is not None
    return one.time > target.microseconds


def prefix_of(server: Server, shown: Sequence[Done], target: Target, start: int) -> list[Done]:
    """What PostgreSQL's rule says: all before the first commit that is beyond. Fences are looked at where the base has none of them."""
    told = server.own
    for at, one in enumerate(server.done):
        if (
            one.lsn > start
            and (one.fence or one in told)
            and is_beyond(one, target)
            and not (one.fence and (one in shown or target.time is None))
        ):
            return server.done[:at]
    return server.done


targets = st.integers(-3 * HOUR, 12 * HOUR).map(
    lambda n: Target(time=commit_time(1_768_487_527_000_000) + timedelta(microseconds=n))
)


@given(servers(), st.data())
@settings(max_examples=examples(60))
def test_a_moment_is_a_prefix_of_the_log(server: Server, data: st.DataObject) -> None:
    tenant = TenantKeys("acme", "7")
    chain = chain_of(server, tenant)
    base, shown = server.base(data.draw(st.floats(0, len(server.done))))
    beginning = chain.begin(base.snapshot.xmin, base.lsn)
    assume(beginning is not None)
    assert beginning is not None
    own = server.own
    choices = [targets]
    if own:
        choices += [
            st.sampled_from([Target(time=commit_time(one.time)) for one in server.done]),
            st.sampled_from([Target(before=one.xid) for one in own]),
            st.sampled_from([Target(lsn=one.lsn) for one in server.done]),
        ]
    target = data.draw(st.one_of(choices))
    assume(target.lsn is None or beginning.position <= target.lsn)
    assume(target.before is None or not base.snapshot.shows(target.before))
    prefix = prefix_of(server, shown, target, beginning.position)
    with closing(Merge()) as merge:
        try:
            laid = lay(chain, beginning, base, target, "7", lambda _: tenant.sealer, merge, [TABLE])
        except BaseTooLate:
            assert any(one not in prefix for one in shown if one in own)
            return
        except Unreached:
            return
        assert all(one in prefix for one in shown if one in own)
        assert laid_over(server.rows(shown), merge) == server.rows(prefix)
        assert_told(laid, server, prefix, beginning.position)


def assert_told(laid: Laid, server: Server, prefix: Sequence[Done], start: int) -> None:
    inside = [one for one in prefix if one in server.own and one.lsn > start]
    assert (laid.last_in.xid if laid.last_in else None) == (inside[-1].xid if inside else None)
    if laid.first_out is not None:
        outside = [one for one in server.own if one not in prefix]
        assert laid.first_out.xid == outside[0].xid
    assert not laid.missing


def test_time_that_nothing_happened_in_is_reached_by_a_fence() -> None:
    """PostgreSQL fails where its log ends before the target: here a fence proves that nothing was committed."""
    server = simple([("f", 0), ("w", 10), ("f", 20), ("f", 90)])
    laid, rows = recovered(server, at=1.5, target=60)
    assert rows == {b"1": b"1\tv1"}
    assert laid.last_in is None or laid.last_in.lsn == 200
    assert laid.first_out is None


def test_a_clock_that_went_back_does_not_take_a_later_commit_in() -> None:
    server = simple([("f", 0), ("w", 10), ("w", 50), ("w", 20), ("f", 60), ("f", 70)])
    _, rows = recovered(server, at=0.5, target=30)
    assert rows == {b"1": b"1\tv1"}


def test_a_moment_after_the_last_fence_is_not_reached() -> None:
    server = simple([("f", 0), ("w", 10), ("f", 20)])
    with pytest.raises(Unreached) as caught:
        recovered(server, at=0.5, target=30)
    assert not caught.value.over


def test_a_truncation_ends_the_table_from_its_commit_on() -> None:
    server = simple([("f", 0), ("w", 10), ("f", 20), ("f", 30), ("w", 40), ("f", 50), ("f", 60)])
    server.events.append(Event(450, "truncate", TABLE, None, "it was truncated", 10_000, at(35)))
    before, _ = recovered(server, at=0.5, target=34)
    assert not before.missing
    after, _ = recovered(server, at=0.5, target=36)
    assert after.missing == {TABLE: "it was truncated"}


def test_the_moment_before_a_truncation_can_be_named_by_its_transaction() -> None:
    server = simple([("f", 0), ("w", 10), ("f", 20), ("f", 30), ("w", 40), ("f", 50), ("f", 60)])
    server.events.append(Event(450, "truncate", TABLE, None, "it was truncated", 10_000, at(35)))
    laid, rows = recovered(server, at=0.5, target=Target(before=10_000))
    assert not laid.missing
    assert rows == {b"1": b"1\tv1"}
    assert laid.first_out is not None
    assert laid.first_out.xid == 10_000


def at(second: int) -> int:
    return 1_768_487_527_000_000 + second * 1_000_000


def simple(steps: Sequence[tuple[str, int]]) -> Server:
    """Fences (f) and transactions that write row 1 (w), one after the other, at these seconds."""
    done = [
        Done(
            (n + 1) * 100,
            1000 + n,
            at(second),
            n + 0.1,
            () if kind == "f" else ((b"1", b"v%d" % n),),
            kind == "f",
            n * 100,
        )
        for n, (kind, second) in enumerate(steps)
    ]
    return Server(done, 1000, 0)


def recovered(server: Server, *, at: float, target: int | Target) -> tuple[Laid, Rows]:
    tenant = TenantKeys("acme", "7")
    chain = chain_of(server, tenant)
    base, shown = server.base(at)
    beginning = chain.begin(base.snapshot.xmin, base.lsn)
    assert beginning is not None
    if isinstance(target, int):
        target = Target(time=commit_time(1_768_487_527_000_000) + timedelta(seconds=target))
    with closing(Merge()) as merge:
        laid = lay(chain, beginning, base, target, "7", lambda _: tenant.sealer, merge, [TABLE])
        return laid, laid_over(server.rows(shown), merge)


def test_a_fence_that_was_being_committed_does_not_prove_what_a_base_shows() -> None:
    """Its id is beyond the snapshot's, and yet a commit that the snapshot shows lies behind it in the log, after the moment."""
    done = [
        Done(100, 1000, at(0), 0.1, fence=True, before=0),
        Done(200, 1002, at(20), 1.9, fence=True, before=0),  # written to the log, and not yet seen to have ended
        Done(300, 1001, at(30), 1.5, ((b"1", b"late"),)),
        Done(400, 1003, at(40), 3.1, fence=True, before=300),
    ]
    with pytest.raises(BaseTooLate):
        recovered(Server(done, 1000, 0), at=1.6, target=10)
