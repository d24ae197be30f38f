"""The parts of the API that need no server: what tenants may see of errors, pages, rates, what is launched, `sbh serve`."""

import asyncio
import itertools
import json
import logging
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from sbh_pipelines.api.app.limits import Rates, Workers
from sbh_pipelines.api.app.server import JsonLines
from sbh_pipelines.api.runs import jobs, operations
from sbh_pipelines.api.runs.dagster import Event, Run
from sbh_pipelines.api.runs.launches import Launch, _digest
from sbh_pipelines.api.schema import pages
from sbh_pipelines.api.schema.bodies import BACKUP_PATTERN, AskBody, CreateBody, RestoreBody
from sbh_pipelines.api.schema.problems import error_fields, issue_fields, scrub
from sbh_pipelines.backup.create.moment.way.target import Target
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.cli.app import run
from sbh_pipelines.concurrency import awaited, side_by_side
from sbh_pipelines.definitions import defs
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import (
    CorruptObject,
    InvalidId,
    RequestError,
    SourceUnavailable,
    TookTooLong,
    TooManyRequests,
)
from sbh_pipelines.orchestration.restores.config import RestoreConfig
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines_tests.support.servers import PATIENCE_S, until

BACKUP = "backup_20240115_1200"
TENANT, PLATFORM = UserContext("alice", "tenant-1", Role.ADMIN), UserContext("root", "*", Role.ADMIN)


# what may be seen


@pytest.mark.parametrize(
    "text",
    [
        "s3://sbh-files-eu-west-1/files/tenant-1/x", "/var/lib/sbh/keys/backup.key", "https://user:pw@host/x?y",
        "host=10.0.0.5 port=5432 dbname=app user=sbh", "connect to 10.1.2.3:5432 failed",
    ],
)  # fmt: skip
def test_nothing_internal_is_left_in_a_text(text: str) -> None:
    for internal in ("s3:", "sbh-files", "/var", "backup.key", "pw@", "5432", "10.", "dbname"):
        assert internal not in scrub(f"cannot do it ({text}): later")


def test_what_users_need_stays() -> None:
    """Ids, tables, rates, paths of the API itself, choices with a slash."""
    for text in (
        "backup_20240115_1200 of tenant-1",
        "public.users, 3 and/or 4",
        "see /api/openapi.json",
        "50 % in 1.5 s",
    ):
        assert scrub(text) == text


def test_a_tenants_user_learns_the_code_and_not_the_place() -> None:
    error = SourceUnavailable(
        "Cannot connect", on="host=db.internal", why="FATAL: no pg_hba.conf entry", remedy="edit it"
    )
    shown = error_fields(error, TENANT)
    assert (shown["code"], shown["what"], shown["transient"]) == ("SBH-301", "Cannot connect", True)
    assert (shown["on"], shown["why"], shown["remedy"]) == ("", "", "try again later")
    assert error_fields(error, PLATFORM) == error.as_dict()
    assert error_fields(error, None) == shown
    asked = RequestError("No such table", on="public.userz", remedy="one of: public.users")
    assert error_fields(asked, TENANT) == asked.as_dict()
    unknown = RequestError("No such backup", remedy="see `sbh backup list tenant-1`")
    assert error_fields(unknown, TENANT)["remedy"] == "see `GET /api/backup`"
    assert error_fields(unknown, PLATFORM) == unknown.as_dict()
    theirs = RequestError("No", remedy="`sbh keys rotate --all`, then `sbh backup create tenant-1`")
    assert "sbh" not in str(error_fields(theirs, TENANT)["remedy"])
    issue = CorruptObject("Damaged", on="s3://bucket/files/tenant-1/backups/packs/ab12", why="s3://bucket/x")
    assert issue_fields(issue, TENANT)["on"] == "packs/ab12"
    assert "bucket" not in str(issue_fields(issue, TENANT))
    assert issue_fields(issue, PLATFORM) == issue.as_dict()


# pages


def test_pages_cover_a_list_once_also_when_it_grows_meanwhile() -> None:
    entries = [(f"2024-01-{day:02}", f"b{day}") for day in range(30, 0, -1)]
    seen: list[tuple[str, ...]] = []
    cursor = None
    while True:
        shown, cursor = pages.page(entries, lambda e: e, 2, 7, cursor)
        seen += shown
        if cursor is None:
            break
        entries = [(f"2024-02-{len(seen):02}", "new"), *entries]
    assert seen == [(f"2024-01-{day:02}", f"b{day}") for day in range(30, 0, -1)]


@pytest.mark.parametrize(
    "cursor",
    ["", "!", "e30", "W10", pages.encode(["a"]), pages.encode(["a", "b", "c"]), "é", "A" * 400]
    + [pages.encode(["a", odd]) for odd in ("\ud800", "\0", "é", "a\nb")],
)
def test_other_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(InvalidId):
        pages.decode(cursor, 2)


# bounds


def test_a_bucket_empties_and_fills_again() -> None:
    now = 0.0
    rates = Rates(60, 3, clock=lambda: now)
    for _ in range(3):
        rates.take("user:a", "tenant:t")
    with pytest.raises(TooManyRequests, match="user"):
        rates.take("user:a")
    with pytest.raises(TooManyRequests, match="tenant"):
        rates.take("user:b", "tenant:t")
    rates.take("user:b")  # nothing was taken from b for the call that was refused
    rates.take("user:b")
    rates.take("user:b")
    now = 1.0
    rates.take("user:a", "tenant:t")
    with pytest.raises(TooManyRequests):
        rates.take("user:a")


def test_one_of_many_has_half_of_a_bucket() -> None:
    now = 0.0
    rates = Rates(60, 4, clock=lambda: now)
    for user in ("user:a", "user:b"):
        for _ in range(2):
            rates.take(user, "tenant:t", halved={user})
        if user == "user:a":
            with pytest.raises(TooManyRequests, match=r"user.*30 a minute are allowed, 2 at once.*in 2 s"):
                rates.take(user, "tenant:t", halved={user})
    now = float(rates.retry_after_s)
    rates.take("user:a", "tenant:t", halved={"user:a"})
    single = Rates(60, 1, clock=lambda: now)
    single.take("user:a", "tenant:t", halved={"user:a"})  # less than one there is not


def test_threads_waiting_and_time_are_bounded() -> None:
    """What is given up keeps its thread, so that no more than `threads` are ever at work."""

    enough, done = threading.Event(), list[bool]()

    def work() -> None:
        done.append(enough.wait(PATIENCE_S))

    async def all_at_once() -> list[Any]:
        workers = Workers("test", threads=2, waiting=1, timeout_s=0.3)
        given_up = [workers.run(work) for _ in range(3)]
        found = await asyncio.gather(*given_up, workers.run(lambda: "no room"), return_exceptions=True)
        with pytest.raises(TookTooLong):  # both threads are at what was given up
            await workers.run(lambda: "no thread")
        enough.set()
        found.append(await _room_again(workers))
        await asyncio.to_thread(until, lambda: len(done) == 2)
        workers.close()
        return found

    found = asyncio.run(all_at_once())
    assert [type(answer) for answer in found] == [TookTooLong] * 3 + [TooManyRequests, str]
    assert done == [True, True]


async def _room_again(workers: Workers) -> str:
    """The answer of the first call that has its turn in time."""
    for _ in range(100):
        with suppress(TookTooLong):
            return await workers.run(lambda: "room again")
    raise AssertionError("no thread came back")


def test_callers_take_turns_and_have_their_share() -> None:
    """Of one who has five calls in line and two who have one each, the two are at work before the one's second."""
    order: list[str] = []

    async def all_at_once() -> None:
        workers = Workers("test", threads=2, waiting=8, timeout_s=PATIENCE_S, share=1)

        def work(name: str) -> None:
            order.append(name)
            begun = len(order)
            while len(order) < min(begun + begun % 2, 5):  # until the other thread is at work, too
                time.sleep(0.01)

        greedy = [workers.run(lambda: work("greedy"), "greedy") for _ in range(3)]
        await asyncio.gather(*greedy, *(workers.run(lambda n=n: work(n), n) for n in ("ann", "bob")))  # type: ignore[misc]
        with pytest.raises(TooManyRequests, match="tenant"):  # a quarter of what may wait
            await asyncio.gather(*(workers.run(lambda: None, "more") for _ in range(5)))
        workers.close()

    asyncio.run(all_at_once())
    assert sorted(order[:2]) == ["ann", "greedy"]
    assert order[2:4].count("greedy") == 1
    assert "bob" in order[2:4]


def test_what_is_given_up_is_ended_where_it_works_until_it_has_noticed() -> None:
    ended: list[str] = []
    noticed = threading.Event()

    def work() -> None:
        own = awaited()
        assert own is not None
        closed = own.holds(own, lambda: ended.append("told"))
        assert side_by_side(lambda _: awaited() is own, [1, 2], name="test") == [True, True]
        while len(ended) < 2:
            time.sleep(0.01)
        closed()
        noticed.set()

    async def one() -> None:
        workers = Workers("test", threads=1, waiting=1, timeout_s=2)  # it has begun by then
        with pytest.raises(TookTooLong):
            await workers.run(work)
        assert await asyncio.to_thread(noticed.wait, PATIENCE_S)
        assert await _room_again(workers) == "room again"
        workers.close()

    asyncio.run(one())
    assert ended[:2] == ["told", "told"]


# what is launched


def launches() -> list[Launch]:
    everything = RestoreBody(
        confirm=True, tables=["users"], files=["**/*.pdf"], mode="newest-wins", keep_extra_files=True,
        accept_schema_changes=True, safety_backup=False, approval_id="approval_20240115_120000_0a1b2c", break_glass="fire",
    )  # fmt: skip
    return [
        jobs.create("tenant-1", "full", "Weekly backup"),
        jobs.create("tenant-1", "incremental", None),
        jobs.create_at("tenant-1", "xid:812345", "before the script", ["projects"], ["all"]),
        jobs.restore("tenant-1", BACKUP, "latest", {**everything.options(), **everything.permission()}),
        jobs.into_schema("tenant-1", BACKUP, "latest", "old", ["users"]),
        jobs.undo("tenant-1", "restore_20240115_120000_0a1b2c", everything.permission()),
        jobs.validate_deep("tenant-1", BACKUP, "latest"),
    ]


@pytest.mark.parametrize("launch", launches(), ids=lambda launch: launch.call)
def test_dagster_knows_every_job_and_takes_its_configuration(launch: Launch) -> None:
    assert dg.validate_run_config(defs.resolve_job_def(launch.job), launch.config)


@pytest.mark.parametrize("launch", launches(), ids=lambda launch: launch.call)
def test_a_run_is_for_the_backup_that_was_meant(launch: Launch) -> None:
    """Not for what is the latest when it leaves the queue; a repeated request is known by what its caller wrote."""
    assert "latest" not in str((launch.config, launch.tags))
    assert launch.asked.get("backup_id") in (None, "latest")


@pytest.mark.parametrize(
    ("fields", "moment"),
    [
        ({"at": "2024-01-15T14:32:07Z"}, "2024-01-15T14:32:07Z"),
        ({"at": "2024-01-15", "tables": ["projects"]}, "2024-01-15T00:00:00Z"),
        ({"before": 812345, "as_of_backup": ["all"]}, "xid:812345"),
        ({"lsn": "16/B374D848"}, "lsn:16/B374D848"),
        ({"lsn": "16-b374d848"}, "lsn:16/B374D848"),
        ({}, None),
    ],
)
def test_a_body_names_one_moment_or_none(fields: dict[str, Any], moment: str | None) -> None:
    found = CreateBody(**fields).moment
    assert (Target.parse(found).text if found is not None else None) == moment


@pytest.mark.parametrize(
    "fields",
    [
        {"at": "2024-01-15T14:32:07Z", "before": 812345},
        {"before": 812345, "lsn": "16/B374D848"},
        {"at": "2024-01-15", "type": "full"},
        {"tables": ["projects"]},
        {"as_of_backup": ["all"]},
        {"at": "yesterday"},
        {"before": 2},
        {"before": "812345"},
        {"lsn": "16B374D848"},
        {"lsn": "116000000/0"},
    ],
)
def test_a_body_of_no_moment_or_of_two_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CreateBody(**fields)


@pytest.mark.parametrize(
    "named", ["@2024-01-15T14:32", "@xid:812345", "@lsn:16-B374D848", "@lsn:16/B374D848", "latest"]
)
def test_a_moment_is_named_in_paths_and_bodies(named: str) -> None:
    assert re.fullmatch(BACKUP_PATTERN, named)
    assert AskBody(reason="why", backup_id=named).backup_id == named


def test_a_restore_over_http_is_the_restore_of_the_job() -> None:
    """An approval is bound to it: what the API asks approval for must be what the job then does."""
    for body in (RestoreBody(), RestoreBody(safety_backup=False, tables=["users"]), RestoreBody(config_only=True)):
        launched = jobs.restore("tenant-1", BACKUP, "latest", body.options()).config["ops"]["restore_tenant"]["config"]
        assert RestoreConfig(**launched).request() == body.request()
    assert RestoreBody().request() == RestoreRequest()


# what an operation says


def an_operation(status: str, *events: Event, user: UserContext = TENANT) -> dict[str, Any]:
    """As it goes over the wire."""
    tags = {"sbh/call": "backup.create", "sbh/tenant": "tenant-1", "user": "alice"}
    run = Run("id", status, "fleet_backup_job", tags, 1.0, 2.0, 3.0)
    document: dict[str, Any] = as_document(operations.full(run, events, user, "https://dagster"))
    return document


def test_how_far_a_backup_is() -> None:
    steps = [Event("ExecutionStepSuccessEvent", f"step {nth}", "", {}) for nth in range(3)]
    assert an_operation("STARTED", *steps)["progress"] == 60
    assert an_operation("QUEUED")["status"] == "queued"
    assert "cancel" in an_operation("QUEUED")["links"]
    assert an_operation("SUCCESS")["progress"] == 100


def test_the_error_is_that_of_the_tenant() -> None:
    """From the failure's metadata; a run that died has none, and says so."""
    record = {"tenant": "tenant-1", **CorruptObject("Damaged", on="s3://b/k").as_dict()}
    other = {"tenant": "tenant-2", **RequestError("of another").as_dict()}
    failure = Event("ExecutionStepFailureEvent", "s", "Traceback /srv/x.py", {"failed_tenants": [other, record]})
    found = an_operation("FAILURE", failure)
    assert (found["status"], found["error"]["code"], found["error"]["on"]) == ("failed", "SBH-601", "")
    assert an_operation("FAILURE", failure, user=PLATFORM)["error"]["on"] == "s3://b/k"
    died = an_operation("FAILURE")
    assert (died["error"]["code"], died["error"]["what"]) == ("SBH-920", "The run ended without saying why")
    assert "dagster_url" not in died
    assert an_operation("FAILURE", user=PLATFORM)["dagster_url"] == "https://dagster/runs/id"


def test_an_unchanged_tenant_is_described_by_the_backup_there_is() -> None:
    event = Event("ObservationEvent", "s", "", {"unchanged_since": "backup_20240115_1200"})
    found = an_operation("SUCCESS", event)
    assert (found["backup_id"], found["links"]["backup"]) == (
        "backup_20240115_1200",
        "/api/backup/backup_20240115_1200",
    )


# sbh serve


def test_serve_refuses_what_would_not_be_safe(
    api_stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens in plain text on a network, a client's secret that is empty or not there, nobody whose tokens count."""
    settings = ["--settings", str(api_stack.settings)]
    assert run(["serve", "--host", "0.0.0.0", *settings]) == 3
    assert "unencrypted" in capsys.readouterr().err
    unknown = tmp_path / "sbh.toml"
    unknown.write_text(api_stack.settings.read_text().replace('mode = "local"', 'mode = "none"'))
    assert run(["serve", "--settings", str(unknown)]) == 3
    assert "No tokens are believed" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve = ["serve", "--port", str(taken.getsockname()[1]), *settings]
        assert run(serve) == 2
        assert "Cannot listen there" in capsys.readouterr().err
        secret = tmp_path / "secret"
        at_an_issuer = {"AUTH__MODE": "oidc", "AUTH__ISSUER": "https://idp.example.com", "UI__CLIENT_ID": "sbh"}
        for name, value in (at_an_issuer | {"UI__CLIENT_SECRET_FILE": str(secret)}).items():
            monkeypatch.setenv(f"SBH_{name}", value)
        assert run(serve) == 3
        assert "Cannot read a secret's file" in capsys.readouterr().err
        secret.touch()
        assert run(serve) == 3
        assert "The secret of the client is empty" in capsys.readouterr().err


def test_settings_that_make_no_sense_are_refused() -> None:
    for fields in (
        {"tls_cert_file": "x"}, {"dagster_url": "file:///etc/passwd"}, {"dagster_url": "http://user:pw@host"}, {"port": 70_000},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            ApiSettings(**fields)  # type: ignore[arg-type]


def test_the_ids_of_launches_differ_in_what_they_ask() -> None:
    """By which repeats with one idempotency key are told apart."""
    digests = [_digest([launch.call, dict(launch.asked)]) for launch in launches()]
    assert all(one != other for one, other in itertools.combinations(digests, 2))


def test_the_log_says_where_an_error_was_and_nothing_of_what_it_says() -> None:
    """A library's error can quote a row, and so can the error that it came from."""
    record: logging.LogRecord | None = None
    try:
        try:
            int("row of a customer")
        except ValueError as error:
            raise KeyError("ann@example.com") from error
    except KeyError:
        record = logging.makeLogRecord({"msg": "Request 1 ended", "exc_info": sys.exc_info()})
    line = JsonLines().format(record)
    assert "customer" not in line
    assert "ann@" not in line
    told = json.loads(line)["traceback"]
    assert {"builtins.KeyError", "builtins.ValueError"} <= set(told)
    assert __file__ in told[1]
