"""Who owns a mapped table puts code into it, which the planner, a CHECK or a trigger calls, and wants it to write as the backup role.

What stops them: what only looks is READ ONLY for good; a restore's proof is the last thing before its commit, and looks at the
catalogue as well; `sbh doctor` says whose code runs. What such code reads is not held.
"""

import pytest

from sbh_pipelines.doctor import database
from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.errors import ProofFailed
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

# The planner evaluates an immutable function of a constant whenever it looks at the predicates of a table's indexes.
_TRAP = """
CREATE FUNCTION springs() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF session_user <> 'sbh_backup' THEN RETURN true; END IF;
    PERFORM set_config('default_transaction_read_only', 'off', false);
    BEGIN SET TRANSACTION READ WRITE; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN IF {when} THEN {what}; END IF; EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN true; END $$;
CREATE FUNCTION trap(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.springs(); END $$;
CREATE INDEX trap ON {table} ((1)) WHERE trap(1);
"""
_WRITE = "INSERT INTO public.spoils VALUES (session_user, current_query())"
# Once the rows that were written are counted, and are read back.
_LATE = "EXISTS (SELECT FROM pg_stat_xact_user_tables WHERE relname = 'notes' AND n_tup_ins > 0) AND current_query() ~ '^COPY'"
_EXCLUDED = {"excluded": ["spoils"]}


@pytest.fixture(autouse=True)
def spoils(application: Application) -> None:
    application.database.run("CREATE TABLE spoils (who text, said text); GRANT INSERT ON spoils TO PUBLIC")


def _set(application: Application, table: str, *, when: str = "true", what: str = _WRITE) -> None:
    application.database.run(_TRAP.format(table=table, when=when, what=what))


def _spoils(application: Application) -> list[tuple[str, ...]]:
    return application.database.ask("SELECT * FROM spoils")


@pytest.mark.parametrize("table", ["tenants", "notes"])
def test_what_only_looks_writes_nothing(application: Application, table: str) -> None:
    """Also where the code turns the session's default off, and tries again with the next statement."""
    service = application.service(database=_EXCLUDED)
    _set(application, table)
    for _ in range(2):
        assert [str(tenant.id) for tenant in service.tenants.all()] == ["acme", "bolt"]
        database.check(Report(), application.configured(database=_EXCLUDED), lambda _: None)
    service.backups.create(ACME, ADMIN)
    service.restores.plan("latest", ACME, ADMIN)
    assert _spoils(application) == []


@pytest.mark.parametrize(
    "trap",
    [
        {},
        {"when": _LATE},
        {"what": "EXECUTE 'CREATE SCHEMA app'"},  # found by every session of that role in place of the application's
        {"what": "EXECUTE 'GRANT CREATE ON SCHEMA mine TO PUBLIC'"},
        {"when": _LATE, "what": "EXECUTE 'CREATE SCHEMA app'"},
    ],
    ids=["rows", "late rows", "a schema", "a grant", "a late schema"],
)
def test_what_code_writes_during_a_restore_is_rolled_back(application: Application, trap: dict[str, str]) -> None:
    service = application.service(database=_EXCLUDED)
    application.database.run(
        f"GRANT CREATE ON DATABASE {application.database.name} TO sbh_backup; CREATE SCHEMA mine AUTHORIZATION sbh_backup"
    )
    service.backups.create(ACME, ADMIN)
    _set(application, "notes", **trap)
    application.wreck(ACME)
    with pytest.raises(ProofFailed):
        service.restores.run("latest", ACME, ADMIN)
    assert _spoils(application) == []
    assert (
        application.database.ask(
            "SELECT FROM pg_namespace WHERE nspname = 'app' OR (nspname = 'mine' AND nspacl IS NOT NULL)"
        )
        == []
    )


def test_a_trigger_that_waits_for_the_commit(application: Application) -> None:
    """It fires before the rows are counted."""
    service = application.service(database=_EXCLUDED)
    service.backups.create(ACME, ADMIN)
    application.database.run(
        f"CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_WRITE}; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()",
        "ALTER TABLE notes ENABLE ALWAYS TRIGGER later",
    )
    application.wreck(ACME)
    with pytest.raises(ProofFailed):
        service.restores.run("latest", ACME, ADMIN)
    assert _spoils(application) == []
