"""One frozen Settings, read from `sbh.toml` and the environment.

The environment wins over the file: `SBH_DATABASE__DSN` overrides `[database] dsn`, `SBH_BACKUP__MEMORY_MIB` overrides
`[backup] memory_mib`, and so on. The file is the one named by `SBH_SETTINGS`, else `sbh.toml` in the working directory.

Every secret `X` can be given in three ways, first found wins: `X` itself (in the environment, else in the file);
`X_file`, a path; `X_secret`, the name or ARN of an AWS Secrets Manager secret. Secrets are `SecretStr`: a repr or a log
shows stars.
Loading does no I/O beyond the file; `X_file` and `X_secret` are resolved by `settings/secrets.py` when they are needed.
"""

import os
import re
from pathlib import Path
from typing import Any

import pydantic_settings
from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings.access import ApprovalSettings, AuthSettings, UiSettings
from sbh_pipelines.settings.alerts import AlertSettings
from sbh_pipelines.settings.api import ApiSettings
from sbh_pipelines.settings.audit import AuditSettings
from sbh_pipelines.settings.drafts import DraftsSettings
from sbh_pipelines.settings.health import HealthSettings
from sbh_pipelines.settings.keys import KeysSettings
from sbh_pipelines.settings.places.copies import CopyName, CopySettings, check_copies, with_primary
from sbh_pipelines.settings.places.residency import ResidencySettings, check_places
from sbh_pipelines.settings.places.storage import BackupSettings, StorageSettings
from sbh_pipelines.settings.prices import PriceSettings
from sbh_pipelines.settings.reading.environment import check_environment
from sbh_pipelines.settings.reading.file import read_file
from sbh_pipelines.settings.reading.problems import settings_error
from sbh_pipelines.settings.restore import DrillSettings, Hook, PlatformSettings, RestoreSettings
from sbh_pipelines.settings.retention import (
    PruneSettings,
    RetentionClass,
    RetentionClassOverride,
    RetentionOverride,
    RetentionSettings,
)
from sbh_pipelines.settings.schedules import JournalSettings, ScheduleName, ScheduleSettings
from sbh_pipelines.settings.section import Section
from sbh_pipelines.settings.site import SiteSettings
from sbh_pipelines.settings.source import DatabaseSettings, FileReference, FilesSettings, TableLink, TenantsSettings

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "ApprovalSettings",
    "AuditSettings",
    "AuthSettings",
    "BackupSettings",
    "CopySettings",
    "DatabaseSettings",
    "DraftsSettings",
    "DrillSettings",
    "FileReference",
    "FilesSettings",
    "HealthSettings",
    "Hook",
    "JournalSettings",
    "KeysSettings",
    "PlatformSettings",
    "PriceSettings",
    "PruneSettings",
    "ResidencySettings",
    "RestoreSettings",
    "RetentionClass",
    "RetentionClassOverride",
    "RetentionOverride",
    "RetentionSettings",
    "ScheduleName",
    "ScheduleSettings",
    "Settings",
    "SiteSettings",
    "StorageSettings",
    "TableLink",
    "TenantsSettings",
    "UiSettings",
    "load_settings",
    "load_site",
    "settings_path",
]

_SLUG = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # what a tenant id is made of


class Settings(BaseSettings):
    """Everything that can be set. Frozen; `repr` masks secrets."""

    model_config = SettingsConfigDict(
        env_prefix="SBH_", env_nested_delimiter="__", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database: DatabaseSettings = DatabaseSettings()
    tenants: TenantsSettings = TenantsSettings()
    files: FilesSettings = FilesSettings()
    storage: StorageSettings = StorageSettings()
    keys: KeysSettings = KeysSettings()
    backup: BackupSettings = BackupSettings()
    retention: RetentionSettings = RetentionSettings()
    prune: PruneSettings = PruneSettings()
    alerts: AlertSettings = AlertSettings()
    health: HealthSettings = HealthSettings()
    schedules: ScheduleSettings = ScheduleSettings()
    drafts: DraftsSettings = DraftsSettings()
    journal: JournalSettings = JournalSettings()
    restore: RestoreSettings = RestoreSettings()
    platform: PlatformSettings = PlatformSettings()
    drill: DrillSettings = DrillSettings()
    audit: AuditSettings = AuditSettings()
    residency: ResidencySettings = ResidencySettings()
    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    approval: ApprovalSettings = ApprovalSettings()
    ui: UiSettings = UiSettings()
    prices: PriceSettings = PriceSettings()
    site: SiteSettings = SiteSettings()
    copies: list[CopySettings] = Field([], description="Second places for the backups.")
    primary: CopyName | None = Field(
        None,
        description="The copy whose place is that of the backups now: what `sbh copies promote NAME` says when it is done. On every"
        " machine the same. `storage` goes on saying where the application's files are, and how the former place was. Null: the"
        " backups are where `storage` says.",
        examples=["dr"],
    )

    _as_written: "Settings | None" = PrivateAttr(None)

    @property
    def as_written(self) -> "Settings":
        """These settings, but with the backups where `storage` said before a copy became the primary."""
        return self._as_written or self

    def written_as(self, written: "Settings") -> "Settings":
        """The same settings, which follow from these."""
        made = self.model_copy()
        made._as_written = written.model_copy(update={"primary": None})
        return made

    @model_validator(mode="after")
    def _catalog_apart(self) -> "Settings":
        for field, template in (("files.prefix", self.files.prefix), ("storage.prefix", self.storage.prefix)):
            for name, prefix in (
                ("storage.catalog_prefix", self.storage.catalog_prefix),
                ("platform.prefix", self.platform.prefix),
                ("journal.prefix", self.journal.prefix),
            ):
                if _may_overlap(prefix, template):
                    raise ValueError(f"{name} lies within {field} of some tenant, or around it")
        return self

    @model_validator(mode="after")
    def _journal_apart(self) -> "Settings":
        journal, catalog = self.journal.prefix, self.storage.catalog_prefix
        if _may_overlap(journal, catalog) or _may_overlap(journal, self.platform.prefix):
            raise ValueError("journal.prefix lies within storage.catalog_prefix or platform.prefix, or around it")
        return self

    @model_validator(mode="after")
    def _live_files_apart(self) -> "Settings":
        """A repository is erased by its prefix, and a restore of files removes what it finds below theirs."""
        files, storage = self.files, self.storage
        if not files.enabled or not _unify(storage.bucket, files.bucket):
            return self
        below = "/".join(storage.prefix.split("/")[files.prefix.count("/") :])
        if _may_hold(files.prefix, storage.prefix) and not any(e and below.startswith(e) for e in files.exclude):
            raise ValueError(
                "storage.prefix lies within files.prefix of some tenant, and files.exclude does not name it: a restore of that"
                f" tenant's files would remove backups; add {below!r} to files.exclude, or give the backups another folder"
            )
        if _may_hold(storage.prefix, files.prefix):
            raise ValueError(
                "storage.prefix lies around files.prefix of some tenant: erasing its backups would erase live files; give the"
                " backups a folder of their own, e.g. {tenant}/backups/"
            )
        return self

    def data_type(self, tier: str) -> str:
        """The tier whose recovery point objective holds for a tenant of `tier`: the default tier's, if it has none itself."""
        return tier if tier in self.drill.recovery_point_objectives_s else self.tenants.default_tier

    def recovery_point_objective_s(self, tier: str) -> float | None:
        """How much a tenant of `tier` is to lose at most, s; None without an objective."""
        return self.drill.recovery_point_objectives_s.get(self.data_type(tier))

    @model_validator(mode="after")
    def _data_stays(self) -> "Settings":
        to = [copy.to for copy in self.copies]
        check_places(self.residency, self.storage, self.files, self.keys, self.platform, to)
        check_copies(self)
        return self

    @model_validator(mode="after")
    def _secrets_at_home(self) -> "Settings":
        """Sections whose secrets are in Secrets Manager know the region; they are frozen, so copies take their places."""
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, list):
                self.__dict__[name] = [one.at_home_in(self.storage.regions[0]) for one in section]
            if not isinstance(section, Section):
                continue
            fields = type(section).model_fields
            if any(
                getattr(section, f) for f in fields if f.endswith("_secret") and f.removesuffix("_secret") in fields
            ):
                self.__dict__[name] = section.at_home_in(self.storage.regions[0])
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        _only_ours(env_settings)
        # The environment comes before what the file gave (passed as init arguments), so that it wins.
        return env_settings, init_settings


def _only_ours(environment: PydanticBaseSettingsSource) -> None:
    """Leave out variables of others: pydantic looks at each of them once for each section, which takes as long as all the rest."""
    if isinstance(environment, EnvSettingsSource):
        prefix = environment.env_prefix.lower()
        environment.env_vars = {name: value for name, value in environment.env_vars.items() if name.startswith(prefix)}


def _may_overlap(prefix: str, template: str) -> bool:
    """Whether, for some tenant, one of the two prefixes lies within the other."""

    def pattern(folder: str) -> str:
        return re.escape(folder).replace(r"\{tenant\}", _SLUG).replace(r"\{region\}", ".+")

    folders = zip(prefix.rstrip("/").split("/"), template.rstrip("/").split("/"), strict=False)
    # nosemgrep: expression-of-others - escaped, from the settings
    return all(re.fullmatch(pattern(theirs), ours) for ours, theirs in folders)


def _may_hold(outer: str, inner: str) -> bool:
    """Whether, for some two tenants, the one's inner prefix lies within the other's outer one. Both are templates."""
    around, within = outer.rstrip("/").split("/"), inner.rstrip("/").split("/")
    return len(around) <= len(within) and all(map(_unify, around, within))


def _unify(one: str, other: str) -> bool:
    """Whether two templates may be filled in to the same text; what is between placeholders is not looked at."""
    if "{" not in one and "{" not in other:
        return one == other
    if "{" not in one or "{" not in other:
        plain, template = (one, other) if "{" not in one else (other, one)
        start, end = template.partition("{")[0], template.rpartition("}")[2]
        return len(plain) > len(start) + len(end) and plain.startswith(start) and plain.endswith(end)
    starts = sorted((one.partition("{")[0], other.partition("{")[0]), key=len)
    ends = sorted((one.rpartition("}")[2], other.rpartition("}")[2]), key=len)
    return starts[1].startswith(starts[0]) and ends[1].endswith(ends[0])


def load_settings(path: Path | str | None = None) -> Settings:
    """Read the settings; `path` overrides `SBH_SETTINGS`. Relative paths in the file are relative to the file.

    Where they name a `primary`, the backups are at that copy's place.

    Raises SettingsError when the file is missing though named, is not TOML, or a field or a variable is unknown, out of
    bounds, or cannot be read.
    """
    file, values = _read(path)
    check_environment(Settings, os.environ)
    try:
        return with_primary(Settings(**values))
    except ValidationError as error:
        raise settings_error(Settings, file, os.environ, error) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError(
            "The variables of the environment cannot be read",
            why=str(error),
            remedy="lists and tables are JSON there, e.g. SBH_STORAGE__REGIONS='[\"eu-west-1\"]'",
        ) from None


class _SiteAlone(BaseSettings):
    """The section `site`, whatever else the settings say."""

    model_config = SettingsConfigDict(env_prefix="SBH_", env_nested_delimiter="__", frozen=True, extra="ignore")

    site: SiteSettings = SiteSettings()

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        return sources["env_settings"], sources["init_settings"]


def load_site(path: Path | str | None = None) -> SiteSettings:
    """The section `site` alone: what is wrong elsewhere in the settings changes no names. Raises SettingsError."""
    file, values = _read(path)
    try:
        return _SiteAlone(**values).site
    except ValidationError as error:
        raise settings_error(Settings, file, os.environ, error) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError("The site's name cannot be read", why=str(error), remedy="correct site.name") from None


def settings_path(path: Path | str | None = None) -> Path:
    """The settings file: `path`, else the one that SBH_SETTINGS names, else sbh.toml here."""
    return Path(path or os.environ.get("SBH_SETTINGS") or "sbh.toml")


def _read(path: Path | str | None) -> tuple[Path, dict[str, Any]]:
    """The settings file, and what it says; nothing where none is named and none is here. Raises SettingsError."""
    file = settings_path(path)
    if file.exists():
        return file, read_file(file)
    if path or os.environ.get("SBH_SETTINGS"):
        raise SettingsError(
            "No settings file",
            on=str(file),
            remedy="point SBH_SETTINGS at the right one; or `sbh settings init` writes it",
        )
    return file, {}
