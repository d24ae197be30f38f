"""What is done with a backup of a moment: looked at beside the live rows, exported, drilled, approved, taken away in time."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.journal.fold import Merge
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.errors import ApprovalNeeded, InvalidId, JournalGap, NotJournaled
from sbh_pipelines.model import TenantId, utc_now
from sbh_pipelines.repository.journal.segments.changes import Change, Layout, Op
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, Kept, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as running:
        yield running


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    with recovered_application(server, tmp_path) as made:
        yield made


@pytest.fixture
def good(application: Recovered) -> Kept:
    made = application.do("UPDATE items SET title = 'good' WHERE id < 9; DELETE FROM comments WHERE id > 50")
    application.do("DELETE FROM comments; UPDATE items SET title = 'bad'")
    return made


def test_it_is_put_beside_the_live_rows(application: Recovered, good: Kept) -> None:
    application.run(f"GRANT CREATE ON DATABASE {application.database.name} TO {postgres.BACKUP}")
    copy = application.service.restores.into_schema(f"@{good.at.isoformat()}", "acme", ADMIN, "look")
    rows = application.database.copy(f"SELECT title FROM {copy.schema}.items WHERE id < 9").split(b"\n")[:-1]
    assert rows == [b"good"] * len(rows)
    assert rows


def test_it_is_exported(application: Recovered, good: Kept, tmp_path: Path) -> None:
    made = application.recover(1, good.at)
    with application.service.exports.open(made.id, "acme", ADMIN) as backup:
        rows = [row for batch in backup.read_rows("items") for row in batch]
    assert {row["title"] for row in rows if row["id"] < 9} == {"good"}


def test_what_is_approved_is_the_backup_that_was_put_together(application: Recovered, good: Kept) -> None:
    careful = application.settings.model_copy(
        update={"approval": application.settings.approval.model_copy(update={"restore": "two-person"})}
    )
    service = BackupService(careful)
    asking, other = (UserContext(name, "*", Role.ADMIN) for name in ("ann", "bob"))
    moment = f"@{good.at.isoformat()}"
    asked = service.approvals.request_restore(moment, "acme", asking, reason="a bad statement")
    service.approvals.approve(asked.approval_id, "acme", other)
    result = service.restores.run(moment, "acme", asking, approval_id=asked.approval_id)
    assert application.rows(1) == good.rows[1]
    with pytest.raises(ApprovalNeeded):
        service.restores.run(result.backup_id, "acme", asking)


def test_it_goes_when_its_days_are_over(application: Recovered, good: Kept) -> None:
    made = application.recover(1, good.at)
    later = BackupService(application.settings, clock=lambda: utc_now() + timedelta(days=4))
    assert (
        made.id not in later.retention.forget("acme", ADMIN).forgotten
    )  # there is no newer backup: no time has gone by
    later.backups.create("acme", ADMIN, "full")
    assert made.id not in {manifest.id for manifest in later.backups.of("acme", ADMIN)}


def test_a_table_with_another_definition_is_refused_for_that(application: Recovered) -> None:
    before = application.do("UPDATE items SET title = 'good' WHERE id < 9")
    application.drain()
    application.do("ALTER TABLE items ADD COLUMN rank int")
    application.drain()
    added = application.do("UPDATE items SET rank = 1")
    application.drain()
    assert application.stored(1, application.recover(1, added.at)) == added.rows[1]
    application.do("ALTER TABLE items ALTER COLUMN rank TYPE text")
    application.drain()
    after = application.do("UPDATE items SET rank = 'one'; UPDATE projects SET title = 'after'")
    assert application.stored(1, application.recover(1, before.at)) == before.rows[1]
    with pytest.raises(NotJournaled) as caught:
        application.recover(1, after.at)
    assert "public.items: its definition is another" in caught.value.why
    application.back_up("incremental", 1)
    application.drain()
    last = application.do("UPDATE items SET rank = 'two' WHERE id > 5")
    assert application.stored(1, application.recover(1, last.at)) == last.rows[1]


def test_moments_are_written_in_three_ways() -> None:
    assert Target.parse("2026-01-15T14:32:07.5").text == "2026-01-15T14:32:07.500000Z"
    assert Target.parse("@2026-01-15T14:32+01:00").text == "2026-01-15T13:32:00Z"
    assert Target.parse("@xid:812345") == Target(before=812345)
    assert Target.parse("lsn:16/B374D848").text == "lsn:16/B374D848"
    for text in ("yesterday", "xid:", "xid:-1", "xid:2", "lsn:x", "lsn:0/0", "xid:99999999999999999999"):
        with pytest.raises(InvalidId):
            Target.parse(text)
    for target in (Target.parse("2026-01-15T14:32:07.5"), Target(before=9), Target(lsn=7)):
        assert Target.parse(target.text) == target


def test_a_tenants_own_key_opens_its_part_alone(application: Recovered, good: Kept) -> None:
    """What the others did in the same transaction is not in it."""
    application.do("UPDATE projects SET title = 'all'")
    moment = application.keep()
    for tenant in (1, 2, 3):
        assert application.stored(tenant, application.recover(tenant, moment.at)) == moment.rows[tenant]
    assert application.service.tenants.find(TenantId("acme")).key == "1"


@pytest.mark.parametrize(("told", "why"), [(Op.UPDATE, "does not have"), (Op.INSERT, "the base has")])
def test_a_journal_that_does_not_fit_the_backup_is_refused(
    application: Recovered, monkeypatch: pytest.MonkeyPatch, told: Op, why: str
) -> None:
    """As if something had been done past it: nothing is published, and the lease is free."""
    done = (
        "INSERT INTO items VALUES (900, 3, 'new')" if told is Op.UPDATE else "UPDATE items SET title = 'x' WHERE id = 1"
    )
    kept = application.do(done)
    add = Merge.add

    def other(self: Merge, group: object, layout: Layout, change: Change) -> None:
        add(self, group, layout, replace(change, op=told))

    monkeypatch.setattr(Merge, "add", other)
    tenant = next(t for t in (1, 2, 3) if kept.rows[t]["public.items"].keys() & {b"900" if told is Op.UPDATE else b"1"})
    with pytest.raises(JournalGap) as caught:
        application.recover(tenant, kept.at)
    assert why in caught.value.why
    monkeypatch.undo()
    assert application.stored(tenant, application.recover(tenant, kept.at)) == kept.rows[tenant]
