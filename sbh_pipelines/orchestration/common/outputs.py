"""What the steps of a run hand to each other: JSON documents, kept so that a run can be gone on with where it broke off.

They do not pass through Dagster, which would write three events for each into the run's log, pickle them, and run what a
pickle says when it reads one. To Dagster the steps only follow one another.

They are files of the instance on the host, or objects of a bucket (`[drafts] bucket`), where any host finds them.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import dagster as dg

from sbh_pipelines.errors import StoreError
from sbh_pipelines.settings import DraftsSettings

_MOST_ATTEMPTS = 100
_MOST_BYTES = 1 << 30
_ATTEMPTS_OF_A_REQUEST = 6

Documents = list[dict[str, Any]]


class _Place(Protocol):
    def put(self, key: str, document: bytes) -> None: ...

    def get(self, key: str) -> bytes | None:
        """None where there is none."""
        ...


def hand_over(context: dg.OpExecutionContext, documents: Documents, settings: DraftsSettings) -> None:
    """Keep what this step gives to the next one. Raises StoreError."""
    key = _key(context, context.run.run_id, context.op.name)
    _place(context, settings).put(key, json.dumps(documents).encode())


def handed_over(context: dg.OpExecutionContext, step: str, settings: DraftsSettings) -> Documents:
    """What the step gave in this run; else in the run that this one goes on with.

    Raises Failure where neither has it: somebody left the step out, or it is on another host. Raises StoreError.
    """
    place = _place(context, settings)
    run: dg.DagsterRun | None = context.run
    for _ in range(_MOST_ATTEMPTS):
        if run is None:
            break
        found = place.get(_key(context, run.run_id, step))
        if found is not None:
            return list(json.loads(found))
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    raise dg.Failure(
        f"{context.op.name} has nothing to work on: {step} gave nothing in this run"
        + ("" if settings.bucket else ", or did on another host: re-execute all steps, or set [drafts] bucket"),
        allow_retries=False,
    )


class _Files:
    """Below the instance's storage folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, document: bytes) -> None:
        file = self._folder / key
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as out:
            out.write(document)

    def get(self, key: str) -> bytes | None:
        file = self._folder / key
        return file.read_bytes() if file.is_file() else None


class _Objects:
    """In a bucket that every host reaches."""

    def __init__(self, settings: DraftsSettings) -> None:
        self._bucket, self._prefix = settings.bucket or "", settings.prefix
        with self._told(""):
            self._s3 = _client(settings.region, settings.endpoint_url)

    def put(self, key: str, document: bytes) -> None:
        with self._told(key):
            self._s3.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=document, ContentType="application/json"
            )

    def get(self, key: str) -> bytes | None:
        with self._told(key):
            try:
                found = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except self._s3.exceptions.NoSuchKey:
                return None
            if found["ContentLength"] > _MOST_BYTES:
                raise StoreError(
                    "The drafts of a step are too large", on=self._url(key), why="no step of ours wrote them"
                )
            return bytes(found["Body"].read())

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StoreError(
                "The drafts of a step could not be kept or read",
                on=self._url(key),
                why=str(error),
                remedy="see [drafts] in the settings: the bucket, its region, the rights of Dagster's workers there (s3:GetObject,"
                " s3:PutObject, and s3:ListBucket, without which S3 answers 403 for a draft that is not there)",
            ) from None

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"


@lru_cache(maxsize=4)
def _client(region: str | None, endpoint_url: str | None) -> Any:
    from dagster_aws.s3 import S3Resource  # slow to import, and loading the definitions is to take no seconds

    return S3Resource(region_name=region, endpoint_url=endpoint_url, max_attempts=_ATTEMPTS_OF_A_REQUEST).get_client()


class NoValues(dg.IOManager):
    """In place of Dagster's default, which reads pickles, from a folder that a run names: no output here has a value."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        raise dg.Failure(f"{context.name} has a value: steps hand over documents", allow_retries=False)

    def load_input(self, context: dg.InputContext) -> Any:
        raise dg.Failure(f"{context.name} has no value: steps hand over documents", allow_retries=False)


no_values = dg.IOManagerDefinition(
    lambda _: NoValues(),
    config_schema={},
    description="None: steps hand over documents, in files of the instance's storage folder or in the bucket of `[drafts]`.",
)


def _place(context: dg.OpExecutionContext, settings: DraftsSettings) -> _Place:
    return _Objects(settings) if settings.bucket else _Files(Path(context.instance.storage_directory()))


def _key(context: dg.OpExecutionContext, run_id: str, step: str) -> str:
    # An asset and the fleet job go through the same steps; a run can be of several assets.
    of = context.assets_def.key.to_python_identifier() if context.has_assets_def else "fleet"
    # Without an ending: Dagster's page would give files with one to whoever sees logs, which lie in the same folder.
    return f"{run_id}/{of}/{step}"
