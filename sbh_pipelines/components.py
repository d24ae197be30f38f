"""SBH Pipelines as a component of Dagster: a folder with a `defs.yaml` in a team's own code location.

    dg scaffold defs sbh_pipelines.components.SbhBackups backups

It is found by the entry point `dagster_dg_cli.registry_modules` of this package.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, Field

from sbh_pipelines.errors import SettingsError

_NAMES = "sbh_pipelines.orchestration.common.names"
_WORKER = "sbh_pipelines.orchestration.hosts.celery_worker"
ScheduleField = Literal[
    "hourly_incremental", "differential", "daily_full", "weekly_full", "daily_prune", "journal_drain", "copies",
    "storage_report", "time_zone",
]  # fmt: skip


class SbhBackupsParams(BaseModel):
    """What `dg scaffold defs` asks for."""

    settings: str = Field("sbh.toml", description="The settings file, absolute or beside defs.yaml.")


class SbhBackupsScaffolder(dg.Scaffolder[SbhBackupsParams]):
    """Writes `defs.yaml`; `sbh settings init` writes the settings file."""

    @classmethod
    def get_scaffold_params(cls) -> type[SbhBackupsParams]:
        return SbhBackupsParams

    def scaffold(self, request: dg.ScaffoldRequest[SbhBackupsParams]) -> None:
        scaffold_component(request, {"settings": request.params.settings})


@dg.scaffold_with(SbhBackupsScaffolder)
class SbhBackups(dg.Component, dg.Model, dg.Resolvable):
    """Backups and restores of the tenants of one application database: its assets, jobs, schedules and sensors.

    A code location has one: its process is of one site. The location's own executor and I/O managers stay as they are.
    """

    settings: str = Field("sbh.toml", description="The settings file, absolute or beside defs.yaml.")
    site: str | None = Field(
        None,
        description="Name of the site, where the instance has several: over `site.name` of the settings.",
    )
    schedules: dict[ScheduleField, str] = Field(
        {},
        description="Cron lines, and `time_zone`, by the fields of `[schedules]`; empty: off.",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions. Raises SettingsError: no settings file, a second component in the same code
        location, or a worker of another site."""
        file = (context.path / self.settings).resolve()
        if not file.is_file():
            raise SettingsError(
                "The settings of the component are not there",
                on=str(file),
                why=f"{context.path / 'defs.yaml'} names them",
                remedy=f"write them: sbh settings init --settings {file}; or correct `settings` in defs.yaml",
            )
        self._choose(file)
        from sbh_pipelines.definitions import defs

        return dg.Definitions(
            assets=defs.assets,
            jobs=defs.jobs,
            schedules=defs.schedules,
            sensors=defs.sensors,
            resources={"backups": (defs.resources or {})["backups"]},
        )

    def _choose(self, file: Path) -> None:
        """Say by the environment, as runs and their workers find it, which settings this process is of."""
        schedules = {f"SBH_SCHEDULES__{name.upper()}": line for name, line in self.schedules.items()}
        if _NAMES in sys.modules:
            self._require_same(file, schedules)
        os.environ.update({"SBH_SETTINGS": str(file), **schedules})
        if self.site is not None:
            os.environ["SBH_SITE__NAME"] = self.site

    def _require_same(self, file: Path, schedules: Mapping[str, str]) -> None:
        """Where the definitions are loaded already, they are of this component's site. A worker of Celery has no schedules."""
        from sbh_pipelines.orchestration.common.names import settings_file, site

        worker = _WORKER in sys.modules
        same = settings_file() == file and self.site in (None, site().name)
        if same and (worker or schedules.items() <= os.environ.items()):
            return
        named = f", the site {site().name}" if site().name else ""
        raise SettingsError(
            "A worker of another site" if worker else "A second component in one code location",
            on=str(file) + (f", the site {self.site}" if self.site else ""),
            why=f"this process is of {settings_file()}{named}" + (", or of other schedules" if same else " already"),
            remedy=f"start the worker with SBH_SETTINGS={file}"
            + (f" and SBH_SITE__NAME={self.site}" if self.site else "")
            if worker
            else "give each site a code location of its own (docs/sites.md)",
        )
