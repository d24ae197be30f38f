"""Starts the guarded web UI: `python -m sbh_pipelines.orchestration.guarded_ui`, which is what `sbh ui` does."""

import argparse
import logging
import os
import sys

from sbh_pipelines.errors import SbhError
from sbh_pipelines.settings import load_settings

_CALLERS = ("SBH_TOKEN", "SBH_TOKEN_FILE")  # of whoever started it: nothing that runs and their workers should have


def main() -> int:
    parser = argparse.ArgumentParser(prog="sbh ui", description="Dagster's web UI behind a login.")
    parser.add_argument("--settings", help="settings file; default: SBH_SETTINGS, else sbh.toml here")
    parser.add_argument("--host", help="address to listen on; default: the setting ui.host")
    parser.add_argument("--port", type=int, help="port to listen on; default: the setting ui.port")
    parser.add_argument("-m", "--module", help="module with the definitions")
    parser.add_argument("-w", "--workspace", action="append", default=[], help="workspace file, as Dagster takes it")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    for name in _CALLERS:
        os.environ.pop(name, None)
    if given.settings:
        os.environ["SBH_SETTINGS"] = os.path.abspath(given.settings)  # for the code servers as well
    os.environ["PYTHONSAFEPATH"] = "1"  # nor do those take modules from the folder that this was called in
    try:
        settings = load_settings()
        from sbh_pipelines.orchestration.guarded_ui import server  # imports Dagster: seconds

        module = given.module or server.DEFINITIONS
        where = server.Where(
            given.host or settings.ui.host, given.port or settings.ui.port, module, tuple(given.workspace)
        )
        server.serve(settings, where)
    except SbhError as error:
        print(f"error  {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
