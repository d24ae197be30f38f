"""Restores of every scope in every mode to every target, against a second implementation of what must come of it.

One application for the whole module. Before each case its rows and files are put back as they were when it was backed up,
then damaged from a seed. The plan must write nothing and its numbers must be what then happens; nobody else's rows move.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import RestoreRefused
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT
from sbh_pipelines_tests.support.restore.expectations import MISSING_ONLY
from sbh_pipelines_tests.support.restore.sample_application import MODEL
from sbh_pipelines_tests.support.restore.trial import MODES, SCOPES, SEEDS, RestoreTrial, numbers, restore_trial


@pytest.fixture(scope="module")
def trial(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestoreTrial]:
    with restore_trial(embedded_stack, tmp_path_factory.mktemp("restores")) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", SCOPES)
def test_in_place(trial: RestoreTrial, scope: str, mode: str) -> None:
    trial.restored(SCOPES[scope], mode, SEEDS[mode][0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", [name for name, scope in SCOPES.items() if not scope.files or not scope.request])
def test_into_another_database(trial: RestoreTrial, scope: str, mode: str) -> None:
    """The rows of the other database are merged; the files stay as they are."""
    trial.restored(SCOPES[scope], mode, SEEDS[mode][1], trial.other)


def test_into_another_database_nothing_happens_to_the_first(trial: RestoreTrial) -> None:
    trial.sample.reset()
    trial.sample.damage(50)
    before = trial.sample.snapshot()
    trial.sample.reset(trial.other)
    trial.other.run("DELETE FROM comments WHERE id % 3 = 0")
    service = trial.sample.service()
    service.restore_backup(trial.backup_id, ACME, ADMIN, into_database=trial.other.dsn)
    after = trial.sample.snapshot()
    assert (after.rows, after.places, after.sequences) == (before.rows, before.places, before.sequences)


@pytest.mark.parametrize("tables", [(), ("tasks", "public.notes")])
def test_into_a_schema(trial: RestoreTrial, tables: tuple[str, ...]) -> None:
    """The tenant's rows as they were, beside the live ones, which stay as they are."""
    trial.sample.reset()
    trial.sample.damage(51)
    before = trial.sample.snapshot()
    service = trial.sample.service()
    result = as_document(service.restores.into_schema(trial.backup_id, ACME, ADMIN, tables=tables))
    schema = result["schema"]
    assert trial.sample.snapshot() == before
    wanted = {t: rows for t, rows in trial.then.of(ACME).items() if MODEL.tables[t].owner}
    if tables:
        wanted = {t: rows for t, rows in wanted.items() if t in ("tasks", "notes")}
    made = trial.sample.database.ask("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
    assert {name for (name,) in made} == set(wanted)
    for name, rows in wanted.items():
        columns = ", ".join(f"{column}::text" for column in MODEL.tables[name].columns)
        assert Counter(trial.sample.database.ask(f"SELECT {columns} FROM {schema}.{name}")) == rows
    assert {t["of"].removeprefix("public."): t["rows"] for t in result["tables"]} == {
        name: rows.total() for name, rows in wanted.items()
    }
    assert service.restores.drop_look(schema, ACME, ADMIN).dropped == (schema,)
    assert service.restores.looks(ACME, ADMIN) == []


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_backup_made_just_before_the_damage(trial: RestoreTrial, seed: int) -> None:
    """What was not written since is found equal without being read; an incremental backup restores as a full one does."""
    trial.sample.reset()
    trial.sample.damage(seed, BOLT)
    service = trial.sample.service()
    service.create_backup(ACME, ADMIN)
    trial.sample.damage(seed)
    then = trial.sample.snapshot()
    made = service.create_backup(ACME, ADMIN, "incremental")["id"]
    database, wanted = trial.sample.database, then.of(ACME)
    database.run("DELETE FROM comments WHERE id % 7 = 0; UPDATE options SET value = 'lost' WHERE tenant_id = 1")
    damaged = trial.sample.snapshot()
    plan = as_document(service.restores.plan(made, ACME, ADMIN))
    result = service.restore_backup(made, ACME, ADMIN)
    after = trial.sample.snapshot()
    assert after.of(ACME) == wanted
    assert after.of_others(ACME) == damaged.of_others(ACME)
    lost = {t: (wanted[t] - damaged.of(ACME)[t]).total() for t in ("comments", "options")}
    assert numbers(plan["tables"], "insert", "update", "delete") == {
        "comments": (lost["comments"], 0, 0),
        "options": (0, lost["options"], 0),
    }
    assert numbers(result["tables"], "inserted", "updated") == {
        "comments": (lost["comments"], 0),
        "options": (0, lost["options"]),
    }


@pytest.mark.parametrize(
    ("request_fields", "seed"),
    [({}, 60), ({"mode": MISSING_ONLY}, 61), ({"tables": ("options", "notes")}, 62), ({"files": ("docs/**",)}, 63)],
)
def test_undo(trial: RestoreTrial, request_fields: dict[str, Any], seed: int) -> None:
    """The touched tables and files are what they were before the restore; the others keep what was done since."""
    trial.sample.reset()
    trial.sample.damage(seed)
    before = trial.sample.snapshot()
    service = trial.sample.service(safety_backup=True)
    request = RestoreRequest.of(**request_fields)
    result = service.restore_backup(trial.backup_id, ACME, ADMIN, request=request)
    assert trial.sample.snapshot().of(ACME) != before.of(ACME) or request.files
    status = service.get_restore_status(result["restore_id"], ACME)
    assert status["safety_backup_id"] == result["safety_backup_id"] is not None
    trial.sample.write_file(ACME, "pictures/later.png", b"later")
    trial.sample.database.run("""UPDATE tenants SET settings = '["later"]' WHERE id = 1""")
    service.restores.undo(result["restore_id"], ACME, ADMIN)
    after, of_tenants = trial.sample.snapshot(), MODEL.tables["tenants"]
    later = {of_tenants.named(row)["settings"] for row in after.of(ACME).pop("tenants")} == {'["later"]'}
    assert later == (request_fields != {})  # no row of that table was written
    assert {t: rows for t, rows in after.of(ACME).items() if t != "tenants"} == {
        t: rows for t, rows in before.of(ACME).items() if t != "tenants"
    }
    others = ("pictures/later.png",) if request.tables or request.files else ()
    assert after.files[ACME] == {**before.files[ACME], **dict.fromkeys(others, b"later")}
    assert after.of_others(ACME) == before.of_others(ACME)


def test_undo_without_a_safety_backup(trial: RestoreTrial) -> None:
    trial.sample.reset()
    service = trial.sample.service()
    trial.sample.damage(64)
    result = service.restore_backup(trial.backup_id, ACME, ADMIN)
    with pytest.raises(RestoreRefused):
        service.restores.undo(result["restore_id"], ACME, ADMIN)
