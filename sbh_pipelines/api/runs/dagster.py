"""Dagster, asked through GraphQL. Every error comes out as OrchestratorError, never as httpx's or GraphQL's."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sbh_pipelines.errors import OrchestratorError, OrchestratorUnavailable
from sbh_pipelines.settings import SiteSettings
from sbh_pipelines.settings.api import ApiSettings

UNDER_WAY = ("NOT_STARTED", "QUEUED", "MANAGED", "STARTING", "STARTED", "CANCELING")
_MOST_EVENTS = 5000
_EVENTS_A_PAGE = 500
_MOST_PAGES = 20  # of runs, of which nearly all are of other sites

_RUN = "runId status jobName creationTime startTime endTime tags { key value }"
_ENTRIES = """metadataEntries { label ... on TextMetadataEntry { text } ... on IntMetadataEntry { intRepr }
  ... on FloatMetadataEntry { floatValue } ... on BoolMetadataEntry { boolValue } ... on JsonMetadataEntry { jsonString } }"""
_LAUNCH = """mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } ... on UnauthorizedError { message } } }"""
_TERMINATE = """mutation Cancel($run: String!) { terminateRun(runId: $run) { __typename
  ... on TerminateRunFailure { message } ... on PythonError { message } ... on UnauthorizedError { message } } }"""
_LOCATIONS = """{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name location { name } jobs { name } } }
  ... on PythonError { message } } }"""
_RUNS = f"""query Runs($filter: RunsFilter!, $cursor: String, $limit: Int!) {{
  runsOrError(filter: $filter, cursor: $cursor, limit: $limit) {{ __typename ... on Runs {{ results {{ {_RUN} }} }}
  ... on PythonError {{ message }} ... on InvalidPipelineRunsFilterError {{ message }} }} }}"""
_EVENTS = f"""query Events($run: ID!, $cursor: String, $limit: Int!) {{ runOrError(runId: $run) {{ __typename ... on Run {{
  eventConnection(afterCursor: $cursor, limit: $limit) {{ cursor hasMore events {{ __typename
  ... on MessageEvent {{ message timestamp stepKey }} ... on ExecutionStepFailureEvent {{ failureMetadata {{ {_ENTRIES} }} }}
  ... on ExecutionStepOutputEvent {{ {_ENTRIES} }} ... on MaterializationEvent {{ {_ENTRIES} }}
  ... on ObservationEvent {{ {_ENTRIES} }} }} }} }} ... on PythonError {{ message }} }} }}"""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as Dagster lists it. Times are seconds since 1970."""

    id: str
    status: str
    job: str
    tags: Mapping[str, str]
    created: float
    started: float | None
    ended: float | None

    @property
    def under_way(self) -> bool:
        return self.status in UNDER_WAY


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run; `metadata` has text, numbers and JSON, not tables."""

    kind: str
    step: str
    message: str
    metadata: Mapping[str, object]


_LARGEST_ANSWER = 64 << 20
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)


class Dagster:
    """One Dagster instance, and one site in it. Thread-safe. `token` is asked for at every request.

    Other sites on the instance may have tenants of the same names: their runs are as if they were not there.

    Raises SettingsError where the token would cross a network in clear that is not said to be trusted.
    """

    def __init__(
        self, settings: ApiSettings, token: Callable[[], str | None], site: SiteSettings | None = None
    ) -> None:
        settings.require_safe_dagster()
        self._site = site or SiteSettings()
        self._url = f"{settings.dagster_url}/graphql"
        self._location = settings.dagster_location
        self._found: dict[str, tuple[str, str]] = {}  # job -> location and repository
        self._token = token
        self._client = httpx.Client(
            timeout=settings.dagster_timeout_s,
            limits=httpx.Limits(max_connections=settings.threads + 2 * settings.expensive_threads),
            trust_env=False,
            follow_redirects=False,
        )

    def close(self) -> None:
        self._client.close()

    def launch(self, job: str, config: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """The id of the new run, which is queued. `job`: without the site's name.

        Raises OrchestratorError; OrchestratorUnavailable that is `unanswered` where the run may come all the same.
        """
        job = self._site.named(job)
        location, repository = self._find(job)
        selector = {"repositoryLocationName": location, "repositoryName": repository, "jobName": job}
        tags = {**tags, **self._site.tags}
        params = {
            "selector": selector,
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._ask(_LAUNCH, {"params": params}, "launchRun", launches=True)
        if answer["__typename"] != "LaunchRunSuccess":
            self._found.clear()  # the code location may have another name by now
            raise _refused("Dagster did not launch the run", job, answer)
        return str(answer["run"]["runId"])

    def _find(self, job: str) -> tuple[str, str]:
        """The location and the repository that have the job, asked for once."""
        if job not in self._found:
            answer = self._ask(_LOCATIONS, {}, "repositoriesOrError")
            for node in answer.get("nodes") or ():
                if self._location in (None, node["location"]["name"]):
                    place = str(node["location"]["name"]), str(node["name"])
                    self._found |= {str(known["name"]): place for known in node["jobs"]}
            if job not in self._found:
                raise _refused("Dagster has no such job", job, answer)
        return self._found[job]

    def terminate(self, run_id: str) -> None:
        """Ask for the run's end; it ends when it has cleaned up. Raises OrchestratorError."""
        answer = self._ask(_TERMINATE, {"run": run_id}, "terminateRun")
        if answer["__typename"] != "TerminateRunSuccess":
            raise _refused("Dagster did not cancel the run", run_id, answer)

    def runs(
        self,
        tags: Mapping[str, str],
        *,
        statuses: Sequence[str] = (),
        run_id: str | None = None,
        cursor: str | None = None,
        limit: int = 10,
    ) -> list[Run]:
        """Runs of this site that have all of these tags, the newest first; `cursor` is the id of the last one seen."""
        tags = {**tags, **self._site.tags}
        wanted: dict[str, object] = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        if statuses:
            wanted["statuses"] = list(statuses)
        if run_id is not None:
            wanted["runIds"] = [run_id]
        found: list[Run] = []
        for _ in range(_MOST_PAGES):
            answer = self._ask(_RUNS, {"filter": wanted, "cursor": cursor, "limit": limit}, "runsOrError")
            if answer["__typename"] != "Runs":
                raise _refused("Dagster cannot list runs", "runs", answer)
            page = [_run(fields) for fields in answer["results"]]
            # A site without a name cannot ask for runs without the tag: those of its neighbours are passed over.
            found += [run for run in page if self._site.owns(run.tags)]
            if len(page) < limit or len(found) >= limit:
                break
            cursor = page[-1].id
        return found[:limit]

    def events(self, run_id: str) -> list[Event]:
        """What a run said so far, oldest first; the first few thousand events."""
        found: list[Event] = []
        cursor: str | None = None
        while len(found) < _MOST_EVENTS:
            variables = {"run": run_id, "cursor": cursor, "limit": _EVENTS_A_PAGE}
            answer = self._ask(_EVENTS, variables, "runOrError")
            if answer["__typename"] != "Run":
                raise _refused("Dagster cannot show the run", run_id, answer)
            page = answer["eventConnection"]
            found += [_event(fields) for fields in page["events"]]
            cursor = page["cursor"]
            if not page["hasMore"] or not page["events"]:
                break
        return found

    def _ask(
        self, query: str, variables: Mapping[str, object], field: str, *, launches: bool = False
    ) -> dict[str, Any]:
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            asked = {"query": query, "variables": variables}
            with self._client.stream("POST", self._url, json=asked, headers=headers) as answer:
                body = bytearray()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _LARGEST_ANSWER:
                        raise _away(self._url, "its answer has no end", unanswered=launches)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            unanswered = launches and not isinstance(error, _NOT_SENT)
            raise _away(self._url, type(error).__name__, unanswered=unanswered) from None
        if answer.status_code in (401, 403):
            raise OrchestratorError(
                "Dagster does not believe the API",
                on=self._url,
                why=f"HTTP {answer.status_code}",
                remedy="set api.dagster_token, and name its user in auth.services",
            )
        if answer.status_code >= 500 or answer.status_code == 429:
            unanswered = launches and answer.status_code not in (
                429,
                503,
            )  # those refuse; a gateway may only have given up
            raise _away(self._url, f"HTTP {answer.status_code}", unanswered=unanswered)
        try:
            found = json.loads(body)["data"][field]
        except (ValueError, KeyError, TypeError):
            raise OrchestratorError(
                "Dagster's answer is not understood",
                on=self._url,
                why=f"HTTP {answer.status_code}",
                remedy="check that api.dagster_url is Dagster's, of a release that this one knows",
            ) from None
        return dict(found)


def _run(fields: Mapping[str, Any]) -> Run:
    tags = {str(tag["key"]): str(tag["value"]) for tag in fields["tags"]}
    times = (fields["creationTime"], fields["startTime"], fields["endTime"])
    return Run(str(fields["runId"]), str(fields["status"]), str(fields["jobName"]), tags, *times)


def _event(fields: Mapping[str, Any]) -> Event:
    entries = (fields.get("failureMetadata") or fields).get("metadataEntries") or ()
    return Event(
        str(fields["__typename"]),
        str(fields.get("stepKey") or ""),
        str(fields.get("message") or ""),
        {str(entry["label"]): _value(entry) for entry in entries},
    )


def _value(entry: Mapping[str, Any]) -> object:
    if entry.get("jsonString") is not None:
        try:
            return json.loads(entry["jsonString"])
        except ValueError:
            return None
    if entry.get("intRepr") is not None:
        return int(entry["intRepr"])
    return next((entry[name] for name in ("text", "floatValue", "boolValue") if entry.get(name) is not None), None)


def _away(url: str, why: str, *, unanswered: bool = False) -> OrchestratorUnavailable:
    error = OrchestratorUnavailable(
        "Dagster cannot be reached",
        on=url,
        why=why,
        remedy="try again in some seconds; start Dagster's web server, or correct api.dagster_url",
    )
    error.unanswered = unanswered
    return error


def _refused(what: str, on: str, answer: Mapping[str, Any]) -> OrchestratorError:
    said = answer.get("message") or "; ".join(e["message"] for e in answer.get("errors") or ())
    first = str(said).strip().splitlines()[0][:300] if said else ""
    return OrchestratorError(
        what,
        on=on,
        why=": ".join(part for part in (str(answer.get("__typename")), first) if part),
        remedy="see Dagster's log; check that the code location is loaded: api.dagster_location",
    )
