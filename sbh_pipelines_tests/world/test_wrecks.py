"""Products ruined at random, with all foreign keys and triggers at work: a restore brings everything back, and touches nobody else."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import psycopg2
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from sbh_pipelines.backup.restore.plan import TablePlan
from sbh_pipelines.backup.restore.result import TableResult
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.world.product import Product, State
from sbh_pipelines_tests.world.trial import Trial, server_of_products, trial

NAMES = ("helpdesk", "observability", "scheduler", "ledger")
# What says whose a row of versions is: changed, it would be another tenant's.
DECISIVE = ("item_type",)


@dataclass(frozen=True)
class Blow:
    """One statement against the first tenant.

    Attributes:
        verb: delete, null (a column that may be), or shuffle (values of a text column are changed).
        table: number of the table, modulo how many there are.
        column: number of the column, modulo how many there are.
        every: of so many rows one is hit.
    """

    verb: str
    table: int
    column: int
    every: int


blows = st.lists(
    st.builds(
        Blow,
        st.sampled_from(["delete", "delete", "null", "shuffle"]),
        st.integers(0, 30),
        st.integers(0, 15),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=5,
)
_COLUMNS = """
SELECT quote_ident(attname), atttypid::regtype::text IN ('text', 'character varying'), attnotnull FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"""


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trial]]:
    """Products by name, backed up."""
    directory = tmp_path_factory.mktemp("wrecks")
    with server_of_products(18) as server, ExitStack() as stack:
        made = {name: stack.enter_context(trial(name, server, directory / name)) for name in NAMES}
        for one in made.values():
            for draft in one.service.backups.create_all(one.product.slugs, ADMIN):
                assert draft.error is None
        yield made


def _strike(one: Trial, product: Product, struck: Sequence[Blow]) -> None:
    """What foreign keys do not allow is left undone, as in the application."""
    with closing(one.database.connect()) as connection:
        cursor = connection.cursor()
        for blow in struck:
            table, condition = list(product.tables.items())[blow.table % len(product.tables)]
            mine = f"{condition.replace('{key}', product.keys[one.first])} AND hashtext(t::text) % {blow.every} = 0"
            cursor.execute(_COLUMNS, (table.removeprefix("ONLY "),))
            columns = cursor.fetchall()
            hit = [
                name
                for name, text, fixed in columns
                if name not in DECISIVE and (text if blow.verb == "shuffle" else not fixed)
            ]
            if blow.verb == "delete":
                statement = f"DELETE FROM {table} AS t WHERE {mine}"
            elif not hit or blow.table % len(product.tables) == 0:  # the tenants table: who they are, and where
                continue
            else:
                column = hit[blow.column % len(hit)]
                value = "NULL" if blow.verb == "null" else f"{column} || ' ruined'"
                statement = f"UPDATE {table} AS t SET {column} = {value} WHERE {mine}"
            try:
                cursor.execute(statement)
            except psycopg2.Error:
                continue


def _full_backup(one: Trial) -> str:
    """The first one: all others were made by restores."""
    return str(one.service.list_backups(one.first, ADMIN)[-1]["id"])


def _everything(one: Trial) -> State:
    """All rows of all tables, whoever's they are."""
    return replace(one.product, tables=dict.fromkeys(one.product.tables, "true")).state(one.database, one.first)


def _numbers(tables: Sequence[TablePlan] | Sequence[TableResult]) -> dict[str, tuple[int, ...]]:
    """Rows inserted, updated, deleted, of tables with any."""
    found = {
        t.table: (t.insert, t.update, t.delete) if isinstance(t, TablePlan) else (t.inserted, t.updated, t.deleted)
        for t in tables
    }
    return {table: numbers for table, numbers in found.items() if any(numbers)}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_happened_to_a_tenant(name: str, trials: dict[str, Trial]) -> None:
    one = trials[name]
    product = one.product
    mine, others = product.state(one.database, one.first), one.states()
    backup = _full_backup(one)

    @settings(max_examples=examples(3), phases=[Phase.explicit, Phase.generate])
    @given(blows)
    @example([Blow("shuffle", 7, 0, 1), Blow("delete", 2, 1, 3)])  # rows written since, whose parents come back
    def hunt(struck: Sequence[Blow]) -> None:
        _strike(one, product, struck)
        wrecked = _everything(one)
        plan = one.service.restores.plan(backup, one.first, ADMIN)
        assert plan.problems == ()
        done = one.service.restores.run(backup, one.first, ADMIN, confirm=True)
        assert product.state(one.database, one.first).differs_from(mine) == []
        assert one.states() == others
        assert _numbers(plan.tables) == _numbers(done.tables)
        if any(table.insert or table.update or table.delete for table in plan.tables):
            one.service.restores.undo(done.restore_id, one.first, ADMIN, confirm=True)
            assert _everything(one).differs_from(wrecked) == []
            one.service.restores.run(backup, one.first, ADMIN, confirm=True)
            assert product.state(one.database, one.first).differs_from(mine) == []

    hunt()


def test_rows_written_since_under_a_condition_with_a_sub_query(trials: dict[str, Trial]) -> None:
    """A versioned row was changed and deleted after the backup: what was noted of that goes, and comes again with an undo."""
    one = trials["helpdesk"]
    mine, others = one.product.state(one.database, one.first), one.states()
    backup = _full_backup(one)
    gone = "account_id = 1 AND id % 5 = 0"
    one.database.run(
        f"INSERT INTO versions (item_type, item_id, event) SELECT 'Ticket', id, 'destroy' FROM tickets WHERE {gone}",
        f"DELETE FROM tags_tickets WHERE ticket_id IN (SELECT id FROM tickets WHERE {gone})",
        f"DELETE FROM tickets WHERE {gone}",
    )
    deleted = _everything(one)
    done = one.service.restores.run(backup, one.first, ADMIN, confirm=True)
    assert (one.product.state(one.database, one.first).differs_from(mine), one.states()) == ([], others)
    assert {t.table: t.deleted for t in done.tables if t.deleted} == {"public.versions": 13}
    one.service.restores.undo(done.restore_id, one.first, ADMIN, confirm=True)
    assert _everything(one).differs_from(deleted) == []
    one.service.restores.run(backup, one.first, ADMIN, confirm=True)
    assert one.product.state(one.database, one.first).differs_from(mine) == []
