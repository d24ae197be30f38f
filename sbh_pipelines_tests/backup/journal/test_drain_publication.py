"""Whose publication it is: a drain leaves another's as it is, and takes away its own that it cannot use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sbh_pipelines.backup.journal.giving_up import give_up
from sbh_pipelines.errors import JournalError, SlotTrouble
from sbh_pipelines_tests.support.journal import Journaled, journal_of, logical_server
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

STATE = "SELECT pubname::text, tablename::text FROM pg_publication_tables ORDER BY 1, 2"
SLOTS = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
ANOTHERS = [("warehouse", "items"), ("warehouse", "stock")]


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with logical_server() as made:
        yield made


def use_warehouse(journaled: Journaled) -> None:
    """Another tool's publication, by its name in the settings."""
    journaled.run("CREATE TABLE stock (id int PRIMARY KEY)", "CREATE PUBLICATION warehouse FOR TABLE stock, items")
    section = {"enabled": True, "dsn": "user=sbh_admin", "publication": "warehouse"}
    journaled.sections = {"journal": section}
    journaled.settings = journaled.configured()


@pytest.mark.parametrize("drained", [False, True])
def test_anothers_publication_is_left_as_it_is(server: OwnServer, tmp_path: Path, drained: bool) -> None:
    """Also where there is a chain, which does not end for it, and where the journal is given up."""
    with journal_of(server, tmp_path, drained=drained) as journaled:
        use_warehouse(journaled)
        before = journaled.database.ask(STATE), journaled.database.ask(SLOTS)
        with pytest.raises(JournalError, match="another's") as raised:
            journaled.drain()
        assert "stock" in raised.value.why
        assert 'publication = "' in raised.value.remedy
        assert "DROP PUBLICATION" in raised.value.remedy
        assert (journaled.database.ask(STATE), journaled.database.ask(SLOTS)) == before
        assert journaled.site().journal("eu-west-1").gaps() == []
        assert give_up(journaled.site()).left
        assert set(ANOTHERS) <= set(journaled.database.ask(STATE))


def test_our_own_is_known_by_its_comment(server: OwnServer, tmp_path: Path) -> None:
    """Whatever table somebody added to it; and by the chain, where somebody took the comment away."""
    with journal_of(server, tmp_path) as journaled:
        before = journaled.database.ask(STATE)
        journaled.run("CREATE TABLE stock (id int PRIMARY KEY)")
        for statement in ("SELECT 1", "COMMENT ON PUBLICATION sbh_journal IS NULL"):
            journaled.run(statement, "ALTER PUBLICATION sbh_journal ADD TABLE stock")
            assert journaled.drain().gap is None
            assert journaled.database.ask(STATE) == before
        assert not give_up(journaled.site()).left
        assert journaled.database.ask(STATE) == []


def test_one_of_the_tenants_tables_may_be_made_beforehand(server: OwnServer, tmp_path: Path) -> None:
    with journal_of(server, tmp_path, drained=False) as journaled:
        journaled.run("CREATE PUBLICATION sbh_journal FOR TABLE ONLY items")
        assert journaled.drain().gap is None
        assert not give_up(journaled.site()).left


def test_a_publication_that_cannot_be_altered_ends_no_chain(server: OwnServer, tmp_path: Path) -> None:
    """The right to it is asked for before what there is is given up."""
    with journal_of(server, tmp_path) as journaled:
        journaled.run("CREATE PUBLICATION newer FOR TABLE ONLY items", "CREATE ROLE reader LOGIN REPLICATION")
        journaled.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        try:
            journaled.sections = {"journal": {"enabled": True, "dsn": "user=reader", "publication": "newer"}}
            journaled.settings = journaled.configured()
            before = journaled.database.ask(SLOTS)
            with pytest.raises(JournalError, match="another publication"):
                journaled.drain()
            assert journaled.database.ask(SLOTS) == before
            assert journaled.site().journal("eu-west-1").gaps() == []
        finally:
            journaled.run("DROP OWNED BY reader; DROP ROLE reader")


def test_a_setup_that_cannot_make_its_slot_leaves_nothing(tmp_path: Path) -> None:
    """A server that cannot decode."""
    with own_server(18, wal_level="replica") as plain, journal_of(plain, tmp_path, drained=False) as journaled:
        with pytest.raises(SlotTrouble, match="wal_level") as raised:
            journaled.drain()
        assert "taken away again" in str(raised.value)
        assert journaled.database.ask("SELECT count(*) FROM pg_publication") == [(0,)]
        journaled.run("CREATE PUBLICATION sbh_journal FOR TABLE ONLY items")
        with pytest.raises(SlotTrouble, match="wal_level"):
            journaled.drain()
        assert ("sbh_journal", "items") in journaled.database.ask(STATE)
