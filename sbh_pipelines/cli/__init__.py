"""The command line, `sbh`: a thin face over `backup/service/service.py`. Decides nothing; parses, calls, prints.

    app       the tree of commands, the exit codes in its help, and what happens to an error
    command   how a function becomes a command: the options that all have, what they share, and their answer
    output    tables, units, JSON, errors
    progress  progress bars on standard error

One module per noun holds that noun's commands: stack, tenants, backup, restore, doctor, settings, demo.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sbh` with these arguments (default: those of the process); the exit status."""
    from sbh_pipelines.cli.app import run  # late, so that importing the package costs nothing

    return run(arguments)
