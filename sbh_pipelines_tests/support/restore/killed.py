"""Restores in processes that are killed: at their nth event, which is a write to a store, a statement, or a notice of progress.

`Killer` starts one interpreter that has everything imported and forks for each restore, so that a death costs no start.
In it `main` runs. An event is noted before it takes effect; `after` waits until it has.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2
import psycopg2.extensions

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.application import ADMIN
from sbh_pipelines_tests.support.fault_stores import WRITES, wrap

NEVER = 1 << 30


@dataclass(frozen=True)
class Ended:
    """How a process ended: killed or not, its error if it had one, and the events until then."""

    killed: bool
    error: str
    events: list[str]


class Killer:
    """Runs restores of one application, each in a process of its own."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._file, self._log = directory / "settings.json", directory / "events"
        self._file.write_text(json.dumps(settings.model_dump(mode="json", exclude_unset=True)))

    def __enter__(self) -> Self:
        program = f"from {__name__} import main; main()"
        argv = [sys.executable, "-c", program, str(self._file), str(self._log)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate("")

    def restore(
        self, backup_id: str, tenant: str, *, nth: int = NEVER, at: str = "", after: bool = False, **request: Any
    ) -> Ended:
        """Restore; dead at the nth event (from 1), or at the first one with `at` in it, before or after it has taken effect.

        How many events come before one varies with the time that they take: notices are left out where they come too fast.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._log.write_text("")
        order = {"backup": backup_id, "tenant": tenant, "nth": nth, "at": at, "after": after, "request": request}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that starts the others is gone"
        ended = json.loads(answer)
        assert ended["status"] in (0, 1, -signal.SIGKILL)
        return Ended(ended["status"] == -signal.SIGKILL, ended["error"], self._log.read_text().splitlines())


class Events:
    """Counts events, writes them down, and kills this process at one of them."""

    def __init__(self, log: Path, nth: int, at: str, after: bool) -> None:
        self._log, self._nth, self._at, self._late = log.open("a"), nth, at, after
        self._lock = threading.Lock()
        self._count = 0
        self._due = False

    def before(self, event: str) -> None:
        with self._lock:
            self._count += 1
            self._log.write(event + "\n")
            self._log.flush()
            self._due = self._due or self._count == self._nth or (self._at != "" and self._at in event)
            if self._due and not self._late:
                os.kill(os.getpid(), signal.SIGKILL)

    def after(self) -> None:
        with self._lock:
            if self._due:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Read orders, one a line; answer each with a line when its process has ended."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    errors = Path(sys.argv[2]).with_suffix(".error")
    for line in sys.stdin:
        order = json.loads(line)
        errors.write_text("")
        child = os.fork()
        if child == 0:
            os._exit(_run(settings, order, errors))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "error": errors.read_text()}), flush=True)


def _run(settings: Settings, order: dict[str, Any], errors: Path) -> int:
    events = Events(Path(sys.argv[2]), order["nth"], order["at"], order["after"])
    psycopg2.connect = _noting(psycopg2.connect, events)
    service = wrap(
        BackupService(settings),
        lambda verb, key: events.before(f"store {verb} {key}") if verb in WRITES else None,
        lambda verb, key: events.after() if verb in WRITES else None,
    )
    try:
        service.restore_backup(
            order["backup"],
            order["tenant"],
            ADMIN,
            request=RestoreRequest.of(**order["request"]),
            progress=lambda notice: events.before(f"notice {notice.step}"),
        )
    except BaseException:
        errors.write_text(traceback.format_exc())
        return 1
    return 0


def _noting(connect: Callable[..., Any], events: Events) -> Callable[..., Any]:
    """`psycopg2.connect` whose sessions tell the statements of restores."""

    class Noted(psycopg2.extensions.cursor):  # type: ignore[misc]
        def execute(self, query: Any, arguments: Any = None) -> None:
            events.before(f"statement {' '.join(str(query).split())[:60]}")
            super().execute(query, arguments)
            events.after()

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
            events.before(f"statement {' '.join(str(sql).split())[:60]}")
            super().copy_expert(sql, file, size)
            events.after()

    def noted(*arguments: Any, **named: Any) -> Any:
        restoring = named.get("application_name") == "sbh restore"
        return connect(*arguments, **({**named, "cursor_factory": Noted} if restoring else named))

    return noted
