"""docs/errors.md, made of the tree of errors, so that no code is without an explanation: `python -m sbh_pipelines.errors.page`."""

import inspect
from collections.abc import Iterator

from sbh_pipelines.errors import SbhError

_HEAD = """\
# Errors

<!-- Made by `python -m sbh_pipelines.errors.page > docs/errors.md`; a test keeps it true. Change the classes in
`sbh_pipelines/errors/`. -->

Every error says what failed, on what, why, and what to do next, and has a code that stays the same. Do what `next` says: it knows
your case. This page has what holds for all errors of a code. *Exit* is the status of the command line, *HTTP* that of the API;
*passes* marks those after which the same call may succeed later. A code that is passed on, such as that of a finding in
`sbh health` or of a tenant in a batch, means the same there."""
_FAMILIES = {
    "SBH-0": "Not foreseen",
    "SBH-1": "Settings",
    "SBH-2": "What was asked for",
    "SBH-3": "Database and files",
    "SBH-4": "Object store",
    "SBH-5": "Keys",
    "SBH-6": "Repository, trail, journal, copies",
    "SBH-7": "Restores, drills, exports",
    "SBH-8": "Embedded servers",
    "SBH-9": "Batches, alerts, Dagster, findings of health",
}


def kinds(kind: type[SbhError] = SbhError) -> Iterator[type[SbhError]]:
    """All classes of the tree."""
    yield kind
    for below in kind.__subclasses__():
        if below.__module__.startswith(__package__ or "sbh_pipelines.errors"):
            yield from kinds(below)


def page() -> str:
    """The page, in Markdown."""
    lines, family = [_HEAD], ""
    for kind in sorted(kinds(), key=lambda kind: kind.code):
        if kind.code[:5] != family:
            family = kind.code[:5]
            lines += ["", f"## {family}xx: {_FAMILIES[family]}", ""]
            lines += ["| code | name | means | do | exit | HTTP |", "|---|---|---|---|---|---|"]
        means = _meaning(kind) + (" *Passes.*" if kind.transient else "")
        code = f'<a id="{kind.code.lower()}"></a>{kind.code}'
        lines.append(
            f"| {code} | `{kind.__name__}` | {means} | {_cell(kind.advice)} | {kind.exit_status} | {kind.http_status} |"
        )
    return "\n".join(lines) + "\n"


def _meaning(kind: type[SbhError]) -> str:
    """The first paragraph of the docstring."""
    return _cell(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " "))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
