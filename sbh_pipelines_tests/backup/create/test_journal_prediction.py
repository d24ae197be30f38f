"""A full backup holds what the journal told against what it read: what differs is found at once, and nothing builds on it."""

from collections.abc import Callable
from typing import Any

import pytest

from sbh_pipelines.backup.create.draft import Draft
from sbh_pipelines.backup.create.journaled import prediction
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.routing.tenant_blocks import TenantBlocks
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.errors import NotJournaled, SourceError
from sbh_pipelines.model import utc_now
from sbh_pipelines.repository.journal.gaps import PREDICTION_FAILED, Gap
from sbh_pipelines.repository.journal.segments.changes import Op
from sbh_pipelines_tests.backup.create.test_journal_incremental import BOTH, CHANGES, TABLES, folding, server
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.folding import Folding

__all__ = ["folding", "server"]

Lose = Callable[[Op], None]


def gaps(folding: Folding) -> list[Gap]:
    return Site(folding.settings, utc_now).journal("eu-west-1").gaps()


def figures(draft: Draft) -> list[int]:
    """Tables that were compared, that differ, that were not compared."""
    return [int(draft.counters[f"journal_{name}"]) for name in ("compared", "differs", "uncompared")]


def read_only(folding: Folding) -> list[Draft]:
    """The drafts of full backups whose run ends when the tables are read."""
    backups = folding.service.backups
    drafts = backups.snapshot_tables(backups.begin(BOTH, ADMIN, "full"))
    backups.abandon(drafts)
    return drafts


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Has the next drains lose the first change of docs of this kind of the tenant 1."""

    def start(op: Op) -> None:
        add, lost = TenantBlocks.add, list[bytes]()

        def but_one(
            blocks: TenantBlocks,
            tenant: bytes,
            at: tuple[int, int, int],
            layout: int,
            kind: bytes,
            key: bytes,
            row: bytes,
        ) -> None:
            if kind == op.value.encode() and tenant == b"1" and not lost:
                lost.append(key)
            else:
                add(blocks, tenant, at, layout, kind, key, row)

        monkeypatch.setattr(TenantBlocks, "add", but_one)

    return start


def test_a_busy_history_leads_to_what_is_read(folding: Folding) -> None:
    """Through incrementals and drains, from one full backup to the next."""
    for nth in range(2):
        for at, change in enumerate(CHANGES):
            folding.database.run(
                change.replace("1000", str(10000 + nth))
                .replace("1001", str(11000 + nth))
                .replace("2000", str(20000 + nth))
                .replace("'x'", f"'x{nth}'")
            )
            if at == 3:
                folding.drain()
            if at == 5 and nth:
                folding.back_up(BOTH)
        for draft in folding.back_up(BOTH, "full"):
            assert figures(draft) == [len(TABLES), 0, 0]
    assert gaps(folding) == []


@pytest.mark.parametrize(
    ("op", "statement"),
    [
        (Op.INSERT, "INSERT INTO docs VALUES (7001, 1, 'lost', NULL)"),
        (Op.DELETE, "DELETE FROM docs WHERE id = 7000"),
    ],
)
def test_a_change_that_the_journal_lost(folding: Folding, lose: Lose, op: Op, statement: str) -> None:
    """The full backup is what the tables are; the journal is believed of all else, and of that from the full backup on."""
    folding.database.run("INSERT INTO docs VALUES (7000, 1, 'there', NULL)")
    folding.back_up(BOTH)
    lose(op)
    folding.database.run("UPDATE tokens SET body = 'told' WHERE id::text < '1'", statement)
    folding.drain()
    moment = utc_now()
    acme, bolt = read_only(folding)
    assert (figures(acme), figures(bolt)) == ([len(TABLES), 1, 0], [len(TABLES), 0, 0])
    (gap,) = gaps(folding)
    assert (gap.kind, gap.table, gap.tenant) == (PREDICTION_FAILED, "public.docs", "1")
    acme, _ = read_only(folding)
    assert figures(acme) == [len(TABLES) - 1, 0, 1]
    assert gaps(folding) == [gap]
    (event,) = folding.service.audit.events(ADMIN, "acme", event=prediction.DIFFERS).events
    assert event.props["tables"] == {"public.docs": gap.why}

    # None of the two was committed: what comes next builds on the backup before.
    with pytest.raises(NotJournaled, match=r"public\.docs: the journal has a gap: the full backup read") as refused:
        folding.service.backups.create_at("acme", ADMIN, Target(time=moment))
    assert "public.tasks: " not in str(refused.value.why)
    folding.service.backups.create_at("bolt", ADMIN, Target(time=moment))
    acme, bolt = folding.back_up(BOTH)
    assert acme.reread.keys() == {"public.docs"}
    assert gap.why in acme.reread["public.docs"]
    assert bolt.reread == {}

    folding.database.run("UPDATE docs SET body = 'later' WHERE id < 20")
    for draft in folding.back_up(BOTH):
        assert draft.reread == {}
    for draft in folding.back_up(BOTH, "full"):
        assert figures(draft) == [len(TABLES), 0, 0]
    assert gaps(folding) == [gap]


def test_after_the_full_backup_that_found_it_all_goes_on(folding: Folding, lose: Lose) -> None:
    lose(Op.INSERT)
    folding.database.run("INSERT INTO docs VALUES (7001, 1, 'lost', NULL)")
    folding.drain()
    acme, _ = folding.back_up(BOTH, "full")
    assert figures(acme) == [len(TABLES), 1, 0]
    folding.database.run("UPDATE docs SET body = 'told' WHERE id < 20")
    for kind in ("incremental", "differential"):
        for draft in folding.back_up(BOTH, kind):
            assert draft.reread == {}
    folding.drain()
    windows = folding.service.journal.recovery_windows(["acme"], ADMIN).tenants[0]
    assert any("read" in window.why for window in windows.windows), windows
    assert windows.windows[-1].start != windows.windows[-1].end
    folding.service.backups.create_at("acme", ADMIN, Target(time=utc_now()))


def test_an_incremental_that_the_journal_misled_is_found_out(folding: Folding, lose: Lose) -> None:
    """The next full backup is right. No moment since the full one before is told, and it is said that backups may be wrong."""
    lose(Op.INSERT)
    folding.database.run(
        "INSERT INTO docs VALUES (7001, 1, 'lost', NULL); INSERT INTO docs VALUES (7003, 1, 'told', NULL)"
    )
    folding.drain()
    moment = utc_now()
    folding.service.backups.create_all(list(BOTH), ADMIN, "incremental")
    folding.drain()
    later = utc_now()
    acme, _ = folding.back_up(BOTH, "full")
    assert figures(acme) == [len(TABLES), 1, 0]
    (gap,) = gaps(folding)
    assert "may have been misled" in gap.why
    for at in (moment, later):
        with pytest.raises(NotJournaled, match="misled"):
            folding.service.backups.create_at("acme", ADMIN, Target(time=at))


def test_a_proof_that_fails_fails_no_backup(folding: Folding, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise SourceError("The server does not answer")

    monkeypatch.setattr(prediction, "hash_keys", fail)
    folding.database.run("INSERT INTO docs VALUES (7001, 1, 'new', NULL)")
    acme, bolt = folding.back_up(BOTH, "full")
    assert (figures(acme), figures(bolt)) == ([len(TABLES) - 1, 0, 1], [len(TABLES), 0, 0])
    monkeypatch.setattr(prediction, "connect", fail)
    acme, _ = folding.back_up(BOTH, "full")
    assert figures(acme) == [0, 0, len(TABLES)]
    assert gaps(folding) == []


def test_what_the_journal_does_not_cover_is_not_compared(folding: Folding) -> None:
    folding.database.run("TRUNCATE tasks", "CREATE TABLE notes (id int PRIMARY KEY, tenant_id int, body text)")
    for draft in folding.back_up(BOTH, "full"):
        assert figures(draft) == [len(TABLES) - 1, 0, 2]
