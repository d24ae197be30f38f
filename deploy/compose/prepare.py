"""Run once by compose.yaml: makes passwords and keys, each in a file of the volume `secrets`, and over none that is there.

The files of servers are readable by all users of a container, as those of PostgreSQL and Redis run under ids of their own; the two
keys only by the user of SBH Pipelines.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

PASSWORDS = (
    "postgres",
    "postgres-app",
    "postgres-backup",
    "postgres-restore",
    "postgres-dagster",
    "redis",
    "s3-secret",
)
S3_USER = "sbh"


def main(folder: str) -> None:
    where = Path(folder)
    for name in PASSWORDS:
        _write(where / name, secrets.token_urlsafe(32), 0o644)
    credentials = [{"accessKey": S3_USER, "secretKey": (where / "s3-secret").read_text("ascii")}]
    identity = {"name": S3_USER, "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    _write(where / "s3-identities.json", json.dumps({"identities": [identity]}), 0o644)
    _write(where / "backup.key", base64.b64encode(secrets.token_bytes(32)).decode(), 0o600)
    if not (where / "signing.key").exists():
        subprocess.run(
            [Path(sys.executable).with_name("sbh"), "token", "key", "--write", where / "signing.key"], check=True
        )


def _write(file: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        os.fchmod(descriptor, mode)
        out.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
