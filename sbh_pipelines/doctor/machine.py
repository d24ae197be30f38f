"""This machine: the settings file, secrets that others could read, free disk, its clock against those of others.

Leases, recovery points and signatures all rest on clocks that agree.
"""

import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, SecretStr

from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.settings import Settings
from sbh_pipelines.settings.reading.fields import tables_of
from sbh_pipelines.settings.section import Section

AREA = "machine"
DISK_WARNING_BYTES = 1 << 30
DISK_ERROR_BYTES = 100 << 20
CLOCK_WARNING_S = 5.0
CLOCK_ERROR_S = 30.0  # a tenth of the default lease: beyond, a live writer's lease could look expired


def check(report: Report, settings: Settings, settings_file: Path | None) -> None:
    _settings_file(report, settings, settings_file)
    _secret_files(report, settings)
    _disk(report)


def _settings_file(report: Report, settings: Settings, file: Path | None) -> None:
    if file is None or not file.exists():
        report.warn(
            "settings",
            "No settings file: defaults and the environment only",
            remedy="`sbh settings init` writes a first sbh.toml; or name yours with SBH_SETTINGS",
        )
        return
    report.ok("settings", "The settings are valid", str(file.resolve()))
    inline = sorted(_inline_secrets(tomllib.loads(file.read_text("utf-8"))))
    if inline and _readable_by_others(file):
        report.warn(
            "settings",
            "Others on this machine can read secrets in the settings file",
            ", ".join(inline),
            f"chmod 600 {file}",
        )


def _inline_secrets(values: dict[str, object]) -> Iterator[str]:
    """Dotted names of the secrets that the file itself holds."""
    for section, info in Settings.model_fields.items():
        model = tables_of(info.annotation) or info.annotation
        given = values.get(section)
        for one in given if isinstance(given, list) else [given]:
            if isinstance(model, type) and issubclass(model, BaseModel) and isinstance(one, dict):
                for name, field in model.model_fields.items():
                    if SecretStr in getattr(field.annotation, "__args__", ()) and one.get(name):
                        yield f"{section}.{name}"


def _secret_files(report: Report, settings: Settings) -> None:
    files = {"keys.key_file": settings.keys.key_file if settings.keys.provider == "local" else None}
    for copy in settings.copies:
        files[f"copies.{copy.name}.key_file"] = copy.key_file if settings.keys.provider == "local" else None
    each = {name: getattr(settings, name) for name in Settings.model_fields}
    sections = {name: section for name, section in each.items() if isinstance(section, Section)}
    sections |= {f"copies.{copy.name}": copy for copy in settings.copies}
    for section, model in sections.items():
        for name in type(model).model_fields:
            if f"{name}_file" in type(model).model_fields:
                files[f"{section}.{name}_file"] = getattr(model, f"{name}_file")
    for name, file in files.items():
        if file is None:
            continue
        if not os.access(file, os.R_OK):
            report.fail(
                "settings", f"Cannot read {name}", str(file), "put the file there, readable by this user, mode 600"
            )
        elif _readable_by_others(file):
            report.warn("settings", f"Others on this machine can read {name}", str(file), f"chmod 600 {file}")
        else:
            report.ok("settings", f"{name} is readable by its owner only", str(file))


def _readable_by_others(file: Path) -> bool:
    return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _disk(report: Report) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    detail = f"{free / (1 << 20):,.0f} MiB free in {folder}"
    remedy = "free some, or point TMPDIR at a larger disk"
    if free < DISK_ERROR_BYTES:
        report.fail(AREA, "Hardly any disk for temporary files", detail, remedy)
    elif free < DISK_WARNING_BYTES:
        report.warn(AREA, "Little disk for temporary files", detail, remedy)
    else:
        report.ok(AREA, "Disk for temporary files", detail)


def check_clock(report: Report, whose: str, offset_s: float, error_s: float = 0.0) -> None:
    """A finding on one clock; `error_s` is how far off the measurement may be."""
    if error_s == float("inf"):
        report.warn("clocks", f"{whose} does not tell its time")
        return
    detail = f"{offset_s:+.1f} s against this machine's" + (f", measured to ±{error_s:.1f} s" if error_s >= 0.1 else "")
    beyond = abs(offset_s) - error_s
    remedy = "synchronize this machine's clock, or that one's, with NTP (`timedatectl set-ntp true`)"
    if beyond > CLOCK_ERROR_S:
        report.fail("clocks", f"The clock of {whose} is far off", detail, remedy)
    elif beyond > CLOCK_WARNING_S:
        report.warn("clocks", f"The clock of {whose} is off", detail, remedy)
    else:
        report.ok("clocks", f"The clock of {whose} agrees", detail)
