"""A second S3 server, for a copy of the backups: as far from the first one as one machine allows.

All of it is under DIR/copy, objects, credentials, log and the key file that wraps keys there, so that nothing of it goes where
the first server's objects and key go. It has room for two copies: one of the first store, and one of what comes after its loss.
"""

from dataclasses import replace
from typing import Any

from sbh_pipelines.embedded.servers import object_server, process
from sbh_pipelines.embedded.servers.layout import Layout, Ports
from sbh_pipelines.embedded.servers.process import Daemon

NAME = "copy"
REGION = "eu-central-1"
FIRST, NEXT = "dr", "dr-2"
BUCKETS = {FIRST: "sbh-copy-{region}", NEXT: "sbh-copy-2-{region}"}
"""By name of the copy; `{region}` is the region whose backups these are."""

_PREFIX = "copy_"
PORTS = tuple(f"{_PREFIX}{name}" for name in object_server.PORTS)


def layout_of(layout: Layout) -> Layout:
    """Where the server of this stack keeps everything; it is made with the server."""
    return Layout(layout.root / NAME)


def client(layout: Layout, ports: Ports) -> Any:
    """A boto3 S3 client of this server."""
    return object_server.client(layout_of(layout), _own(ports))


def find(layout: Layout) -> Daemon | None:
    """The running server, or None."""
    daemon = process.find(layout_of(layout), object_server.NAME)
    return daemon and _of_the_stack(daemon)


def launch(layout: Layout, ports: Ports) -> Daemon:
    """Start the server and wait until its S3 port answers."""
    place = layout_of(layout)
    place.create()
    place.ensure_backup_key()
    return _of_the_stack(object_server.launch(place, _own(ports)))


def prepare(layout: Layout, ports: Ports) -> None:
    """The buckets, each made where it is missing."""
    s3 = client(layout, ports)
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for template in BUCKETS.values():
        for region in object_server.REGIONS:
            name = template.format(region=region)
            if name not in present:
                s3.create_bucket(Bucket=name)


def stop(layout: Layout, daemon: Daemon) -> None:
    object_server.stop(layout_of(layout), replace(daemon, name=object_server.NAME, ports=_own(daemon.ports)))


def _own(ports: Ports) -> dict[str, int]:
    """The names that the server itself has for its ports."""
    return {name: ports[f"{_PREFIX}{name}"] for name in object_server.PORTS}


def _of_the_stack(daemon: Daemon) -> Daemon:
    return replace(daemon, name=NAME, ports={f"{_PREFIX}{name}": port for name, port in daemon.ports.items()})
