"""Whether a user may do what a GraphQL request asks for, and as whom the runs act that it launches.

Runs act for the user who is logged in: the tags that say so are put into every launch, over any that were sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

from graphql import FieldNode, VariableNode

from sbh_pipelines.errors import AccessDenied
from sbh_pipelines.orchestration.common.dagster_internals import load_run_config_yaml
from sbh_pipelines.orchestration.common.resources import ALL_USER_TAGS, USER_TAGS, tags_of, user_of
from sbh_pipelines.orchestration.guarded_ui.mutations import (
    ACTIONS,
    ASSETS,
    FIELDS,
    JOBS,
    LAUNCHES,
    MANAGE,
    OF_BACKFILLS,
)
from sbh_pipelines.orchestration.guarded_ui.request import Request, refused
from sbh_pipelines.security.policy import ALL_TENANTS, UserContext, allows, authorize
from sbh_pipelines.settings.site import parted

UNNAMED = frozenset({""})
"""The only site of an instance, which needs no name."""
_ASSET_JOB = "__ASSET_JOB"
_TAGS: Mapping[str, str] = {"backfillParams": "tags", "reexecutionParams": "extraTags"}  # else in `executionMetadata`
_PARTS = ("assetSelection", "assetCheckSelection", "solidSelection")
_PARTS_OF_LAUNCHES = ("stepKeys", "reexecutionSteps", "preset")
_VALUE = str | int | float | None
_LONGEST_CONFIG, _MOST_VALUES, _DEEPEST = 64 << 10, 20_000, 4
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
    site: str = ""


@dataclass(frozen=True, slots=True)
class Earlier:
    """Looks up earlier runs and backfills: the job and tags of a run, the tags of a backfill; None where there is none."""

    run: Callable[[str], tuple[str, Mapping[str, str]] | None]
    backfill_tags: Callable[[str], Mapping[str, str] | None]


@dataclass(frozen=True, slots=True)
class LaunchParams:
    """One object of an argument that starts a run or a backfill, as far as permissions depend on it.

    Attributes:
        argument: the argument that has it, which says where its tags are.
        given: all of it, as it was sent.
        job: the job that is named; empty where none is, or several are; `__ASSET_JOB` for a backfill of assets.
        parent: the run that is executed anew; empty for other launches.
        asset_action: the permission that a run of the named assets needs.
        site: the site that the first of the assets is of; empty where it has no name.
        chooses_part: whether it chooses assets, checks or steps of its job, or a preset.
        own_tags: the tags, as they were sent.
        config: the run's configuration, as an object or a text in YAML.
    """

    argument: str
    given: Mapping[str, object]
    job: str
    parent: str
    asset_action: str
    site: str
    chooses_part: bool
    own_tags: Sequence[object]
    config: object

    @classmethod
    def read(cls, argument: str, given: object, sites: Set[str]) -> Self:
        """`sites`: those whose assets are known. Raises RequestError for what is not shaped as Dagster takes it."""
        params, job, parent = _object(given, argument), "", ""
        selector = _object(params.get("selector") or {}, "the selector")
        assets = selector.get("assetSelection")
        if argument == "reexecutionParams":
            parent, assets = _text(params, "parentRunId"), None
        elif argument == "backfillParams":
            named, chosen = _text(selector, "partitionSetName"), params.get("partitionsByAssets") or []
            if not isinstance(chosen, list):
                raise refused("partitionsByAssets is not a list")
            job = named.removesuffix("_partition_set") if named else _ASSET_JOB
            assets = params.get("assetSelection") or [one.get("assetKey") for one in chosen if isinstance(one, dict)]
        else:
            jobs = {_text(selector, "jobName"), _text(selector, "pipelineName")} - {""}
            job = jobs.pop() if len(jobs) == 1 else ""
        return cls(
            argument,
            params,
            job,
            parent,
            _action_of(assets, sites),
            _site_of(assets, sites),
            any(selector.get(name) for name in _PARTS) or any(params.get(name) for name in _PARTS_OF_LAUNCHES),
            _own_tags(argument, params),
            params.get("runConfigData"),
        )

    @property
    def tags(self) -> dict[str, str]:
        return {str(tag.get("key")): str(tag.get("value")) for tag in self.own_tags if isinstance(tag, dict)}

    def acting_for(self, user: UserContext) -> dict[str, object]:
        """All of it, with the user's tags in place of those that were sent for a user."""
        others = [tag for tag in self.own_tags if not (isinstance(tag, dict) and tag.get("key") in ALL_USER_TAGS)]
        tags = [*others, *({"key": key, "value": value} for key, value in tags_of(user).items())]
        if self.argument in _TAGS:
            return {**self.given, _TAGS[self.argument]: tags}
        return {**self.given, "executionMetadata": {**_metadata(self.given), "tags": tags}}


def permit_fields(request: Request, user: UserContext) -> None:
    """Raises AccessDenied where the request reads what this user may not."""
    for name in sorted(request.fields & FIELDS.keys()):
        authorize(user, FIELDS[name], ALL_TENANTS)


def permit(
    request: Request, user: UserContext, services: list[str], earlier: Earlier, sites: Set[str] = UNNAMED
) -> tuple[Request, list[Launch]]:
    """The request as it is passed on for this user, and what it launches. Raises AccessDenied, RequestError.

    `sites`: names of the sites whose jobs and assets are what they are called; any other's are for admins.
    """
    variables, launches = dict(request.variables), list[Launch]()
    for field in request.mutations:
        name = field.name.value
        if name in LAUNCHES:
            authorize(user, "dagster.launch", ALL_TENANTS)
            for argument, variable in _variables_of(field, LAUNCHES[name], variables):
                given = variables[variable]
                several = [
                    LaunchParams.read(argument, one, sites) for one in (given if isinstance(given, list) else [given])
                ]
                launches += [_launch(one, user, earlier, sites) for one in several]
                acting = [one.acting_for(_user_of(one, user, services)) for one in several]
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


def _launch(params: LaunchParams, user: UserContext, earlier: Earlier, sites: Set[str]) -> Launch:
    """What is launched, if the user may. Raises AccessDenied."""
    job, tags = params.job, params.tags
    if params.argument == "reexecutionParams":
        known = earlier.run(params.parent) if params.parent else None
        job, before = known if known else ("", {})
        tags = {**before, **tags}
    site, name = parted(job)
    action = JOBS.get(name, MANAGE) if site in sites else MANAGE
    if job == _ASSET_JOB:
        site, action = params.site, params.asset_action
    authorize(user, action, ALL_TENANTS)
    if not allows(user, MANAGE, ALL_TENANTS):
        _must_be_plain(params)
    return Launch(job, action, tags.get("dagster/partition"), site)


def _action_of(assets: Any, sites: Set[str]) -> str:
    """The strictest permission of a run of these assets; for assets that are not known, or all of them, that of an admin."""
    try:
        actions = {_action_of_asset(asset["path"], sites) for asset in assets}
    except (TypeError, KeyError, IndexError):
        return MANAGE
    return actions.pop() if len(actions) == 1 else MANAGE


def _site_of(assets: Any, sites: Set[str]) -> str:
    """Of the first of the assets."""
    try:
        first = next(iter(assets))["path"][0]
    except (TypeError, KeyError, IndexError, StopIteration):
        return ""
    return str(first) if first in sites else ""


def _action_of_asset(path: Sequence[str], sites: Set[str]) -> str:
    """An asset of a site that has a name begins with it."""
    own = "/".join(path[1:]) if path[0] in sites else "/".join(path) if "" in sites else ""
    return ASSETS.get(own, MANAGE)


def _must_be_plain(params: LaunchParams) -> None:
    """Somebody who is no admin configures a job's ops, and nothing that changes what runs, where, or with which settings."""
    odd = {name for name in params.tags.keys() - _PLAIN_TAGS - set(ALL_USER_TAGS) if "/" in name}
    if odd:
        raise _denied(f"only an admin may launch with the tag {ascii(min(odd))[:80]}")
    if params.chooses_part:
        raise _denied("only an admin may choose assets or steps of a job, or a preset")
    config = params.config
    if isinstance(config, str):
        if len(config) > _LONGEST_CONFIG:
            raise _denied("only an admin may send a configuration of this length")
        try:
            config = load_run_config_yaml(config) or {}
        except Exception:  # whatever Dagster's reader stumbles over
            raise refused("runConfigData is not YAML") from None
    if not config:
        return
    if not isinstance(config, dict) or set(config) != {"ops"}:
        raise _denied("only an admin may configure more than `ops`")
    _must_be_values(config["ops"], iter(range(_MOST_VALUES)))


def _must_be_values(ops: object, left: Iterator[int], depth: int = 0) -> None:
    """Ops, also those within graphs, have a `config` of values and lists of values. A mapping in place of a value, such as
    `{"env": NAME}`, would say where a value is to be taken from. `left` bounds the look at texts that repeat their parts.
    """
    for node in _mappings(ops, left):
        if set(node) - {"config", "ops"}:
            raise _denied("only an admin may configure more of an op than its `config`")
        if "ops" in node:
            if depth == _DEEPEST:
                raise _denied("only an admin may nest ops so deeply")
            _must_be_values(node["ops"], left, depth + 1)
        for value in _object(node.get("config") or {}, "the configuration of an op").values():
            if not all(isinstance(one, _VALUE) and next(left, None) is not None for one in _listed(value)):
                raise _denied("only an admin may send a configuration that is not values and lists of values")


def _mappings(of: object, left: Iterator[int]) -> Iterator[Mapping[str, object]]:
    for node in _object(of, "the configuration of ops").values():
        if next(left, None) is None:
            raise _denied("only an admin may send a configuration of this length")
        yield _object({} if node is None else node, "the configuration of an op")


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _must_be_own(params: object, user: UserContext, earlier: Earlier) -> None:
    backfill = params.get("parentRunId") if isinstance(params, dict) else params
    tags = earlier.backfill_tags(str(backfill))
    if tags is None or (user_of(tags).user_id, user_of(tags).role) != (user.user_id, user.role):
        raise _denied("its runs would act for whoever launched it; launch a new one instead")


def _user_of(params: LaunchParams, user: UserContext, services: list[str]) -> UserContext:
    """Who a launch acts for. A service may have put in the tags of the user whom it has authenticated."""
    named = params.tags
    return user_of(named) if user.user_id in services and set(USER_TAGS) <= set(named) else user


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise refused(f"{what} is not an object")
    return value


def _text(of: Mapping[str, object], name: str) -> str:
    """Empty where there is none."""
    value = of.get(name)
    if not isinstance(value, str | None):
        raise refused(f"{name} is not a text")
    return value or ""


def _metadata(params: Mapping[str, object]) -> Mapping[str, object]:
    return _object(params.get("executionMetadata") or {}, "executionMetadata")


def _own_tags(argument: str, params: Mapping[str, object]) -> Sequence[object]:
    found = params.get(_TAGS[argument]) if argument in _TAGS else _metadata(params).get("tags")
    if not isinstance(found, list | None):
        raise refused("the tags are not a list")
    return found or []


def _denied(why: str) -> AccessDenied:
    return AccessDenied("This launch is not allowed", why=why, remedy="ask an admin")
