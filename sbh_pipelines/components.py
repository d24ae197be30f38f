"""SBH Pipelines as a component of Dagster: a folder with a `defs.yaml` in a team's own code location.

    dg scaffold defs sbh_pipelines.components.SbhBackups backups

It is found by the entry point `dagster_dg_cli.registry_modules` of this package.
"""

import os
import sys
from pathlib import Path
from typing import Literal

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, Field

from sbh_pipelines.errors import SettingsError

_DEFINITIONS = "sbh_pipelines.definitions"
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
        """The definitions. Raises SettingsError: no settings file, or a second component in the same code location."""
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
        chosen = {"SBH_SETTINGS": str(file)}
        if self.site is not None:
            chosen["SBH_SITE__NAME"] = self.site
        chosen |= {f"SBH_SCHEDULES__{name.upper()}": line for name, line in self.schedules.items()}
        differing = {name for name, value in chosen.items() if os.environ.get(name) != value}
        if differing and _DEFINITIONS in sys.modules:
            raise SettingsError(
                "A second component in one code location",
                on=str(file),
                why=f"this process is of {os.environ.get('SBH_SETTINGS', 'other settings')} already",
                remedy="give each site a code location of its own (docs/sites.md)",
            )
        os.environ.update(chosen)
