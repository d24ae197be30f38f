"""Secrets are in no repr, no error, no log and no stored document, whatever goes wrong."""

import base64
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.session.connection import connect
from sbh_pipelines.errors import SbhError
from sbh_pipelines.security.keys import open_key_provider
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.site import site_of

KEY_FILE = base64.b64encode(b"k" * 32).decode()
SECRETS = {
    "database.password": "hunter2-of-the-database",
    "storage.secret_access_key": "hunter2-of-the-bucket",
    "copies.secret_access_key": "hunter2-of-the-copy",
    "alerts.webhook_url": "https://example.invalid/hunter2-of-the-hook",
    "alerts.smtp_password": "hunter2-of-the-mail",
    "alerts.slack_url": "https://example.invalid/hunter2-of-slack",
    "alerts.pagerduty_key": "hunter2-of-the-pager",
}
FORBIDDEN = ("hunter2", KEY_FILE)


@pytest.fixture
def secretive(application: Application) -> Iterator[Settings]:
    """Settings with every secret that they can hold; nothing they name can be reached."""
    key_file = application.directory / "secret.key"
    key_file.write_text(KEY_FILE)
    return Settings(
        database={  # type: ignore[arg-type]
            "dsn": f"{application.database.dsn} passfile=/dev/null",
            "password": SECRETS["database.password"],
            "connect_timeout_s": 2,
        },
        storage={  # type: ignore[arg-type]
            "endpoint_url": application.database.stack.s3_endpoint,
            "access_key_id": "sbh-embedded",
            "secret_access_key": SECRETS["storage.secret_access_key"],
            "retries": 0,
            "timeout_s": 2,
        },
        keys={"provider": "local", "key_file": key_file},  # type: ignore[arg-type]
        alerts={
            name: SECRETS[f"alerts.{name}"] for name in ("webhook_url", "smtp_password", "slack_url", "pagerduty_key")
        },  # type: ignore[arg-type]
        copies=[
            {  # type: ignore[list-item]
                "name": "dr",
                "to": "eu-central-1",
                "access_key_id": "copier",
                "secret_access_key": SECRETS["copies.secret_access_key"],
            }
        ],
    )


def changed(settings: Settings, section: str, **fields: Any) -> Settings:
    """The settings with some fields of one section changed."""
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=fields)})


def texts(value: Any) -> Iterator[str]:
    """All texts that a person or a log could get out of an object."""
    yield from (repr(value), str(value), f"{value}")
    if hasattr(value, "__dict__"):
        yield repr(vars(value))


def innocent(*shown: str) -> None:
    for text in shown:
        assert not any(secret in text for secret in FORBIDDEN), text


def test_settings_show_stars(secretive: Settings) -> None:
    sections = [getattr(secretive, name) for name in type(secretive).model_fields if name not in ("copies", "primary")]
    for value in (secretive, *sections, *secretive.copies):
        innocent(*texts(value), value.model_dump_json())
    assert secretive.database.password is not None
    assert secretive.database.password.get_secret_value() == SECRETS["database.password"]


def test_what_is_made_of_settings_shows_nothing(secretive: Settings) -> None:
    service = BackupService(secretive)
    site = site_of(service)
    innocent(*texts(service), *texts(site), *texts(site.keys), *texts(open_key_provider(secretive)))
    tenant = Application.tenant()
    for store, _ in (site.backup_store(tenant), site.files_store(tenant)):
        real: Any = store._inner  # type: ignore[attr-defined]
        innocent(*texts(store), *texts(real), *texts(real._odd), store.url("x"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s,  # a wrong password
        lambda s: changed(s, "database", dsn="host=127.0.0.1 port=9 dbname=x user=y"),
        lambda s: changed(s, "database", dsn="this is = no dsn ="),
        lambda s: changed(s, "database", dsn="postgresql://u:hunter2-in-a-url@127.0.0.1:9/x"),
        lambda s: changed(s, "database", password=None, password_file=Path("/nonexistent/password")),
    ],
)
def test_errors_of_the_database(
    secretive: Settings, spoil: Callable[[Settings], Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SbhError) as caught:
        connect(spoil(secretive).database, "test")
    check(caught.value, caplog)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s,  # a wrong secret key
        lambda s: changed(s, "storage", endpoint_url="http://127.0.0.1:9"),
        lambda s: changed(s, "storage", bucket="no-such-bucket"),
        lambda s: changed(s, "storage", secret_access_key=None, secret_access_key_file=Path("/nonexistent/secret")),
    ],
)
@pytest.mark.parametrize("verb", ["get", "list", "stream", "odd"])
def test_errors_of_the_store(
    secretive: Settings, spoil: Callable[[Settings], Settings], verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def call() -> None:
        store, prefix = site_of(BackupService(spoil(secretive))).backup_store(Application.tenant())
        if verb == "get":
            store.get(prefix + "x")
        elif verb == "list":
            list(store.list(prefix))
        else:
            store.stream(prefix + ("x" if verb == "stream" else "a//b"))

    with pytest.raises(SbhError) as caught:
        call()
    check(caught.value, caplog)


def check(error: SbhError, caplog: pytest.LogCaptureFixture) -> None:
    shown = [
        *texts(error),
        *traceback.format_exception(error),
        str(error.as_dict()),
        repr(pickle.loads(pickle.dumps(error))),
    ]
    innocent(*shown, caplog.text)


def test_a_settings_file_with_an_error_shows_no_value(tmp_path: Path) -> None:
    for text in (
        '[database]\npassword = ["hunter2-of-the-database"]\n',
        '[database]\npassword = "hunter2-of-the-database"\nconnections = "hunter2"\n',
        '[storage]\nsecret_access_key = "hunter2"\nunknown = "hunter2"\n',
    ):
        (tmp_path / "sbh.toml").write_text(text)
        with pytest.raises(SbhError) as caught:
            load_settings(tmp_path / "sbh.toml")
        innocent(*texts(caught.value))


def test_nothing_that_is_stored_in_the_clear_is_a_secret_or_a_row(application: Application) -> None:
    """Documents hold counts, ids and names of tables; rows, keys of rows and names of files are sealed."""
    application.database.run(
        "UPDATE projects SET body = 'hunter2 in a row', code = 'hunter2-' || id WHERE tenant_id = 1"
    )
    application.write_file("acme", "hunter2-in-a-name.txt", b"hunter2 in a file")
    backup = application.service().create_backup("acme", ADMIN)["id"]
    application.wreck("acme")
    application.service().restore_backup(backup, "acme", ADMIN)
    stored = [file for file in application.repository("acme").rglob("*") if file.is_file()]
    assert len(stored) > 8
    for file in stored:
        assert b"hunter2" not in file.read_bytes(), file
        assert base64.b64encode(bytes(range(32))) not in file.read_bytes(), file


def test_an_error_of_the_database_repeats_no_row(application: Application) -> None:
    """PostgreSQL's DETAIL lines quote values; they do not get into errors or stored records."""
    service = application.service()
    application.database.run("UPDATE projects SET code = 'hunter2-mine' WHERE id = 2")
    backup = service.create_backup("acme", ADMIN)["id"]
    application.database.run(
        "UPDATE projects SET code = 'x' WHERE id = 2; UPDATE projects SET code = 'hunter2-mine' WHERE id = 1"
    )
    with pytest.raises(SbhError) as caught:
        service.restore_backup(backup, "acme", ADMIN)
    assert caught.value.code == "SBH-703"
    innocent(*texts(caught.value), *traceback.format_exception(caught.value))
    for file in application.repository("acme").rglob("*"):
        assert file.is_dir() or b"hunter2" not in file.read_bytes()
