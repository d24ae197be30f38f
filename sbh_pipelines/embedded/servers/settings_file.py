"""DIR/sbh.toml: written once; afterwards the user's, except for the ports in it.

Of tables it says nothing until there is sample data. A copy is added to it once, when the stack gets a server for one.
"""

import json
import re
import tomllib
from functools import partial

from sbh_pipelines.embedded.servers import copy_server, kms, object_server, postgres
from sbh_pipelines.embedded.servers.layout import Layout, Ports

_TEMPLATE = """\
# Settings of the embedded stack. `sbh stack up` keeps the ports in this file true and leaves all else as you edit it.

[database]
dsn = "host=127.0.0.1 port={postgres} dbname={database} user={role}"
password_file = {password_file}

[storage]
regions = {regions}
endpoint_url = "http://127.0.0.1:{s3}"
access_key_id = "{access_key}"
secret_access_key_file = {secret_file}

[keys]
provider = "local"
key_file = {key_file}
# The embedded KMS forgets its keys when it stops; to try it: provider = "aws-kms"
kms_key_id = "{alias}"
kms_endpoint_url = "http://127.0.0.1:{kms}"

[auth]
mode = "local"
signing_key_file = {signing_key}
services = ["service:api"]

[platform]
pg_dump = {pg_dump}

[journal]
enabled = true
dsn = "user={journal_role}"
password_file = {journal_password_file}
"""
# Where the sample data are. The tables' place in [database] is before the section that follows it.
_SAMPLE = """\
shared = ["plans"]
excluded = ["sessions"]
config_tables = ["tenant_settings"]

[files]
references = [{ table = "files", column = "storage_key" }]
"""
_AFTER_DATABASE = "\n[storage]\n"
_COPIES = "\n# Copies of this stack. `sbh demo` writes everything below this line anew.\n"
_COPY = """
[[copies]]
name = "{name}"
kind = "{kind}"
to = "{to}"
bucket = "{bucket}"
endpoint_url = "http://127.0.0.1:{port}"
access_key_id = "{access_key}"
secret_access_key_file = {secret_file}
key_file = {key_file}
"""
_PORT = re.compile(r"(?<=127\.0\.0\.1 port=)\d+|(?<=127\.0\.0\.1:)\d+")


def write(layout: Layout, before: Ports, now: Ports, *, sample: bool, copy: bool) -> None:
    """Write the file where it is missing; where ports of ours changed, change them in it.

    With `sample` a new file maps the tables of the sample data. With `copy` it names one afterwards.
    """
    if layout.settings.exists():
        text = layout.settings.read_text("utf-8")
        moved = {str(port): str(now[name]) for name, port in before.items() if now[name] != port}
        written = _PORT.sub(lambda found: moved.get(found[0], found[0]), text)
    else:
        text, written = None, _with_sample(_fresh(layout, now)) if sample else _fresh(layout, now)
    if copy and "copies" not in tomllib.loads(written):
        written += _COPIES + _of_copy(layout, now, copy_server.FIRST, "managed")
    if written != text:
        layout.settings.write_text(written, "utf-8")


def map_sample(layout: Layout) -> None:
    """Map the tables of the sample data, where the file says nothing of tables or files yet."""
    text = layout.settings.read_text("utf-8")
    said = tomllib.loads(text)
    if not {"shared", "excluded", "config_tables"} & said["database"].keys() and "files" not in said:
        layout.settings.write_text(_with_sample(text), "utf-8")


def _with_sample(text: str) -> str:
    return text.replace(_AFTER_DATABASE, _SAMPLE + _AFTER_DATABASE, 1)


def begin_next_copy(layout: Layout, ports: Ports) -> None:
    """Another source than that of the copy is backed up from now on: the copy is read only, and a new one is beside it."""
    text = layout.settings.read_text("utf-8").partition(_COPIES)[0] + _COPIES
    text += _of_copy(layout, ports, copy_server.FIRST, "external")
    text += _of_copy(layout, ports, copy_server.NEXT, "managed")
    layout.settings.write_text(text, "utf-8")


def drop_copies(layout: Layout) -> None:
    """Of the copies that `write` and `begin_next_copy` wrote the settings know nothing any more."""
    layout.settings.write_text(layout.settings.read_text("utf-8").partition(_COPIES)[0], "utf-8")


def _of_copy(layout: Layout, ports: Ports, name: str, kind: str) -> str:
    place = copy_server.layout_of(layout)
    return _COPY.format(
        name=name,
        kind=kind,
        to=copy_server.REGION,
        bucket=copy_server.BUCKETS[name],
        port=ports["copy_s3"],
        access_key=object_server.ACCESS_KEY,
        secret_file=_relative(layout, object_server.secret_file(place)),
        key_file=_relative(layout, place.backup_key),
    )


def _relative(layout: Layout, path: object) -> str:
    return json.dumps(str(path).removeprefix(f"{layout.root}/"))


def _fresh(layout: Layout, ports: Ports) -> str:
    relative = partial(_relative, layout)
    return _TEMPLATE.format(
        **{name: ports[name] for name in ("postgres", "s3", "kms")},
        database=postgres.DATABASE,
        role=postgres.BACKUP,
        password_file=relative(layout.password_file(postgres.BACKUP)),
        journal_role=postgres.JOURNAL,
        journal_password_file=relative(layout.password_file(postgres.JOURNAL)),
        regions=json.dumps(list(object_server.REGIONS)),
        access_key=object_server.ACCESS_KEY,
        secret_file=relative(object_server.secret_file(layout)),
        key_file=relative(layout.backup_key),
        signing_key=relative(layout.signing_key),
        alias=kms.ALIAS,
        pg_dump=json.dumps(str(postgres.binaries() / "pg_dump")),
    )
