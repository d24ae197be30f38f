"""Rows that went with a tenant's rows, of shared tables or of tables that were not chosen: a restore says that they stay away."""

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application


def test_the_plan_names_shared_tables_whose_rows_went_with_the_tenants(application: Application) -> None:
    application.database.run(
        "CREATE TABLE seen (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE CASCADE)",
        "CREATE TABLE users (id int PRIMARY KEY, last_project int REFERENCES projects ON DELETE SET NULL)",
        "INSERT INTO seen VALUES (1, 1); INSERT INTO users VALUES (1, 1)",
    )
    service = application.service(database={"shared": ["seen", "users"]})
    service.create_backup(ACME, ADMIN)
    assert service.restores.plan("latest", ACME, ADMIN).left_out == {}
    application.database.run(
        "UPDATE projects SET lead = NULL WHERE tenant_id = 1; DELETE FROM items WHERE project_id IN (SELECT id FROM projects WHERE tenant_id = 1);"
        " DELETE FROM projects WHERE tenant_id = 1"
    )
    left_out = service.restores.plan("latest", ACME, ADMIN).left_out
    seen, users = left_out["shared table public.seen"], left_out.get("shared table public.users", "")
    assert ("20 rows of public.projects" in seen, "ON DELETE CASCADE" in seen) == (True, True)
    assert "ON DELETE SET NULL" in users
    service.restores.run("latest", ACME, ADMIN, confirm=True)
    assert service.restores.plan("latest", ACME, ADMIN).left_out == {}


def test_tables_that_were_not_chosen_and_whose_rows_went_are_named(application: Application) -> None:
    """To any depth; not where all rows are there, nor where the tables are chosen as well."""
    application.database.run(
        "CREATE TABLE bills (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);"
        "CREATE TABLE lines (id int PRIMARY KEY, bill_id int NOT NULL REFERENCES bills ON DELETE CASCADE);"
        "CREATE TABLE taxes (line_id int PRIMARY KEY REFERENCES lines ON DELETE CASCADE);"
        "CREATE TABLE marks (id int PRIMARY KEY, bill_id int REFERENCES bills ON DELETE SET NULL, tenant_id int NOT NULL)",
        "INSERT INTO bills SELECT n, 1 + n % 2 FROM generate_series(1, 10) n; INSERT INTO lines SELECT n, 1 + n % 10 FROM generate_series(1, 40) n",
        "INSERT INTO taxes SELECT n FROM generate_series(1, 40, 4) n; INSERT INTO marks SELECT n, n, 1 + n % 2 FROM generate_series(1, 10) n",
    )
    service, chosen = application.service(restore={"safety_backup": False}), RestoreRequest(tables=("bills",))
    service.create_backup(ACME, ADMIN)
    assert service.restores.plan("latest", ACME, ADMIN, chosen).left_behind == ()
    application.database.run("DELETE FROM bills WHERE id = 2 OR id = 4")
    plan = service.restores.plan("latest", ACME, ADMIN, chosen)
    found = [(one.table, one.parent, one.rows) for one in plan.left_behind]
    assert found == [("public.lines", "public.bills", 8), ("public.taxes", "public.lines", 4)]
    both = RestoreRequest(tables=("bills", "lines", "taxes"))
    assert service.restores.plan("latest", ACME, ADMIN, both).left_behind == ()
    assert [one.table for one in service.restores.run("latest", ACME, ADMIN, chosen).left_behind] == [
        "public.lines",
        "public.taxes",
    ]
