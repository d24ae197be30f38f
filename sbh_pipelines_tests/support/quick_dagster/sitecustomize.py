"""First on the PYTHONPATH of a Dagster daemon, this lets it look for work every second, where it would wait for 5 or 30, and
has the worker of each run forked from a process that has imported what all of them need: five seconds of a core for each run.
With QUICK_HEARTBEATS in the environment workers say every two seconds that they live, and are missed after ten.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

_CONSTANTS: dict[str, dict[str, float]] = {
    "dagster._daemon.controller": {"DEFAULT_DAEMON_INTERVAL_SECONDS": 1},
    "dagster._daemon.sensor": {"MIN_INTERVAL_LOOP_TIME": 1},
}
if "QUICK_HEARTBEATS" in os.environ:
    _CONSTANTS["sbh_pipelines.orchestration.hosts.heartbeat"] = {"BEAT_S": 2.0, "SILENT_S": 10.0}
    _CONSTANTS["sbh_pipelines.orchestration.alerting.stuck_runs"] = {"_CONFIRM_S": 2.0, "_GRACE_S": 5.0}
_WATCH = "run_watch"
_CODE_SERVER = "dagster._grpc.server"
_SCRIPTS = "alembic.script.base"


def _forking(method: str) -> Any:
    """The code server asks for `spawn`. It has threads, so what is forked is not the code server itself."""
    import multiprocessing

    assert method == "spawn", f"{_CODE_SERVER} starts its runs in another way now"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["run_imports"])
    return context


def _change(module: ModuleType) -> None:
    if module.__name__ == _CODE_SERVER:
        assert hasattr(module, "multiprocessing"), f"{_CODE_SERVER} starts its runs in another way now"
        vars(module)["multiprocessing"] = SimpleNamespace(get_context=_forking)
        return
    if module.__name__ == _SCRIPTS:
        import migrations

        migrations.read_once(module)
        return
    for name, value in _CONSTANTS[module.__name__].items():
        assert hasattr(module, name), f"{module.__name__} has its {name} elsewhere now"
        setattr(module, name, value)
    if hasattr(module, _WATCH):
        vars(module)[_WATCH]._min_interval = 3


class _QuickDagster:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in (_CODE_SERVER, _SCRIPTS, *_CONSTANTS):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            _change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _QuickDagster)  # type: ignore[arg-type]
