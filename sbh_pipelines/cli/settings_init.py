"""A first `sbh.toml`, with a comment for each field that a site decides on, and the key file that it names.

Neither is ever written over: a key that is lost takes every backup with it.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from sbh_pipelines.errors import RequestError

KEY_BYTES = 32
_KEY_FILE = "master.key"

_PAGE = """\
# Settings of SBH Pipelines. All fields: `sbh settings docs`. What stands here wins over the defaults, and variables
# of the environment over what stands here: field x of section [s] is SBH_S__X.
# Next: fill in [database]; `sbh doctor --suggest --save` adds how your tables map to tenants; `sbh doctor` checks all of it.

[database]
# Where the application's rows are; no password in here: password_file, password_secret (AWS Secrets Manager), or
# the variable SBH_DATABASE__PASSWORD.
dsn = "host=127.0.0.1 port=5432 dbname=app user=sbh_backup"
# password_file = "database.password"
tenant_column = "tenant_id"     # the column that says whose a row is
# shared = ["plans"]            # tables that all tenants share
# excluded = ["sessions"]       # tables that no backup needs

[tenants]
# The table that lists the tenants, or a view, and its columns.
table = "tenants"
# key = "id"                    # what the tenant column refers to
# slug = "slug"                 # the tenant's name in paths and commands
# region = "region"             # "": there is no such column, and all are in default_region
# tier = "tier"                 # "": there is none, and all have default_tier

[files]
# The tenants' files: a bucket for each region, a prefix for each tenant. enabled = false: there are none.
# bucket = "sbh-files-{region}"
# prefix = "files/{tenant}/"
# references = [{ table = "files", column = "storage_key" }]   # columns that hold names of files

[storage]
# Where backups go: sbh-files-{region}/files/{tenant}/backups/ unless said otherwise.
regions = ["eu-west-1"]
# bucket = "sbh-backups-{region}"
# endpoint_url = "http://127.0.0.1:8333"            # an S3 server other than AWS
# access_key_id = "..."                             # without it AWS's own chain: role, profile, SSO
# secret_access_key_file = "storage.secret"
# kind = "local"                                    # a directory in place of S3
# path = "buckets"

[keys]
# What wraps each tenant's key. Without it no backup can be read, ever.
"""
_LOCAL = """\
provider = "local"
key_file = {name}           # keep a copy elsewhere; in production better provider = "aws-kms" and kms_key_id
"""
_KMS = """\
provider = "aws-kms"
kms_key_id = {key}
"""
_RESTORE = """
# [restore]                     # a role that may write; without this section the one of [database] does both
# dsn = "host=127.0.0.1 port=5432 dbname=app user=sbh_restore"
# password_file = "restore.password"
"""


@dataclass(frozen=True, slots=True)
class NewSettings:
    """What was written.

    Attributes:
        settings: The settings file.
        key_file: The key file; None where a KMS wraps the keys.
    """

    settings: Path
    key_file: Path | None


def write_new(settings: Path, kms_key: str | None) -> NewSettings:
    """Write the settings, and a key file beside them unless `kms_key` wraps the keys. Raises RequestError where one is there."""
    key_file = None if kms_key is not None else settings.parent / _KEY_FILE
    for file in filter(None, (settings, key_file)):
        if os.path.lexists(file):
            raise RequestError(
                "The file is there already",
                on=str(file),
                why="it is never written over"
                + (", for what it wrapped cannot be read without it" * (file == key_file)),
                remedy="edit it, or name another place: --settings FILE"
                if file == settings
                else "move it, or keep it:"
                f" name it in a settings file of your own, as keys.key_file = {json.dumps(str(file))}",
            )
    keys = _LOCAL.format(name=json.dumps(_KEY_FILE)) if kms_key is None else _KMS.format(key=json.dumps(kms_key))
    if key_file is not None:
        _create(key_file, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n", 0o600)
    try:
        _create(settings, (_PAGE + keys + _RESTORE).encode(), 0o640)
    except RequestError:
        if key_file is not None:
            key_file.unlink()  # made just now: nothing was wrapped with it
        raise
    return NewSettings(settings, key_file)


def _create(file: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as new:
            try:
                new.write(content)
                new.flush()
                os.fsync(new.fileno())
            except OSError:  # half of a key would be taken for one that wraps something
                file.unlink()
                raise
    except OSError as error:
        raise RequestError(
            "Cannot write the file",
            on=str(file),
            why=error.strerror or type(error).__name__,
            remedy="name a file in a directory that is there and may be written to: --settings FILE",
        ) from None
