"""What Dagster keeps by name alone, named for the site of this process.

The site is read once, when the definitions are loaded: a code location is one site, and each has a process of its own. Of
settings that cannot be read it is the site without a name; what uses them then says what is wrong (`resources.py`).
"""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import SiteSettings, load_site, settings_path

QUEUE_TAG = "dagster-celery/queue"
"""Under Celery, the queue that a run waits in. Other launchers take no notice of it."""
DEFAULT_QUEUE = "dagster"


def _here() -> SiteSettings:
    try:
        return load_site()
    except SettingsError:
        return SiteSettings()


_SITE, _FILE = _here(), settings_path().resolve()


def site() -> SiteSettings:
    """The site that the definitions of this process are of."""
    return _SITE


def settings_file() -> Path:
    """The settings file that the definitions of this process were loaded with, without links; it need not be there."""
    return _FILE


def named(text: str) -> str:
    """A name of this site's: `eu__restore_job`; `restore_job` where the site has none."""
    return site().named(text)


def key(*path: str) -> dg.AssetKey:
    """An asset of this site's: `eu/tenant_backup/full`; `tenant_backup/full` where the site has no name."""
    return dg.AssetKey([site().name, *path] if site().name else path)


def own_path(asset: dg.AssetKey) -> tuple[str, ...]:
    """The path of one of this site's assets without the site's name; empty for another site's."""
    path = tuple(asset.path)
    if not site().name:
        return path
    return path[1:] if path[0] == site().name else ()


def tags(of_job: Mapping[str, str]) -> dict[str, str]:
    """The tags of a job, with those by which runs of this site are known, and wait for workers of this site."""
    queue = {QUEUE_TAG: named(DEFAULT_QUEUE)} if site().name else {}
    return {**site().tags, **queue, **of_job}
