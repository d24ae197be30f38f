"""Who may see Dagster wants to know for whom a tenant's people search, from a restore's predicate and patterns of files.

They go to the run sealed with the tenant's key, and the run says of them the table and how many there were, in errors too.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sbh_pipelines.api.app.app import make_app
from sbh_pipelines.api.runs import jobs
from sbh_pipelines.api.runs.dagster import Dagster, Run
from sbh_pipelines.api.runs.launches import Launcher
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.errors import IdempotencyConflict, RequestUnreadable, SourceError
from sbh_pipelines.orchestration.restores.discretion import without
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.support.fix_ui import Ui
from sbh_pipelines_tests.support.servers import PATIENT, watched

PERSON = "whistle.blower"
ANN = UserContext("ann", "tenant-6", Role.ADMIN, "api")


@pytest.fixture
def api(ui: Ui) -> Iterator[TestClient]:
    settings = load_settings(ui.settings)
    # The first launch loads the definitions: on a machine that has other work, that takes its time.
    own = settings.api.model_copy(update={"dagster_url": ui.url, **PATIENT})
    token = open_tokens(settings).issue("ann", "tenant-6", Role.ADMIN, 600)
    with TestClient(
        make_app(settings.model_copy(update={"api": own})), headers={"Authorization": f"Bearer {token}"}
    ) as made:
        yield made


@pytest.fixture
def backup_id(sample_service: BackupService) -> str:
    return str(sample_service.create_backup("tenant-6", UserContext("tester", "*", Role.ADMIN))["id"])


def places(folder: Path, word: str) -> list[str]:
    """Files of Dagster's that have the word: its databases, what steps gave, logs of what runs printed."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a database's journal is there for a moment
            if path.is_file() and word.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


def test_a_restore_through_the_api_is_not_told_in_dagster(ui: Ui, api: TestClient, backup_id: str) -> None:
    """Neither where it is done, nor where the server refuses what is searched for; it is what was asked for all the same."""
    rows, file = f"users where email <> '{PERSON}@example.com'", f"uploads/{PERSON}/**"
    done = watched(
        api, api.post(f"/api/backup/{backup_id}/restore", json={"confirm": True, "rows": rows, "files": [file, "**"]})
    )
    assert done["status"] == "completed", done["error"]
    record = api.get(done["links"]["restore"]).json()
    assert (record["scope"]["rows"], record["scope"]["files"]) == (rows, [file, "**"])
    wrong = {"confirm": True, "rows": f"users where id = '{PERSON}'"}
    refused = watched(api, api.post(f"/api/backup/{backup_id}/restore", json=wrong))
    assert (refused["status"], refused["error"]["code"][:4]) == ("failed", "SBH-")
    assert places(ui.home, PERSON) == []
    assert places(ui.home, done["operation_id"])  # and it is there that one has to look


def test_what_cannot_be_read_is_refused_before_there_is_a_run(ui: Ui, api: TestClient, backup_id: str) -> None:
    with ui.instance() as instance:
        before = instance.get_runs_count()
    for rows in (f"{PERSON}; drop table users", f"users where lower(name) = '{PERSON}'", PERSON):
        answer = api.post(f"/api/backup/{backup_id}/restore", json={"confirm": True, "rows": rows})
        assert (answer.status_code, answer.json()["code"]) == (400, "SBH-200")
    with ui.instance() as instance:
        assert instance.get_runs_count() == before


class Recorded(Dagster):
    """Launches nothing, and keeps what it was told to."""

    def __init__(self) -> None:
        self.launched: list[tuple[Mapping[str, object], Mapping[str, str]]] = []

    def launch(self, job: str, config: Mapping[str, object], tags: Mapping[str, str]) -> str:
        self.launched.append((config, tags))
        return job

    def runs(self, tags: Mapping[str, str], **_: object) -> list[Run]:
        return []


class Kept(Recorded):
    """Has one run, of a moment ago, with these tags."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        super().__init__()
        self.tags = tags

    def runs(self, tags: Mapping[str, str], **_: object) -> list[Run]:
        if tags.get("sbh/idempotency") != self.tags["sbh/idempotency"]:
            return []
        return [Run("the-run", "STARTED", "restore_job", self.tags, time.time(), None, None)]


def test_a_tag_does_not_tell_whether_a_guess_is_right(sample_service: BackupService) -> None:
    """Nor does the tag of a key that can be guessed: what makes them is in no tag. Without a key there are none."""
    dagster = Recorded()
    launcher = Launcher(dagster)
    options: dict[str, object] = {"rows": f"users where email = '{PERSON}'", "files": [PERSON]}
    wanted = jobs.restore("tenant-6", "backup_20240115_1200", "latest", options, "sealed")
    for key in (None, "1"):
        launcher.launch(sample_service, ANN, "tenant-6", wanted, key)
    guess = json.dumps(["backup.restore", {"backup_id": "latest", **options}], sort_keys=True).encode()
    whose = json.dumps(["ann", "tenant-6", "tenant-6", "1"], sort_keys=True).encode()
    guesses = [hashlib.sha256(guess), hashlib.sha256(whose), *(hmac.new(b"1", one, "sha256") for one in (guess, whose))]
    for config, tags in dagster.launched:
        assert PERSON not in str((config, tags))
        assert not any(g.hexdigest().startswith(value) for g in guesses for value in tags.values() if len(value) > 7)
    assert [("sbh/request" in tags, "sbh/idempotency" in tags) for _, tags in dagster.launched] == [
        (False, False),
        (True, True),
    ]


def test_a_key_of_a_run_of_an_earlier_release_launches_nothing_anew(sample_service: BackupService) -> None:
    """For its 24 hours; with another request it is refused as ever. So it is for the tags of this release."""
    dagster = Recorded()
    wanted, other = (jobs.restore("tenant-6", "backup_20240115_1200", name, {}, None) for name in ("latest", "@now"))
    request = json.dumps([wanted.call, dict(wanted.asked)], sort_keys=True).encode()
    whose = json.dumps(["ann", "tenant-6", "tenant-6", "1"], sort_keys=True).encode()
    earlier = {
        "sbh/idempotency": hashlib.sha256(whose).hexdigest()[:40],
        "sbh/request": hmac.new(b"1", request, "sha256").hexdigest()[:40],
    }
    Launcher(dagster).launch(sample_service, ANN, "tenant-6", wanted, "1")
    for tags in (earlier, dict(dagster.launched[0][1])):
        kept = Kept(tags)
        launcher = Launcher(kept)
        assert launcher.launch(sample_service, ANN, "tenant-6", wanted, "1") == ("the-run", True)
        with pytest.raises(IdempotencyConflict):
            launcher.launch(sample_service, ANN, "tenant-6", other, "1")
        assert launcher.launch(sample_service, ANN, "tenant-6", wanted, "2")[1] is False


def test_what_is_sealed_is_the_tenants_and_the_backups(sample_service: BackupService, backup_id: str) -> None:
    """It opens for no other tenant or backup, not when it was changed, and is no text that somebody could make."""
    wanted = RestoreRequest(rows=f"users where email = '{PERSON}'", files=(f"{PERSON}*",))
    sealed = sample_service.restores.sealed(backup_id, "tenant-6", ANN, wanted)
    assert sealed is not None
    assert PERSON.encode() not in base64.urlsafe_b64decode(sealed)
    assert sample_service.restores.opened(sealed, backup_id, "tenant-6", ANN) == wanted
    platform = UserContext("root", "*", Role.ADMIN)
    sample_service.create_backup("tenant-5", platform)
    others = [("tenant-5", backup_id, sealed), ("tenant-6", "backup_20240115_1200", sealed)]
    others += [
        ("tenant-6", backup_id, text) for text in (sealed[:-8], sealed[:40] + "AAAA" + sealed[44:], "", "é", "A" * 100)
    ]
    for tenant, backup, text in others:
        with pytest.raises(RequestUnreadable):
            sample_service.restores.opened(text, backup, tenant, platform)
    assert sample_service.restores.sealed(backup_id, "tenant-6", ANN, RestoreRequest(tables=("users",))) is None


def test_errors_do_not_repeat_it() -> None:
    """As it is, quoted, or a value of it alone."""
    request = RestoreRequest(rows=f"users where name = 'O''Brien {PERSON}' and phone = 4917012345", files=("a/é*.pdf",))
    said = SourceError(
        f"cannot read {request.rows!r}",
        on="a/\\xe9*.pdf",
        why=f'invalid input: "O\'Brien {PERSON}"',
        remedy="not 4917012345",
    )
    hidden = without(said, request)
    assert (hidden.code, hidden.what, hidden.on) == (said.code, 'cannot read "…"', "…")
    assert (hidden.why, hidden.remedy) == ('invalid input: "…"', "not …")
