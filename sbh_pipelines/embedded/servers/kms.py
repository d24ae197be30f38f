"""AWS KMS to try things with: moto's server, with a key `alias/sbh-backup` in each region.

moto keeps keys in memory. When its process ends the keys are gone, and with them everything they wrapped: the next
start makes new keys under the same alias. The stack's settings therefore wrap with the local key file, and this server
is for trying and testing `provider = "aws-kms"` within the life of one stack.
"""

import sys
from importlib.util import find_spec
from signal import SIGTERM
from typing import Any

import boto3
from botocore.config import Config

from sbh_pipelines.embedded.servers import process
from sbh_pipelines.embedded.servers.layout import Layout, Ports
from sbh_pipelines.embedded.servers.object_server import REGIONS, http_ok
from sbh_pipelines.embedded.servers.process import Daemon
from sbh_pipelines.errors import EmbeddedError

NAME = "kms"
PORTS = ("kms",)
ALIAS = "alias/sbh-backup"


def endpoint(ports: Ports) -> str:
    return f"http://127.0.0.1:{ports['kms']}"


def client(ports: Ports, region: str) -> Any:
    """A boto3 KMS client of this server; moto takes any credentials."""
    return boto3.client(
        "kms",
        endpoint_url=endpoint(ports),
        region_name=region,
        aws_access_key_id="moto",
        aws_secret_access_key="moto",  # noqa: S106  # nosec B106  # any will do
        config=Config(retries={"max_attempts": 3}),
    )


def launch(layout: Layout, ports: Ports) -> Daemon:
    if find_spec("moto") is None:
        raise EmbeddedError(
            "No KMS to start",
            remedy="pip install 'sbh-pipelines[embedded]', or '.[embedded]' in the sources, or do without",
        )
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(ports["kms"])]
    daemon = process.spawn(NAME, command, layout, ports, env={"PYTHONUNBUFFERED": "1"})
    process.wait_until(lambda: http_ok(f"{endpoint(ports)}/moto-api/"), daemon, layout)
    return daemon


def prepare(layout: Layout, ports: Ports) -> None:
    """The key and its alias in each region, where missing."""
    for region in REGIONS:
        kms = client(ports, region)
        if ALIAS not in {alias["AliasName"] for alias in kms.list_aliases()["Aliases"]}:
            key = kms.create_key(Description="Wraps the tenants' data keys")["KeyMetadata"]["KeyId"]
            kms.create_alias(AliasName=ALIAS, TargetKeyId=key)


def stop(layout: Layout, daemon: Daemon) -> None:
    process.stop(layout, daemon, SIGTERM, patience_s=3, or_kill=True)
