"""What the doctor suggests for products that it has never seen gives each tenant what the product's witness says is the tenant's."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sbh_pipelines.database.schema.tenancy import load_map
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.doctor.test_suggest import errors, rounds
from sbh_pipelines_tests.support.databases import Database, fresh_database
from sbh_pipelines_tests.world.helpdesk import HELPDESK
from sbh_pipelines_tests.world.ledger import LEDGER
from sbh_pipelines_tests.world.observability import OBSERVABILITY
from sbh_pipelines_tests.world.product import Product
from sbh_pipelines_tests.world.scheduler import SCHEDULER
from sbh_pipelines_tests.world.suite import SUITE


@pytest.fixture
def empty(embedded_stack: Stack) -> Iterator[Database]:
    with fresh_database(embedded_stack) as made:
        yield made


@pytest.mark.parametrize("product", [HELPDESK, LEDGER, OBSERVABILITY, SCHEDULER, SUITE], ids=lambda p: p.name)
def test_a_product_is_mapped_by_what_is_suggested(empty: Database, product: Product) -> None:
    empty.run(product.schema, product.rows)
    start = {"database": {"dsn": empty.dsn}, "storage": {"regions": ["eu-west-1"]}}
    values, made = rounds(start, 2)
    assert errors(values) == [], made[-1].text
    settings = Settings(**values)
    different = {}
    with closing(connect(settings.database, "test")) as connection:
        tenancy = load_map(connection, settings)
        cursor = connection.cursor()
        for table, condition in product.tables.items():
            name = table.removeprefix("ONLY ").replace('"', "")
            mapped = tenancy.find(name if "." in name else f"public.{name}")
            if mapped is None:
                different[table] = "not a tenant's"
                continue
            for slug, literal in product.keys.items():
                cursor.execute(f"SELECT ({literal})::text")
                key = cursor.fetchone()[0]
                cursor.execute(f"SELECT count(*) FROM {mapped.source} WHERE {mapped.tenant_is([key])}")
                found = cursor.fetchone()[0]
                cursor.execute("SET search_path = public, pg_catalog")
                cursor.execute(f"SELECT count(*) FROM {table} AS t WHERE {condition.replace('{key}', literal)}")
                if found != (wanted := cursor.fetchone()[0]):
                    different[f"{table} of {slug}"] = f"{found}, not {wanted}: {mapped.why}"
    assert different == {}
