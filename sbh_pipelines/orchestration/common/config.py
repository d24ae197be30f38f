"""The configuration of jobs: plain values, taken as they are written.

Dagster's own `dg.Config` takes `{"env": "NAME"}` wherever it takes a text, a number or a flag, and hands the job what the
variable holds in the run's worker: whoever may launch a run could have the worker's secrets told in its events. So the
fields here become Dagster's raw types, which know no sources, and the values are read by pydantic alone.
"""

import types
from collections.abc import Mapping
from typing import Any, Self, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field


class JobConfig(BaseModel):
    """Base of the configurations of ops: `@dg.op(config_schema=X.schema_of_dagster())`, and in it `X.of(context)`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def schema_of_dagster(cls) -> Mapping[str, dg.Field]:
        """The fields as Dagster shows and checks them."""
        return {
            name: dg.Field(
                _raw(field.annotation),
                is_required=field.is_required(),
                description=field.description,
                **({} if field.is_required() else {"default_value": field.default}),
            )
            for name, field in cls.model_fields.items()
        }

    @classmethod
    def of(cls, context: dg.OpExecutionContext) -> Self:
        """What the run's configuration says of this op."""
        return cls(**context.op_config)


def from_copy_field(more: str = "") -> Any:
    """The field `from_copy`: whose backups a run works with. `more`: what else it means for the job."""
    return Field(
        None,
        description="Work with the backups of this copy, by its name in the settings: only its buckets and keys are asked."
        + more,
    )


def _raw(kind: Any) -> Any:
    """The type of Dagster's that takes values of this one, and nothing in place of them."""
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return dg.Array(_raw(arguments[0]))
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not types.NoneType]
        return dg.Noneable(_raw(inner))
    if kind not in (str, bool, int, float):
        raise TypeError(f"no plain value: {kind}")
    return kind
