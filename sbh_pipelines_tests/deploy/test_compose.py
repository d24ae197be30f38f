"""compose.yaml and what it mounts: by the schema of its format, and each part as its container runs it, on real servers.

No container engine runs it here.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sbh_pipelines.api.console.sign_in import origin_typed
from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.database.merge.transaction import restore_database
from sbh_pipelines.database.session.tls import secured, unheard
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.security.tokens import open_tokens
from sbh_pipelines.settings import load_settings
from sbh_pipelines.settings.secrets import resolve
from sbh_pipelines_tests.support.own_server import OwnServer, own_server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
BIN = Path(sys.executable).parent
ADA = UserContext("ada", "*", Role.ADMIN)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    return found


def test_compose_is_what_its_schema_says() -> None:
    said = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    for name, service in services().items():
        for mounted in service.get("volumes", ()):
            source = mounted.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), f"{name}: {source}"


def test_passwords_and_keys_are_made_once_and_found_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the containers have them: the script makes them, the settings name them, the entry point exports them."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for _ in range(2):
        subprocess.run([sys.executable, COMPOSE / "prepare.py", folder], check=True, capture_output=True)
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    subprocess.run([sys.executable, COMPOSE / "prepare.py", folder], check=True, capture_output=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == kept
    assert {file.name for file in folder.iterdir() if file.stat().st_mode & 0o077} == {
        *(name for name in kept if name.startswith(("postgres", "redis", "s3-"))), "signing.key.pub"
    }  # fmt: skip

    (tmp_path / "sbh.toml").write_bytes((COMPOSE / "sbh.toml").read_bytes())
    settings = load_settings(tmp_path / "sbh.toml")
    assert resolve(settings.storage, "secret_access_key") == kept["s3-secret"].decode()
    # PostgreSQL is another machine, and its image has no TLS: the settings allow that, and never a password in clear.
    for database in (settings.database, restore_database(settings)):
        assert (secured(database), unheard(database)) == ({}, {"require_auth": "!password"})
    assert settings.keys.key_file is not None
    assert settings.keys.key_file.exists()
    assert open_tokens(settings).issue("ann", "*", Role.ADMIN, 60)
    assert origin_typed(settings) == "http://127.0.0.1:8400"  # and not the web UI of the same machine

    for name, service in services().items():
        if service.get("entrypoint") == ["/etc/sbh/with-secrets"]:
            assert (BIN / service["command"][0]).exists(), name
    shown = subprocess.run(
        [COMPOSE / "with-secrets", "sh", "-c", 'echo "$SBH_CELERY_BROKER $SBH_DAGSTER_PG_PASSWORD $AWS_SECRET_ACCESS_KEY"'],
        env={**os.environ, "SBH_SECRETS": str(folder)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert shown == [
        f"redis://:{kept['redis'].decode()}@redis:6379/0", kept["postgres-dagster"].decode(), kept["s3-secret"].decode()
    ]  # fmt: skip


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with own_server(18) as made:
        made.database("postgres").run(f"DROP OWNED BY {postgres.BACKUP}", f"DROP ROLE {postgres.BACKUP}")
        yield made


def test_the_roles_and_databases_are_enough_for_backup_and_restore(
    server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """databases.sql by psql, as PostgreSQL's image runs it; then the settings, with another host, and backups in a directory."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    subprocess.run([sys.executable, COMPOSE / "prepare.py", folder], check=True, capture_output=True)
    script = (COMPOSE / "databases.sql").read_text("utf-8")
    script = script.replace("/etc/sbh/secrets", str(folder)).replace(
        "/etc/sbh/shop.sql", str(ROOT / "docs/examples/shop.sql")
    )
    made = subprocess.run(
        [postgres.binaries() / "psql", "-qX", "-h", "127.0.0.1", "-p", str(server.port), "-U", postgres.ADMIN, "-d", "postgres"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")

    text = (COMPOSE / "sbh.toml").read_text("utf-8").replace("host=postgres", f"host=127.0.0.1 port={server.port}")
    (tmp_path / "sbh.toml").write_text(text, "utf-8")
    monkeypatch.setenv("SBH_STORAGE__KIND", "local")
    monkeypatch.setenv("SBH_STORAGE__PATH", str(tmp_path / "buckets"))
    service = BackupService(load_settings(tmp_path / "sbh.toml"))
    tenants = [str(tenant.id) for tenant in service.tenants.all()]
    assert sorted(tenants) == ["acme", "bolt", "crown"]
    assert [draft.error for draft in service.backups.create_all(tenants, ADA, "full")] == [None] * 3
    server.database("app").run("DELETE FROM invoices WHERE org_id = 1 AND id % 7 = 0")
    result = service.restores.run("latest", "acme", ADA, request=RestoreRequest(safety_backup=False), confirm=True)
    assert result.status == "completed"
