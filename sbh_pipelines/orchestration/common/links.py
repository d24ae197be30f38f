"""Links to pages of Dagster, for the metadata of events."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, quote_plus

import dagster as dg

from sbh_pipelines.orchestration.common.names import named

LOCATION = "sbh_pipelines.definitions"
"""The name of the code location where nothing else gives it one: that of the module."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where Dagster's pages are.

    Attributes:
        root: what links begin with: the setting `alerts.dagster_url`. Empty without it: the host that shows the page.
        location: the code location that has the jobs.
    """

    root: str = ""
    location: str = LOCATION

    @classmethod
    def of(cls, run: dg.DagsterRun, dagster_url: str | None) -> Self:
        """Those of a run of this site, to jobs of the code location that it was launched from."""
        origin = run.remote_job_origin
        where = origin.repository_origin.code_location_origin.location_name if origin is not None else LOCATION
        return cls((dagster_url or "").rstrip("/"), where)

    def launchpad(self, job: str, op: str, config: Mapping[str, object]) -> str:
        """The launchpad of a job, with this configuration of its op written into it. `job`: without the site's name."""
        lines = [
            "ops:",
            f"  {op}:",
            "    config:",
            *(f"      {name}: {json.dumps(value)}" for name, value in config.items()),
        ]
        # Short: a text of links with a thousand characters would not be shown.
        text = quote_plus("\n".join(lines), safe=":")
        where = quote(self.location, safe="")
        return f"{self.root}/locations/{where}/jobs/{named(job)}/playground/setup?config={text}"

    def partition(self, asset: dg.AssetKey, key: str) -> str:
        """The page of a partition of an asset, with all its events."""
        path = "/".join(quote(part, safe="") for part in asset.path)
        return f"{self.root}/assets/{path}?view=partitions&partition={quote(key, safe='')}&showAllEvents=true"


def markdown_link(text: str, url: str) -> str:
    return f"[{text}]({url})"
