"""Whether a user may do what a GraphQL request asks for, and as whom the runs act that it launches.

Runs act for the user who is logged in: the tags that say so are put into every launch, over any that were sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphql import FieldNode, VariableNode

from sbh_pipelines.errors import AccessDenied
from sbh_pipelines.orchestration.common.dagster_internals import load_run_config_yaml
from sbh_pipelines.orchestration.common.resources import USER_TAGS, tags_of, user_of
from sbh_pipelines.orchestration.guarded_ui.mutations import ACTIONS, ASSETS, JOBS, LAUNCHES, MANAGE, OF_BACKFILLS
from sbh_pipelines.orchestration.guarded_ui.request import Request, refused
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, allows, authorize

_ASSET_JOB = "__ASSET_JOB"
# Tags that a launch of somebody who is no admin may carry: others can change what the run is (`dagster-k8s/config`).
_PLAIN_TAGS = frozenset(
    {
        "dagster/partition",
        "dagster/partition_set",
        "dagster/asset_partition_range_start",
        "dagster/asset_partition_range_end",
        "dagster/from_ui",
        "dagster/is_resume_retry",
        "dagster/preset_name",
        "dagster/step_selection",
        "dagster/solid_selection",
    }
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What one mutation starts, for the record."""

    job: str
    action: str
    partition: str | None


@dataclass(frozen=True, slots=True)
class Earlier:
    """Looks up earlier runs and backfills: the job and tags of a run, the tags of a backfill; None where there is none."""

    run: Callable[[str], tuple[str, Mapping[str, str]] | None]
    backfill_tags: Callable[[str], Mapping[str, str] | None]


def permit(request: Request, user: UserContext, services: list[str], earlier: Earlier) -> tuple[Request, list[Launch]]:
    """The request as it is passed on for this user, and what it launches. Raises AccessDenied, RequestError."""
    variables, launches = dict(request.variables), list[Launch]()
    for field in request.mutations:
        name = field.name.value
        if name in LAUNCHES:
            authorize(user, "dagster.launch", ALL_TENANTS)
            for argument, variable in _variables_of(field, LAUNCHES[name], variables):
                given = variables[variable]
                several: list[Any] = given if isinstance(given, list) else [given]
                if not all(isinstance(one, dict) for one in several):
                    raise refused(f"{argument} is not an object")
                try:
                    launches += [_launch(argument, one, user, earlier) for one in several]
                    acting = [_acting_for(argument, one, user, services) for one in several]
                except (TypeError, AttributeError, ValueError):  # a text where an object belongs, and the like
                    raise refused(f"{argument} is misshapen") from None
                variables[variable] = acting if isinstance(given, list) else acting[0]
        elif name in OF_BACKFILLS:
            authorize(user, MANAGE, ALL_TENANTS)
            for _, variable in _variables_of(field, (OF_BACKFILLS[name],), variables):
                _must_be_own(variables[variable], user, earlier)
        else:
            authorize(user, ACTIONS.get(name, MANAGE), ALL_TENANTS)
    return replace(request, variables=variables), launches


def _variables_of(field: FieldNode, names: tuple[str, ...], given: Mapping[str, object]) -> list[tuple[str, str]]:
    """(argument, variable) for each of the arguments that is given. They must be variables that are sent along."""
    found = []
    for argument in field.arguments:
        name = argument.name.value
        if name not in names:
            continue
        if not isinstance(argument.value, VariableNode):
            raise refused(f"{name} of {field.name.value} must be a variable")
        variable = argument.value.name.value
        if variable not in given:
            raise refused(f"the variable ${variable} is not given")
        if given[variable] is not None:
            found.append((name, variable))
    return found


def _launch(argument: str, params: Mapping[str, Any], user: UserContext, earlier: Earlier) -> Launch:
    """What is launched, if the user may. Raises AccessDenied."""
    tags = _tags(argument, params)
    assets: Any = None
    selector = params.get("selector") or {}
    if argument == "reexecutionParams":
        known = earlier.run(str(params.get("parentRunId")))
        job, before = known if known else ("", {})
        tags = {**before, **tags}
    elif argument == "backfillParams":
        set_name = str(selector.get("partitionSetName") or "")
        job = set_name.removesuffix("_partition_set") if set_name else _ASSET_JOB
        chosen = params.get("partitionsByAssets") or []
        assets = params.get("assetSelection") or [one.get("assetKey") for one in chosen if isinstance(one, dict)]
    else:
        jobs = {selector.get("jobName"), selector.get("pipelineName")} - {None, ""}
        job = str(jobs.pop()) if len(jobs) == 1 else ""
        assets = selector.get("assetSelection")
    action = JOBS.get(job, MANAGE) if job != _ASSET_JOB else _action_of(assets)
    authorize(user, action, ALL_TENANTS)
    if not allows(user, MANAGE, ALL_TENANTS):
        _must_be_plain(argument, params)
    return Launch(job, action, tags.get("dagster/partition"))


def _action_of(assets: Any) -> str:
    """The strictest permission of a run of these assets; for assets that are not known, or all of them, that of an admin."""
    try:
        actions = {ASSETS.get(asset["path"][0], MANAGE) for asset in assets}
    except (TypeError, KeyError, IndexError):
        return MANAGE
    return actions.pop() if len(actions) == 1 else MANAGE


def _must_be_plain(argument: str, params: Mapping[str, Any]) -> None:
    """Somebody who is no admin configures a job's ops, and nothing that changes what runs, where, or with which settings."""
    own = _own_tags(argument, params) or []
    odd = {str(tag.get("key")) for tag in own if isinstance(tag, dict)} - _PLAIN_TAGS - set(USER_TAGS)
    if odd := {name for name in odd if "/" in name}:
        raise _denied(f"only an admin may launch with the tag {ascii(min(odd))[:80]}")
    config = params.get("runConfigData")
    if isinstance(config, str):
        try:
            config = load_run_config_yaml(config) or {}
        except Exception:  # whatever Dagster's reader stumbles over
            raise refused("runConfigData is not YAML") from None
    if config and (not isinstance(config, dict) or set(config) != {"ops"}):
        raise _denied("only an admin may configure more than `ops`")
    selector = params.get("selector") or {}
    if selector.get("assetSelection") or selector.get("assetCheckSelection"):
        raise _denied("only an admin may choose assets of a job")


def _must_be_own(params: Any, user: UserContext, earlier: Earlier) -> None:
    backfill = params.get("parentRunId") if isinstance(params, dict) else params
    tags = earlier.backfill_tags(str(backfill))
    if tags is None or (user_of(tags).user_id, user_of(tags).role) != (user.user_id, user.role):
        raise _denied("its runs would act for whoever launched it; launch a new one instead")


def _acting_for(argument: str, params: Mapping[str, Any], user: UserContext, services: list[str]) -> dict[str, object]:
    """The launch with the user's tags. A service may have put in those of the user whom it has authenticated."""
    sent = _tags(argument, params)
    tags = tags_of(user_of(sent) if user.user_id in services and set(USER_TAGS) <= set(sent) else user)
    others = [
        tag for tag in _own_tags(argument, params) or [] if not (isinstance(tag, dict) and tag.get("key") in USER_TAGS)
    ]
    ours = [*others, *({"key": key, "value": value} for key, value in tags.items())]
    if argument == "backfillParams":
        return {**params, "tags": ours}
    if argument == "reexecutionParams":
        return {**params, "extraTags": ours}
    return {**params, "executionMetadata": {**(params.get("executionMetadata") or {}), "tags": ours}}


def _own_tags(argument: str, params: Mapping[str, object]) -> list[Any] | None:
    if argument == "backfillParams":
        found = params.get("tags")
    elif argument == "reexecutionParams":
        found = params.get("extraTags")
    else:
        metadata = params.get("executionMetadata") or {}
        if not isinstance(metadata, dict):
            raise refused("executionMetadata is not an object")
        found = metadata.get("tags")
    if not isinstance(found, list | None):
        raise refused("the tags are not a list")
    return found


def _tags(argument: str, params: Mapping[str, object]) -> dict[str, str]:
    own = _own_tags(argument, params) or []
    return {str(tag.get("key")): str(tag.get("value")) for tag in own if isinstance(tag, dict)}


def _denied(why: str) -> AccessDenied:
    return AccessDenied("This launch is not allowed", why=why, remedy="ask an admin")
