"""How a function becomes a command.

Every command takes the same options (--settings, --json, --quiet, --wide, --debug), before or after its name, and returns an
Answer, which is then shown as a table or as one JSON document. Heavy modules are imported where they are used, so that
`sbh --help` and completion stay fast.
"""

import inspect
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from sbh_pipelines.cli.output import Answer, console, print_answer
from sbh_pipelines.errors import AccessDenied, NotConfirmed, SettingsError

if TYPE_CHECKING:
    from sbh_pipelines.backup.service import BackupService
    from sbh_pipelines.model import ProgressSink
    from sbh_pipelines.security.policy import UserContext
    from sbh_pipelines.settings import Settings

P = ParamSpec("P")

SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings file; default: SBH_SETTINGS, else sbh.toml here.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document, also for an error.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, and only the ids, or one word, as the result.")
]
WideOption = Annotated[
    bool, typer.Option("--wide", help="Every column of a table, however wide the terminal is.", show_default=False)
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

FromCopyOption = Annotated[
    str | None,
    typer.Option(
        "--from-copy",
        help="Read the backups of this copy, by its name in the settings: only its buckets and keys are asked.",
        metavar="NAME",
        show_default=False,
    ),
]

SHARED: dict[str, Any] = {
    "settings_file": SettingsOption,
    "as_json": JsonOption,
    "quiet": QuietOption,
    "wide": WideOption,
    "debug": DebugOption,
}


@dataclass
class Invocation:
    """One call of `sbh`: its shared options, and what commands need that depends on them."""

    settings_file: Path | None = None
    as_json: bool = False
    quiet: bool = False
    wide: bool = False
    debug: bool = False
    exit_status: int = field(default=0, init=False)
    _needs_settings: bool = field(default=False, init=False)

    def merge(self, settings_file: Path | None, as_json: bool, quiet: bool, wide: bool, debug: bool) -> None:
        """Options given before and after the command's name add up; of two settings files the later counts."""
        self.settings_file = settings_file or self.settings_file
        self.as_json, self.quiet = self.as_json or as_json, self.quiet or quiet
        self.wide, self.debug = self.wide or wide, self.debug or debug

    @property
    def named_file(self) -> Path | None:
        """The settings file that the command line or the environment names."""
        named = self.settings_file or os.environ.get("SBH_SETTINGS")
        return Path(named) if named else None

    @property
    def lacks_settings(self) -> bool:
        """Whether settings were asked for, and there are none: no file is named or here, and no variable has a field."""
        given = self.named_file is not None or any(n.startswith("SBH_") and "__" in n for n in os.environ)
        return self._needs_settings and not given and not Path("sbh.toml").exists()

    def settings(self) -> "Settings":
        """Raises SettingsError."""
        self._needs_settings = True
        from sbh_pipelines.settings import load_settings

        return load_settings(self.settings_file)

    def service(self, from_copy: str | None = None) -> "BackupService":
        """That of the settings; `from_copy`: over the backups of a copy. Raises SettingsError."""
        from sbh_pipelines.backup.service import BackupService

        service = BackupService(self.settings())
        return service if from_copy is None else service.at_copy(from_copy)

    def user(self) -> "UserContext":
        """The user of the token in SBH_TOKEN, or in the file SBH_TOKEN_FILE. Without one, a user who may run the command and
        read its secrets may do everything; the name is for the audit trail. Raises Unauthenticated, SettingsError.
        """
        if (token := _given_token()) is not None:
            from sbh_pipelines.security.tokens import open_tokens

            return open_tokens(self.settings()).verify(token, via="cli")
        return operating_user()

    @contextmanager
    def progress(self) -> "Iterator[ProgressSink]":
        """A sink that draws bars on standard error while the block runs; silent with --quiet."""
        from sbh_pipelines.cli.progress import bars

        with bars(quiet=self.quiet) as sink:
            yield sink


def on_terminal(invocation: Invocation) -> bool:
    """Whether somebody can be asked."""
    return not invocation.as_json and sys.stdin.isatty() and sys.stderr.isatty()


def ask_for_slug(invocation: Invocation, tenant: str, warning: str, *, on: str, why: str, remedy: str) -> None:
    """On a terminal the tenant's slug must be typed, below the warning; elsewhere `remedy`, a command, is the only way.

    Raises NotConfirmed with `on` and `why`.
    """
    from sbh_pipelines.model import TenantId

    tenant = TenantId.parse(tenant)
    if on_terminal(invocation):
        out = console(stderr=True)
        out.print(warning, soft_wrap=True, markup=False)
        out.print("Type the tenant's slug to go on: ", end="")
        if sys.stdin.readline().strip() == tenant:
            return
        why = "what was typed is not the tenant's slug"
    raise NotConfirmed("Not confirmed", on=on, why=why, remedy=remedy)


def operating_user() -> "UserContext":
    """The user who runs this, as the operating system says, with all rights. What LOGNAME or USER say is the caller's word."""
    from sbh_pipelines.security.policy import ALL_TENANTS, Role, UserContext

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container whose uid has no name
        name = f"uid-{os.getuid()}"
    return UserContext(user_id=name, tenant_id=ALL_TENANTS, role=Role.ADMIN, via="cli", by_system=True)


def _given_token() -> str | None:
    """None only where no token is meant: one that is named but empty or unreadable must not make its user an admin."""
    if (token := os.environ.get("SBH_TOKEN")) is not None:
        return token.strip()
    if (file := os.environ.get("SBH_TOKEN_FILE")) is None:
        return None
    try:
        return Path(file).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(
            "Cannot read the token",
            on=f"SBH_TOKEN_FILE = {file}",
            why=type(error).__name__,
            remedy="put the token there, or unset SBH_TOKEN_FILE",
        ) from None


def _admit(invocation: Invocation, permission: str | None, name: str) -> None:
    """With a token, no command does anything before it is believed and its user may do what the command needs at least.

    Which tenant it is for, and what its options need, the service asks. Raises Unauthenticated, SettingsError, AccessDenied.
    """
    if _given_token() is None:
        return
    user = invocation.user()
    if permission is None:
        raise AccessDenied(
            f"{name} is not allowed", why="it has no permission that a token could have", remedy="ask an administrator"
        )
    invocation.service().launches.permit_platform(user, permission, user.tenant_id)


def command(
    app: typer.Typer, name: str, *, permission: str | None = None, **options: Any
) -> Callable[[Callable[Concatenate[Invocation, P], Answer]], Callable[Concatenate[Invocation, P], Answer]]:
    """Register a function as `name` of `app`. Its first parameter is the Invocation; the rest are Typer's.

    `permission`: the least that a caller with a token needs. None: nobody with a token may.
    """

    def decorate(
        function: Callable[Concatenate[Invocation, P], Answer],
    ) -> Callable[Concatenate[Invocation, P], Answer]:
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(**values: Any) -> None:
            invocation: Invocation = values.pop("context").obj
            invocation.merge(**{option: values.pop(option) for option in SHARED})
            _admit(invocation, permission, name)
            answer = function(invocation, **values)  # type: ignore[call-arg]
            print_answer(answer, as_json=invocation.as_json, quiet=invocation.quiet, wide=invocation.wide)
            invocation.exit_status = answer.exit_status

        # Typer reads the parameters from the signature: the function's own, then the shared ones.
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", kind, annotation=typer.Context)]
        parameters += [parameter.replace(kind=kind) for parameter in own]
        parameters += [
            inspect.Parameter(option, kind, default=None if option == "settings_file" else False, annotation=annotation)
            for option, annotation in SHARED.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.permission = permission  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name, **options)(run)
        return function

    return decorate
