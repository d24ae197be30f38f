"""What the steps of a run hand to each other: JSON documents, kept so that a run can be gone on with where it broke off.

They do not pass through Dagster, which would write three events for each into the run's log, pickle them, and run what a
pickle says when it reads one. To Dagster the steps only follow one another.
"""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg

_MOST_ATTEMPTS = 100


def hand_over(context: dg.OpExecutionContext, documents: list[dict[str, Any]]) -> None:
    """Keep what this step gives to the next one, in a file below the instance's storage folder."""
    file = _file(context, context.run.run_id, context.op.name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as out:
        json.dump(documents, out)


def handed_over(context: dg.OpExecutionContext, step: str) -> list[dict[str, Any]]:
    """What the step gave in this run; else in the run that this one goes on with.

    Raises Failure where neither has it: somebody left the step out.
    """
    run: dg.DagsterRun | None = context.run
    for _ in range(_MOST_ATTEMPTS):
        if run is None:
            break
        file = _file(context, run.run_id, step)
        if file.is_file():
            documents = json.loads(file.read_text("utf-8"))
            return list(documents)
        run = context.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    raise dg.Failure(f"{context.op.name} has nothing to work on: {step} gave nothing in this run", allow_retries=False)


class NoValues(dg.IOManager):
    """In place of Dagster's default, which reads pickles, from a folder that a run names: no output here has a value."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        raise dg.Failure(f"{context.name} has a value: steps hand over by files", allow_retries=False)

    def load_input(self, context: dg.InputContext) -> Any:
        raise dg.Failure(f"{context.name} has no value: steps hand over by files", allow_retries=False)


no_values = dg.IOManagerDefinition(
    lambda _: NoValues(),
    config_schema={},
    description="None: steps hand over by files of the instance's storage folder.",
)


def _file(context: dg.OpExecutionContext, run_id: str, step: str) -> Path:
    # An asset and the fleet job go through the same steps; a run can be of several assets.
    of = context.assets_def.key.to_python_identifier() if context.has_assets_def else "fleet"
    # Without an ending: Dagster's page would give files with one to whoever sees logs, which lie in the same folder.
    return Path(context.instance.storage_directory()) / run_id / of / step
