"""Rows of shared tables that went with a tenant's rows: the plan of a restore says that they stay away."""

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
