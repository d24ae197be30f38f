"""The command line, `sbh`: a thin face over `backup/service/`. Decides nothing; parses, calls, prints.

    app            the tree of commands, the exit statuses, and what happens to an error
    command        how a function becomes a command: shared options, and its answer
    options        options that many commands take
    output         tables, units, JSON, errors
    progress       progress bars on standard error
    settings_docs  docs/settings.md, made of the settings
    commands       a file per group
    show           tables that several commands print
    servers        the commands that start servers
    demo           `sbh demo`

Arguments -> command -> service -> a result -> table or JSON.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `sbh` with these arguments (default: those of the process); the exit status."""
    from sbh_pipelines.cli.app import run  # late, so that importing the package costs nothing

    return run(arguments)
