"""Where the demo runs: a directory, and an environment in which no real site is in reach."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbh_pipelines.cli.output import console
from sbh_pipelines.errors import SbhError

_FOREIGN = ("SBH_", "AWS_", "DAGSTER_", "PG")


@contextmanager
def place(directory: Path | None) -> Iterator[Path]:
    """The demo's directory. A temporary one is removed, except after an error, when its logs are wanted."""
    if directory is not None:
        yield directory
        return
    made = Path(tempfile.mkdtemp(prefix="sbh-demo-"))
    try:
        yield made
    except SbhError:
        console(stderr=True).print(f"The demo's directory is kept, with its logs: {made}", soft_wrap=True)
        raise
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def alone() -> Iterator[None]:
    """Settings and credentials in the environment are of another, real site: the demo must not see them.

    A termination request ends the demo as Ctrl-C does, so that no server is left behind; and both do so also where the
    demo was started in the background, whose jobs a shell makes deaf to Ctrl-C.
    """
    foreign = {name: value for name, value in os.environ.items() if name.startswith(_FOREIGN)}
    before = _on(signal.SIGTERM, _interrupt), _on(signal.SIGINT, _interrupt)
    for name in foreign:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(foreign)
        _on(signal.SIGTERM, before[0])
        _on(signal.SIGINT, before[1])


def _on(number: signal.Signals, handler: Any) -> Any:
    try:
        return signal.signal(number, handler)
    except ValueError:  # not in the main thread: a test
        return signal.SIG_DFL


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
