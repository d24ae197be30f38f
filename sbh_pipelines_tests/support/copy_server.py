"""A copy of a stack's backups on an S3 server of its own, and the loss of the first one: killed, its directory deleted."""

import base64
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import S3Store

from sbh_pipelines.backup.copies.run import run_copy
from sbh_pipelines.backup.site.site import Site
from sbh_pipelines.database.schema.tenants import list_tenants
from sbh_pipelines.embedded.servers import object_server, process
from sbh_pipelines.embedded.servers.layout import Layout, Ports, write_private
from sbh_pipelines.embedded.servers.process import Daemon, PortTaken
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import utc_now
from sbh_pipelines.settings import load_settings

NAME = "dr"
SETTINGS = """

[[copies]]
name = "{name}"
to = "eu-central-1"
bucket = "{bucket}"
endpoint_url = "{endpoint}"
access_key_id = "{access_key}"
secret_access_key_file = "{secret_file}"
key_file = "{key_file}"
"""


@dataclass(frozen=True, slots=True)
class CopyServer:
    """The server that holds the copy, and the first one, whose end it is for.

    Attributes:
        stack: the first place, with the database.
        layout: of the copy's server.
        ports: of the copy's server.
        settings: a settings file that has the copy.
        key_file: what wraps keys at the copy.
        bucket: the copy's, with `{region}`.
    """

    stack: Stack
    layout: Layout
    ports: Ports
    settings: Path
    key_file: Path
    bucket: str

    def bring_over(self) -> None:
        """Run the copy, of everything."""
        here = Site(load_settings(self.settings), utc_now)
        tenants = list(list_tenants(here.settings).tenants)
        done = run_copy(here, NAME, tenants)
        assert not done.issues
        assert {(one.error, one.left_out) for one in done.tenants} == {(None, None)}

    def store(self, bucket: str) -> S3Store:
        return _opened(self.layout, self.ports, bucket)

    def objects(self) -> dict[str, str | None]:
        """Key -> ETag of everything at the copy."""
        found = {}
        for region in object_server.REGIONS:
            for page in obstore.list(self.store(self.bucket.replace("{region}", region))):
                found |= {f"{region}/{meta['path']}": meta["e_tag"] for meta in page}
        return found

    def lose_the_first(self) -> None:
        """The first place's object server is killed, its directory deleted, and the key file is gone."""
        layout = Layout(self.stack.dir)
        daemon = process.find(layout, object_server.NAME)
        assert daemon is not None
        os.kill(daemon.pid, signal.SIGKILL)
        process.stop(layout, daemon, signal.SIGKILL, patience_s=10)
        shutil.rmtree(layout.objects)
        layout.backup_key.unlink()

    @contextmanager
    def empty_store(self) -> Iterator[None]:
        """For the length of a block a new server with empty buckets, where the application's files are to be."""
        layout = Layout(self.stack.dir)
        layout.objects.mkdir(mode=0o700)
        daemon = object_server.launch(layout, self.stack.ports)
        try:
            object_server.prepare(layout, self.stack.ports)
            yield
        finally:
            process.stop(layout, daemon, signal.SIGKILL, patience_s=10)
            shutil.rmtree(layout.objects)


def _launched(layout: Layout, taken: set[int]) -> Daemon:
    """A port may be taken by another process between the look at it and the server's bind."""
    for _ in range(5):
        with suppress(PortTaken):
            return object_server.launch(layout, process.choose_ports(object_server.PORTS, {}, taken=taken))
    raise AssertionError("no port stays free")


@contextmanager
def copy_server(stack: Stack, directory: Path, bucket: str = "sbh-copy-{region}") -> Iterator[CopyServer]:
    """A server for the copy, with its buckets, beside a stack that runs; gone afterwards. `bucket` has `{region}` in it."""
    layout = Layout(directory)
    layout.create()
    daemon = _launched(layout, taken=set(stack.ports.values()))
    ports = daemon.ports
    try:
        s3 = object_server.client(layout, ports)
        for region in object_server.REGIONS:
            s3.create_bucket(Bucket=bucket.replace("{region}", region))
        key_file = layout.secrets / "copy.key"
        write_private(key_file, base64.b64encode(secrets.token_bytes(32)).decode())
        settings = stack.dir / "with-copy.toml"
        more = SETTINGS.format(
            name=NAME,
            bucket=bucket,
            endpoint=object_server.endpoint(ports),
            access_key=object_server.ACCESS_KEY,
            secret_file=object_server.secret_file(layout),
            key_file=key_file,
        )
        settings.write_text(stack.settings.read_text("utf-8") + more, "utf-8")
        yield CopyServer(stack, layout, ports, settings, key_file, bucket)
    finally:
        process.stop(layout, daemon, signal.SIGKILL, patience_s=10)


def _opened(layout: Layout, ports: Ports, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=object_server.endpoint(ports),
        access_key_id=object_server.ACCESS_KEY,
        secret_access_key=layout.secret(object_server.secret_file(layout)),
        region=object_server.REGIONS[0],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
