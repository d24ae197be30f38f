"""Links to pages of Dagster, for the metadata of events."""

import json
from collections.abc import Mapping
from urllib.parse import quote, quote_plus

import dagster as dg

LOCATION = "sbh_pipelines.definitions"
"""The name of the code location, wherever these definitions are loaded."""


def launchpad(job: str, op: str, config: Mapping[str, object], root: str = "") -> str:
    """The launchpad of a job, with this configuration of its op written into it. `root`: as `root_of` gives it."""
    lines = [
        "ops:",
        f"  {op}:",
        "    config:",
        *(f"      {name}: {json.dumps(value)}" for name, value in config.items()),
    ]
    text = quote_plus(
        "\n".join(lines), safe=":"
    )  # short: a text of links with a thousand characters would not be shown
    return f"{root}/locations/{LOCATION}/jobs/{job}/playground/setup?config={text}"


def partition(asset: dg.AssetKey, key: str, root: str = "") -> str:
    """The page of a partition of an asset, with all its events."""
    path = "/".join(quote(part, safe="") for part in asset.path)
    return f"{root}/assets/{path}?view=partitions&partition={quote(key, safe='')}&showAllEvents=true"


def root_of(dagster_url: str | None) -> str:
    """What links begin with: the setting `alerts.dagster_url`. Empty without it: the host that shows the page."""
    return (dagster_url or "").rstrip("/")


def markdown_link(text: str, url: str) -> str:
    return f"[{text}]({url})"
