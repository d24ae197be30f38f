"""`sbh token`: bearer tokens for the API, the web UI and `sbh` itself. Tokens are read from files, never from arguments,
which every process of the machine can see.
"""

import re
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.audit import moment
from sbh_pipelines.cli.output import Answer, table
from sbh_pipelines.errors import RequestError, Unauthenticated

if TYPE_CHECKING:
    from sbh_pipelines.security.tokens import TokenReport

app = typer.Typer(name="token", help="Bearer tokens: issue them with the local key, revoke them, see what one says.")

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LARGEST_FILE = 64 << 10
_TIMES = ("iat", "nbf", "exp")


@command(app, "issue", permission="token.issue")
def issue(
    invocation: Invocation,
    user: Annotated[str, typer.Option("--user", help="Who will hold it: an id for run tags and the audit trail.")],
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="The one tenant it is for, or '*' for all of them.")],
    role: Annotated[str, typer.Option("--role", help="viewer, operator or admin.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it lives: 900, 15m, 8h, 7d.")] = "8h",
    audience: Annotated[
        str | None, typer.Option("--audience", help="Whom it is for; default: the setting auth.audience.")
    ] = None,
) -> Answer:
    """Print a new token, and nothing else. Needs the private signing key (auth.mode = 'local').

    Who made it, for whom and until when is in the platform's audit trail.
    """
    token = invocation.service().tokens.issue(
        invocation.user(), user_id=user, tenant_id=tenant, role=role, ttl_s=_seconds(ttl), audience=audience
    )
    # As it is: a console would break it into lines.
    return Answer({"token": token}, lambda _: print(token), [token])


@command(app, "revoke", permission="token.revoke")
def revoke(
    invocation: Invocation,
    user: Annotated[
        str | None, typer.Option("--user", help="The tokens of this user.", metavar="NAME", show_default=False)
    ] = None,
    issued_by: Annotated[
        str | None,
        typer.Option(
            "--issued-by", help="Those that this user issued, also through others.", metavar="NAME", show_default=False
        ),
    ] = None,
    token_id: Annotated[
        str | None, typer.Option("--id", help="One token, by its jti.", metavar="JTI", show_default=False)
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before", help="Only those issued before this time (ISO 8601); default: now.", show_default=False
        ),
    ] = None,
) -> Answer:
    """Add a line to auth.revoked_file: these tokens are believed no longer, and sessions of the web UI that began with one end.

    Whoever leaves: `--user NAME`, and `--issued-by NAME` for what they made for others. A token issued later is believed.
    """
    rule = invocation.service().tokens.revoke(
        invocation.user(), token_id=token_id, user_id=user, issued_by=issued_by, before=moment(before)
    )
    return Answer({"revoked": rule.line()}, lambda _: print(rule.line()), [rule.line()])


@command(app, "inspect", permission="token.inspect")
def inspect(
    invocation: Invocation,
    file: Annotated[Path | None, typer.Argument(help="File with the token; default: standard input.")] = None,
) -> Answer:
    """Show what a token says, whether it is believed here, and why not; exits 4 where it is not."""
    from sbh_pipelines.security.tokens import open_tokens

    report = open_tokens(invocation.settings()).inspect(_read(file))
    user = report.user
    document = {
        "valid": report.valid,
        "why": report.why,
        "user": {"user_id": user.user_id, "tenant_id": user.tenant_id, "role": user.role.name.lower()}
        if user
        else None,
        "claims": dict(report.claims),
    }
    word = "valid" if report.valid else f"not valid: {report.why}"
    status = 0 if report.valid else Unauthenticated.exit_status
    return Answer(document, lambda out: _show(out, report, word), [word], status)


@command(app, "key", permission="host.manage")
def key(
    invocation: Invocation,
    write: Annotated[Path, typer.Option("--write", metavar="FILE", help="Where to write it; FILE.pub as well.")],
) -> Answer:
    """Make a signing key: FILE, which issues tokens (mode 0600), and FILE.pub, which is enough to check them."""
    from sbh_pipelines.security.signing_key import write_signing_key

    public = write_signing_key(write)
    document = {"signing_key_file": str(write), "public_key_file": str(public)}
    return Answer(
        document,
        lambda _: print(
            f'{write}: set auth.mode = "local" and auth.signing_key_file to it\n{public}: enough to check tokens'
        ),
        [str(write)],
    )


def _seconds(text: str) -> int:
    parts = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if not parts:
        raise RequestError("Not a time to live", on=ascii(text)[:64], remedy="write it as 900, 15m, 8h or 7d")
    return int(parts[1]) * _UNITS_S[parts[2]]


def _read(file: Path | None) -> str:
    try:
        with open(file, encoding="utf-8") if file and str(file) != "-" else nullcontext(sys.stdin) as stream:
            return stream.read(_LARGEST_FILE).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            "Cannot read the token", on=str(file or "standard input"), why=type(error).__name__
        ) from None


def _show(out: Any, report: "TokenReport", word: str) -> None:
    rows = [(name, _readable(name, value)) for name, value in report.claims.items()]
    out.print(table(word, ("claim", "value"), rows) if rows else word)


def _readable(name: str, value: Any) -> str:
    if name in _TIMES and isinstance(value, int | float):
        try:
            return f"{value} ({datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ})"
        except (ValueError, OverflowError, OSError):
            return str(value)[:64]
    text = value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:500]
