"""What the steps of a run hand to each other: JSON documents, kept so that a run can be gone on with where it broke off.

Dagster's default pickles them, and reading a pickle runs whatever it says; it also lets a run's configuration name the
folder. Here there is nothing to configure, and a document that somebody put there is a document and no more.
"""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg

DRAFTS = dg.DagsterType(
    lambda _, value: isinstance(value, list),
    name="Drafts",
    # Without a loader: where a run leaves out the step before, its configuration can give no drafts instead.
    description="The drafts of a batch, as documents. They come from the step before, never from a run's configuration.",
)


class Documents(dg.IOManager):
    """A file per output, below the instance's storage folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        file = self._file(context)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as out:
            json.dump(obj, out)

    def load_input(self, context: dg.InputContext) -> Any:
        return json.loads(self._file(context.upstream_output).read_text("utf-8"))

    def _file(self, context: dg.OutputContext | None) -> Path:
        if context is None:
            raise dg.Failure("A step's input has no output that it comes from", allow_retries=False)
        # Without an ending: Dagster's page would give files with one to whoever sees logs, which lie in the same folder.
        return self._folder.joinpath(*context.get_identifier())


def _documents(context: dg.InitResourceContext) -> Documents:
    if context.instance is None:
        raise dg.Failure("Outputs of steps need an instance of Dagster", allow_retries=False)
    return Documents(Path(context.instance.storage_directory()))


step_outputs = dg.IOManagerDefinition(
    _documents,
    config_schema={},
    description="What steps hand to each other, as JSON below the instance's storage folder.",
)
