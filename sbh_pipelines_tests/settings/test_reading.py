"""Settings that cannot be read: each is named, with what to write instead, and nothing of a secret is shown."""

import os
import shlex
import tomllib
from pathlib import Path

import pytest

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import Settings, load_settings
from sbh_pipelines.settings.reading.fields import Found, as_json, as_toml, find


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a settings file, an environment without variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("SBH_")]:
        monkeypatch.delenv(name)


def refused() -> SettingsError:
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert (raised.value.code, raised.value.exit_status) == ("SBH-100", 3)
    return raised.value


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("SBH_STORAGE__REGIONS", "eu-west-1", """SBH_STORAGE__REGIONS='["eu-west-1"]'"""),
        ("SBH_STORAGE__REGIONS", "eu-west-1, us-east-1", """SBH_STORAGE__REGIONS='["eu-west-1", "us-east-1"]'"""),
        ("SBH_STORAGE__REGIONS", "", """SBH_STORAGE__REGIONS='["eu-west-1", "us-east-1"]'"""),
        ("SBH_STORAGE__REGIONS", '"eu"', """SBH_STORAGE__REGIONS='["eu-west-1", "us-east-1"]'"""),
        ("SBH_STORAGE__REGIONS", "[1]", """SBH_STORAGE__REGIONS='["eu-west-1", "us-east-1"]'"""),
        ("sbh_storage__regions", "x", """SBH_STORAGE__REGIONS='["x"]'"""),
        ("SBH_DATABASE__SHARED", "plans", """SBH_DATABASE__SHARED='["plans"]'"""),
        ("SBH_FILES__REFERENCES", '[{"table": "files"', "SBH_FILES__REFERENCES='[{"),
        ("SBH_RETENTION__TIERS", "critical", "SBH_RETENTION__TIERS='{"),
        ("SBH_RETENTION__TIERS__CRITICAL", "x", "SBH_RETENTION__TIERS__CRITICAL='{"),
        ("SBH_DATABASE", "host=x", "SBH_DATABASE__DSN="),
        ("SBH_DATABASE", '{"dsm": "host=x"}', "database.dsm"),
        ("SBH_DATABASE__CONNECTIONS", "many", "SBH_DATABASE__CONNECTIONS=3"),
        ("SBH_DATABASE__CONNECTIONS", "", "unset SBH_DATABASE__CONNECTIONS"),
        ("SBH_DATABASE__CONECTIONS", "3", "did you mean SBH_DATABASE__CONNECTIONS?"),
        ("SBH_DATABASE__TIMEOUT_S", "3", "SBH_STORAGE__TIMEOUT_S"),
        ("SBH_STORAG__BUCKET", "x", "did you mean SBH_STORAGE__BUCKET?"),
        ("SBH_STORAGE_BUCKET", "x", "did you mean SBH_STORAGE__BUCKET?"),
        ("SBH_SETTING", "x.toml", "did you mean SBH_SETTINGS?"),
        ("SBH_FOO__BAR", "x", "unset SBH_FOO__BAR"),
        ("SBH_DATABASE__LINKS__0__TABLE", "x", "did you mean SBH_DATABASE__LINKS?"),
        ("SBH_RETENTION__FULL_BACKUPS__KEEP_DAYLY", "3", "SBH_RETENTION__FULL_BACKUPS__KEEP_DAILY"),
        ("SBH_AUTH__ROLES", '{"ann": "god"}', """SBH_AUTH__ROLES='{"name": "viewer"}'"""),
        ("SBH_DATABASE__PASSWORD_FILE", "", "SBH_DATABASE__PASSWORD_FILE=/path/to/file"),
        ("SBH_STORAGE__ENDPOINT_URL", " ", "unset SBH_STORAGE__ENDPOINT_URL"),
    ],
)  # fmt: skip
def test_a_variable_is_named_with_its_form(name: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    error = refused()
    assert name.upper() in (error.on + error.why).upper()
    assert remedy in error.remedy


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_STORAGE__REGIONS", "eu")
    monkeypatch.setenv("SBH_KEYS__PROVIDR", "local")
    assert refused().on == "SBH_KEYS__PROVIDR, SBH_STORAGE__REGIONS"


@pytest.mark.parametrize("value", ["", 'se$cret, ["of" {ours'])
@pytest.mark.parametrize("name", ["SBH_DATABASE__PASSWORD", "SBH_DATABASE", "SBH_STORAGE__SECRET_ACCESS_KEY__X"])
def test_no_value_is_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    if name == "SBH_DATABASE__PASSWORD" and value:
        assert load_settings().database.password
    else:
        assert "cret" not in str(refused()).replace("secret_access_key", "").replace("SECRET_ACCESS_KEY", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SBH_SCHEDULES__DAILY_FULL", ""),  # off
        ("SBH_VENV", "x"),
        ("SBH_API_PORT_8080_TCP", "tcp://10.0.0.1:8080"),  # of a Kubernetes service
        ("SBH_API_PORT", "tcp://10.0.0.1:8080"),
        ("SBH_API_SERVICE_HOST", "10.0.0.1"),
        ("SBH_RETENTION__TIERS__CRITICAL__KEEP_WITHIN_HOURS", "3"),
        ("SBH_DATABASE", '{"dsn": "host=a"}'),
    ],
)
def test_what_is_right_or_not_ours_is_taken(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


@pytest.mark.parametrize(
    ("text", "why", "remedy"),
    [
        ("[storag]\nx = 1", "storag is no setting", "did you mean storage?"),
        ("[database]\nconections = 3", "database.conections is no setting", "did you mean database.connections?"),
        ("[database]\nconnections = 'x'", "database.connections", "\n[database]\nconnections = 3\n"),
        ("bucket = 'x'", "bucket is no setting", "files.bucket or storage.bucket"),
        ("[storage]\nregions = 'eu-west-1'", "storage.regions", '\n[storage]\nregions = ["eu-west-1", "us-east-1"]\n'),
        ("[database.links]\ntable = 'x'", "database.links", '\n[[database.links]]\ntable = "public.plans"\n'),
        ("[[database.links]]\nparent = 'x'", "database.links.0.table", "\n[[database.links]]\ntable ="),
        ("[storage]\nbucket = eu", "it is no TOML", "in quotes"),
    ],
)
def test_the_file_is_answered_with_what_to_paste(text: str, why: str, remedy: str) -> None:
    Path("sbh.toml").write_text(text)
    error = refused()
    assert error.on == "sbh.toml"
    assert why in error.why
    assert remedy in error.remedy


def test_a_byte_order_mark_is_passed_over_and_other_encodings_are_named() -> None:
    Path("sbh.toml").write_bytes(b"\xef\xbb\xbf[database]\r\nconnections = 7\r\n")
    assert load_settings().database.connections == 7
    for encoding in ("utf-16", "utf-32"):
        Path("sbh.toml").write_bytes("[database]\n".encode(encoding))
        assert encoding.upper() in refused().why
    Path("sbh.toml").write_bytes(b"[database]\n# Gr\xf6\xdfe\n")
    assert refused().why == "line 2 is not UTF-8"


def every_field() -> list[Found]:
    sections = {name: info.annotation for name, info in Settings.model_fields.items()}
    return [find(Settings, (s, f)) for s, model in sections.items() for f in getattr(model, "model_fields", ())]


@pytest.mark.parametrize("found", every_field(), ids=lambda found: ".".join(found.path))
def test_the_example_of_every_field_is_one(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a variable and in the file. What several fields say together may still be wrong, and is then not this field's."""
    section, field = found.path
    example = found.example()
    assert tomllib.loads(f"[{section}]\n{field} = {as_toml(example)}")[section][field] == example
    assert shlex.split(shlex.quote(as_json(example))) == [as_json(example)]
    monkeypatch.setenv(f"SBH_{section}__{field}".upper(), as_json(example))
    assert f"({section}.{field}" not in complaint()


def complaint() -> str:
    """The setting that loading complains of first; '' where it does not."""
    try:
        load_settings()
    except SettingsError as error:
        return error.why.partition(":")[0]
    return ""


@pytest.mark.parametrize(
    "prefix", ["_sbh-catalog/", "_sbh-catalog/journal/", "files/", "/journal/", "journal", "{region}/"]
)
def test_the_journal_lies_apart_from_everything_else(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_JOURNAL__PREFIX", prefix)
    assert "prefix" in refused().why


def test_a_journal_of_its_own_folder_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_JOURNAL__PREFIX", "_journals/changes/")
    monkeypatch.setenv("SBH_JOURNAL__ENABLED", "true")
    assert load_settings().journal.prefix == "_journals/changes/"
