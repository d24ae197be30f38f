"""DIR/sbh.toml: written once for the sample database; afterwards the user's, except for the ports in it."""

import json
import re

from sbh_pipelines.embedded.servers import kms, object_server, postgres
from sbh_pipelines.embedded.servers.layout import Layout, Ports

_TEMPLATE = """\
# Settings of the embedded stack. `sbh stack up` keeps the ports in this file true and leaves all else as you edit it.

[database]
dsn = "host=127.0.0.1 port={postgres} dbname={database} user={role}"
password_file = {password_file}
shared = ["plans"]
excluded = ["sessions"]
config_tables = ["tenant_settings"]

[files]
references = [{{ table = "files", column = "storage_key" }}]

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
"""
_PORT = re.compile(r"(?<=127\.0\.0\.1 port=)\d+|(?<=127\.0\.0\.1:)\d+")


def write(layout: Layout, before: Ports, now: Ports) -> None:
    """Write the file where it is missing; where ports of ours changed, change them in it and nothing else."""
    if not layout.settings.exists():
        layout.settings.write_text(_fresh(layout, now), "utf-8")
        return
    moved = {str(port): str(now[name]) for name, port in before.items() if now[name] != port}
    if moved:
        text = layout.settings.read_text("utf-8")
        layout.settings.write_text(_PORT.sub(lambda found: moved.get(found[0], found[0]), text), "utf-8")


def _fresh(layout: Layout, ports: Ports) -> str:
    def relative(path: object) -> str:
        return json.dumps(str(path).removeprefix(f"{layout.root}/"))

    return _TEMPLATE.format(
        **{name: ports[name] for name in ("postgres", "s3", "kms")},
        database=postgres.DATABASE,
        role=postgres.BACKUP,
        password_file=relative(layout.password_file(postgres.BACKUP)),
        regions=json.dumps(list(object_server.REGIONS)),
        access_key=object_server.ACCESS_KEY,
        secret_file=relative(object_server.secret_file(layout)),
        key_file=relative(layout.backup_key),
        signing_key=relative(layout.signing_key),
        alias=kms.ALIAS,
        pg_dump=json.dumps(str(postgres.binaries() / "pg_dump")),
    )
