"""`sbh.toml`, as it comes from editors of all kinds."""

import codecs
import tomllib
from pathlib import Path
from typing import Any

from sbh_pipelines.errors import SettingsError

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_file(file: Path) -> dict[str, Any]:
    """What the file says; relative paths in it are made relative to it. A byte order mark of UTF-8 is passed over.

    Raises SettingsError.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            "Cannot read the settings",
            on=str(file),
            why=error.strerror or type(error).__name__,
            remedy=f"let the user that runs sbh read it: it must be a file, e.g. chmod 640 {file}",
        ) from None
    values = _parsed(file, content)
    _resolve_paths(values, file.resolve().parent)
    return values


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    for mark, name in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise SettingsError(
                "Cannot read the settings",
                on=str(file),
                why=f"the file is {name}, by its byte order mark",
                remedy=f"save it as UTF-8, e.g. iconv -f {name} -t UTF-8 {file} > sbh.utf8.toml",
            )
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SettingsError(
            "Cannot read the settings",
            on=str(file),
            why=f"line {line} is not UTF-8",
            remedy="save the file as UTF-8",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            "Cannot read the settings",
            on=str(file),
            why=f"it is no TOML: {error}",
            remedy='correct that line; a text is in quotes, a section in brackets: [storage] and below it bucket = "backups"',
        ) from None


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """In sections, and in lists of tables at the top."""
    for given in values.values():
        for section in given if isinstance(given, list) else [given]:
            if isinstance(section, dict):
                _resolve_section(section, base)


def _resolve_section(section: dict[str, Any], base: Path) -> None:
    for name, value in section.items():
        if (name.endswith("_file") or name == "path") and isinstance(value, str):
            section[name] = str(base / value)
        elif name.endswith("_files") and isinstance(value, list):
            section[name] = [str(base / file) if isinstance(file, str) else file for file in value]
