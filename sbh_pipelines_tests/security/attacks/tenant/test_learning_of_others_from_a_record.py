"""A tenant's viewer, or whoever sees runs of Dagster, wants to know which other tenant holds a key, or keys of rows, from a failed restore.

What stops them: an administrator of the platform is told, and what is kept, the restore's record and a run's events, names neither.
"""

import dagster as dg
import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import RestoreConflict, RestoreRefused, SbhError
from sbh_pipelines.orchestration.common.failures import failure_of
from sbh_pipelines.orchestration.restores.discretion import without
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application

_VIEWER = UserContext("vic", ACME, Role.VIEWER)
_KEY = "ann@example.com"
_TABLES = f"""
CREATE TABLE accounts (email text PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants);
CREATE TABLE favourites (id int PRIMARY KEY, email text NOT NULL REFERENCES accounts);
INSERT INTO accounts VALUES ('{_KEY}', 1), ('other', 1), ('third', 2);
INSERT INTO favourites VALUES (1, 'third');
"""


def _texts(application: Application, error: SbhError) -> str:
    """All that others can see of it."""
    failure: dg.Failure = failure_of(error, [ACME], "restore")
    records = application.service(database={"shared": []}).restores.of(ACME, _VIEWER)
    shown = [failure.description, *map(str, failure.metadata.values()), str(without(error, RestoreRequest()))]
    return " ".join([*map(str, shown), *(str(as_document(record)) for record in records)])


def test_a_key_that_another_tenant_has_now(application: Application) -> None:
    application.database.run(_TABLES)
    service = application.service()
    service.create_backup(ACME, ADMIN)
    application.database.run(f"UPDATE accounts SET tenant_id = 2 WHERE email = '{_KEY}'")
    with pytest.raises(RestoreConflict) as caught:
        service.restores.run("latest", ACME, ADMIN)
    assert f"held by rows of {BOLT}: email = {_KEY}" in caught.value.why  # to the administrator
    seen = _texts(application, caught.value)
    assert "held by rows of another tenant" in seen
    assert _KEY not in seen
    assert BOLT not in seen


def test_rows_that_refer_to_what_would_go(application: Application) -> None:
    application.database.run(_TABLES)
    service = application.service()
    service.create_backup(ACME, ADMIN)
    application.database.run(
        "INSERT INTO accounts VALUES ('new@example.com', 1); INSERT INTO favourites VALUES (2, 'new@example.com')"
    )
    request = RestoreRequest(tables=("accounts",))
    with pytest.raises(RestoreRefused) as caught:
        service.restores.run("latest", ACME, ADMIN, request)
    assert "new@example.com" in str(caught.value)
    seen = _texts(application, caught.value)
    assert "rows of public.favourites" in seen
    assert "new@example.com" not in seen
