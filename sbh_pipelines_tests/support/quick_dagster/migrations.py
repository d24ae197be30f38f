"""Dagster's migrations, read once in a process: each of its storages reads ninety files whenever it is opened, 70 ms of a core."""

from functools import wraps
from importlib import import_module
from typing import Any

_STORAGE = "dagster._core.storage"
_IN_FILES = (
    "runs.sqlite.sqlite_run_storage",
    "event_log.sqlite.sqlite_event_log",
    "schedules.sqlite.sqlite_schedule_storage",
)


def read_once(module: Any) -> None:
    """`module` is `alembic.script.base`. What was read is kept for all who open the same storage."""
    read, kept = module.ScriptDirectory.from_config, {}

    @wraps(read)
    def from_config(config: Any) -> Any:
        place = config.config_file_name, config.get_main_option("script_location")
        if place not in kept:
            kept[place] = read(config)
        return kept[place]

    module.ScriptDirectory.from_config = from_config


def read_for_runs() -> None:
    """Those of the storages in files, so that processes that are forked have them."""
    sql = import_module(f"{_STORAGE}.sql")
    for name in _IN_FILES:
        file = import_module(f"{_STORAGE}.{name}").__file__
        sql.ScriptDirectory.from_config(sql.get_alembic_config(file)).as_revision_number("head")
