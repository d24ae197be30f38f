"""Many materializations written as one batch.

One that an op yields costs Dagster 30 to 50 ms on PostgreSQL: for small tenants, more than the backup. Marked as a
batch, as Dagster marks those it makes itself, they are written together where DAGSTER_EVENT_BATCH_SIZE is set, and one
by one where it is not.
"""

import uuid
from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.events import DagsterEventBatchMetadata  # not exported; the tests of batches hold it


def together(
    context: dg.OpExecutionContext, materializations: Sequence[dg.AssetMaterialization]
) -> Iterator[dg.DagsterEvent]:
    """The events of these materializations, all of the step that runs now, for it to yield."""
    batch, last = uuid.uuid4().hex, len(materializations) - 1
    step = context.get_step_execution_context()
    for number, materialization in enumerate(materializations):
        yield dg.DagsterEvent.asset_materialization(
            step, materialization, DagsterEventBatchMetadata(batch, number == last)
        )
