"""A tenant to whom nothing happens has no new backup: a tick that found it unchanged is where its moments begin, too."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sbh_pipelines.backup.create.draft import DraftStatus
from sbh_pipelines.backup.journal.view.unchanged import unchanged_at
from sbh_pipelines.errors import MomentOutOfReach
from sbh_pipelines.model import BackupId, RecoveryPoint, TenantId, parse_timestamp
from sbh_pipelines.repository.catalog.records import TenantRecord, TenantState
from sbh_pipelines_tests.backup.create.moment.recovered import ADMIN, SLUGS, Recovered, recovered_application
from sbh_pipelines_tests.support.journal import logical_server
from sbh_pipelines_tests.support.own_server import OwnServer


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        yield made


@pytest.fixture
def application(server: OwnServer, tmp_path: Path) -> Iterator[Recovered]:
    """Its journal begins behind every backup."""
    with recovered_application(server, tmp_path) as made:
        made.database.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        made.drain()
        yield made


def tick(application: Recovered) -> None:
    drafts = application.service.backups.create_all(list(SLUGS.values()), ADMIN, "incremental")
    assert {draft.status for draft in drafts} == {DraftStatus.UNCHANGED}


def test_a_tick_that_found_nothing_changed_is_where_moments_begin(application: Recovered) -> None:
    """What happened later is laid over the old backup; before the tick nothing is known."""
    before = application.keep()
    with pytest.raises(MomentOutOfReach):
        application.recover(1, before.at)
    tick(application)
    kept = [
        application.keep(),
        application.do("INSERT INTO projects VALUES (900, 1, 'new', NULL)"),
        application.do(
            "UPDATE projects SET title = 'later' WHERE id = 900", "DELETE FROM projects WHERE tenant_id = 2"
        ),
    ]
    application.drain()
    for moment in kept:
        for tenant in SLUGS:
            manifest = application.recover(tenant, moment.at)
            assert application.stored(tenant, manifest) == moment.rows[tenant]
            assert manifest.is_recovered
    with pytest.raises(MomentOutOfReach):
        application.recover(1, before.at)
    (shown,) = application.service.journal.recovery_windows([TenantId("crab")], ADMIN).tenants
    last = shown.windows[-1]
    assert before.at < parse_timestamp(last.start) < kept[0].at
    assert parse_timestamp(last.end) > kept[-1].at


def test_what_the_catalog_says_of_another_tenant_counts_for_nothing() -> None:
    """A slug may have been another tenant's when the tick saw it."""
    point = RecoveryPoint("2026-01-02T03:04:05Z", "5:7:", "0/1", "7", 1, 180000, "app")
    record = TenantRecord(TenantId("acme"), BackupId("b"), point, TenantState("s", {}, None, "1"), unchanged=True)
    assert unchanged_at(record, "1") == point
    assert unchanged_at(record, "2") is None
    assert unchanged_at(replace(record, unchanged=False), "1") is None
    assert unchanged_at(replace(record, state=None), "1") is None
    assert unchanged_at(None, "1") is None
