"""First on the PYTHONPATH of a Dagster daemon, this lets it look for work every second, where it would wait for 5 or 30."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_INTERVALS = {
    "dagster._daemon.controller": "DEFAULT_DAEMON_INTERVAL_SECONDS",
    "dagster._daemon.sensor": "MIN_INTERVAL_LOOP_TIME",
}


class _QuickTicks:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _INTERVALS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_set(module: ModuleType) -> None:
            execute(module)
            assert hasattr(module, _INTERVALS[name]), f"{name} has its interval elsewhere now"
            setattr(module, _INTERVALS[name], 1)

        spec.loader.exec_module = execute_and_set  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _QuickTicks)  # type: ignore[arg-type]
