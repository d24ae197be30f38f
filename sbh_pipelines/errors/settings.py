"""Errors of the settings: nothing was read or written yet."""

from sbh_pipelines.errors.base import SbhError


class SettingsError(SbhError):
    """`sbh.toml` or the environment is wrong."""

    code, exit_status, http_status = "SBH-100", 3, 500
    advice = "correct the setting that the text names ([settings.md](settings.md)); `sbh doctor` checks all of them"


class TenancyError(SettingsError):
    """A table of the source has no place in the tenancy map, or no single one: every backup stops, so that no table is
    left out unnoticed.
    """

    code = "SBH-110"
    advice = "`sbh doctor --suggest --save`, read what it wrote, `sbh doctor`"


class ResidencyError(SettingsError):
    """A write would leave the regions that the tenant's data may lie in, or nothing proves where a bucket is."""

    code, http_status = "SBH-120", 403
    advice = (
        "correct the tenant's region, `storage.regions` or the zones ([residency.md](residency.md)); nothing was "
        "written"
    )


class PoolerRefused(SettingsError):
    """A pooler shares the database's sessions among its clients."""

    code = "SBH-130"
    advice = "let `database.dsn` name the server itself, or a pool in session mode"


class UnsafeProgram(SettingsError):
    """A client program of PostgreSQL is a minor release with a known hole."""

    code = "SBH-131"
    advice = "update PostgreSQL's client programs, or name newer ones in `platform.pg_dump`"
