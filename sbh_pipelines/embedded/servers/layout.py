"""The state directory of one stack: what is where, and the secrets in it."""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Ports = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below `root`. `root` and `postgres` let the database's own user through; the rest is closed."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "sbh.toml"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def backup_key(self) -> Path:
        return self.secrets / "backup.key"

    @property
    def signing_key(self) -> Path:
        """Signs the bearer tokens of this site."""
        return self.secrets / "signing.key"

    @property
    def passfile(self) -> Path:
        """libpq's password file: lets a DSN name it instead of holding a password."""
        return self.secrets / "pgpass"

    def create(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.postgres.mkdir(exist_ok=True)
        for folder in (self.log, self.run, self.objects, self.secrets):
            folder.mkdir(mode=0o700, exist_ok=True)

    def password_file(self, role: str) -> Path:
        return self.secrets / f"postgres-{role}"

    def secret(self, file: Path) -> str:
        """The secret in `file`, generated at first use."""
        if not file.exists():
            write_private(file, secrets.token_urlsafe(24))
        return file.read_text("ascii").strip()

    def ensure_backup_key(self) -> None:
        if not self.backup_key.exists():
            write_private(self.backup_key, base64.b64encode(secrets.token_bytes(32)).decode())

    def ensure_signing_key(self) -> None:
        from sbh_pipelines.security.signing_key import new_signing_key  # cryptography is slow to import

        if not self.signing_key.exists():
            write_private(self.signing_key, new_signing_key()[0].strip())

    def load_ports(self) -> dict[str, int]:
        """The ports of the last run, so that addresses stay the same where they can."""
        try:
            saved = json.loads((self.run / "ports.json").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): int(port) for name, port in saved.items()}

    def save_ports(self, ports: Ports) -> None:
        write_private(self.run / "ports.json", json.dumps(dict(ports), indent=1))


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step, readable by its owner only."""
    new = file.with_name(file.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
    new.replace(file)
