"""Each product on each version of PostgreSQL: doctor, backups, every kind of damage, restores, undo, export, drill, rebuild."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from sbh_pipelines import doctor
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.doctor.findings import Level
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.own_server import OwnServer
from sbh_pipelines_tests.world.trial import PRODUCTS, Trial, server_of_products, trial


@pytest.fixture(scope="module", params=[18, 15])
def server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with server_of_products(request.param) as made:
        yield made


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_through_every_verb(name: str, server: OwnServer, tmp_path: Path) -> None:
    with trial(name, server, tmp_path / name) as made:
        product, service = made.product, made.service
        found = [
            f
            for f in doctor.examine(made.settings).findings
            if f.level is Level.ERROR and f.area in ("database", "tenancy", "tenants")
        ]
        assert found == []

        for draft in service.backups.create_all(product.slugs, ADMIN):
            assert draft.error is None
        made.database.run(product.changes)
        for draft in service.backups.create_all(product.slugs, ADMIN, "incremental"):
            assert draft.error is None
        others, mine = made.states(), product.state(made.database, made.first)

        for wreck in product.wrecks:
            made.database.run(wreck)
            wrecked = product.state(made.database, made.first)
            assert wrecked.differs_from(mine), wreck
            plan = service.restores.plan("latest", made.first, ADMIN)
            assert plan.problems == (), wreck
            done = service.restores.run(plan.backup_id, made.first, ADMIN, confirm=True)
            assert product.state(made.database, made.first).differs_from(mine) == [], wreck
            assert made.states() == others, wreck

        service.restores.undo(done.restore_id, made.first, ADMIN, confirm=True)
        assert product.state(made.database, made.first).differs_from(wrecked) == []
        service.restores.run(plan.backup_id, made.first, ADMIN, confirm=True)
        assert product.state(made.database, made.first).differs_from(mine) == []

        _one_table(made)
        _exported(made, tmp_path / "out")
        _rebuilt(made)


def _one_table(made: Trial) -> None:
    """Only one table is brought back; the others stay as they are."""
    table, ruin = made.product.part
    before = made.product.state(made.database, made.first)
    made.database.run(ruin)
    assert len(made.product.state(made.database, made.first).differs_from(before)) == 1
    request = RestoreRequest(tables=(table.replace('"', ""),))
    made.service.restores.run("latest", made.first, ADMIN, request, confirm=True)
    assert made.product.state(made.database, made.first).differs_from(before) == []


def _exported(made: Trial, folder: Path) -> None:
    """As many rows in each file as the tenant has in the table."""
    made.service.exports.export("latest", made.first, ADMIN, folder, format="csv")
    rows = made.product.state(made.database, made.first).rows
    for table, text in rows.items():
        name = table.removeprefix("ONLY ").replace('"', "")
        (file,) = folder.rglob(f"{name if '.' in name else 'public.' + name}.csv")
        with file.open(newline="") as opened:
            assert len(list(csv.reader(opened))) - 1 == text.count(b"\n"), table


def _rebuilt(made: Trial) -> None:
    """A drill passes; an empty database gets everything."""
    made.service.platform.create(ADMIN)
    for draft in made.service.backups.create_all(made.product.slugs, ADMIN):
        assert draft.error is None
    record = made.service.drills.run(made.first, ADMIN)
    assert (record.status, record.error) == ("passed", None), [one for one in record.scenarios if one.error]
    empty = made.server.create_database(f"{made.product.name}_anew")
    try:
        dsn = make_dsn(made.server.dsn(), dbname=empty.name)
        assert made.service.platform.recover(dsn, ADMIN, confirm=True).status == "completed"
        for slug in made.product.slugs:
            assert made.product.state(empty, slug).differs_from(made.product.state(made.database, slug)) == []
        assert made.product.common_state(empty).differs_from(made.product.common_state(made.database)) == []
    finally:
        made.server.drop_database(empty.name)
