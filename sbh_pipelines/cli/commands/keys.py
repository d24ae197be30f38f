"""`sbh keys`: which keys protect the backups, and their rotation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sbh_pipelines.cli.command import Invocation, command
from sbh_pipelines.cli.commands.tenants import EveryoneOption, TenantsArgument, check_chosen
from sbh_pipelines.cli.output import Answer, count, plural, print_error, table, utc
from sbh_pipelines.document import as_document
from sbh_pipelines.errors import KeyRotationFailed, KeyServiceError, RequestError, SbhError
from sbh_pipelines.model import size_text, timestamp

if TYPE_CHECKING:
    from sbh_pipelines.backup.service.results import CopyRotation, KeyState, OwnerRotation, RotationReport

app = typer.Typer(name="keys", help="Keys of the backups: state, rotation, public keys of certificates.")


@command(app, "status", permission="keys.read")
def status(invocation: Invocation, tenants: TenantsArgument = None) -> Answer:
    """Show each tenant's key epochs, which key wraps them, since when, and how much is still of earlier epochs. Nothing is
    unwrapped. Keys that cannot be read exit 7.
    """
    found = invocation.service().keys.status(invocation.user(), list(dict.fromkeys(tenants or ())))
    broken = [(state.tenant_id, state.error) for state in found if state.error]

    def show(out: Any) -> None:
        rows = [row for state in found for row in _epoch_rows(state)]
        out.print(table(plural(len(found), "owner of keys", "owners of keys"), _EPOCHS, rows))
        if broken:
            lines = [_failure_row(*failed) for failed in broken]
            out.print(table("Keys that cannot be read", _FAILED, lines))

    brief = [f"{state.tenant_id} {state.newest or 'unreadable'}" for state in found]
    return Answer({"keys": found}, show, brief, KeyServiceError.exit_status if broken else 0)


@command(app, "rotate", permission="keys.rotate")
def rotate(
    invocation: Invocation,
    tenants: TenantsArgument = None,
    everyone: EveryoneOption = False,
    new_data_key: Annotated[
        bool, typer.Option("--new-data-key", help="Begin a key epoch: what is written from now on has a new data key.")
    ] = False,
    re_encrypt: Annotated[
        bool,
        typer.Option(
            "--re-encrypt", help="Rewrite what is of earlier epochs; a second run a day later destroys their keys."
        ),
    ] = False,
) -> Answer:
    """Wrap the data keys anew, under the key that the settings name now; nothing else is rewritten. With --all also those of
    the platform and of the catalogs. Some that fail do not stop the others (exit 7).
    """
    check_chosen(tenants, everyone, "keys rotate")
    service, user = invocation.service(), invocation.user()
    failure: KeyRotationFailed | None = None
    with invocation.progress() as progress:
        try:
            report: RotationReport = service.keys.rotate(
                list(tenants or ()),
                user,
                everyone=everyone,
                new_data_key=new_data_key,
                re_encrypt=re_encrypt,
                progress=progress,
            )
        except KeyRotationFailed as error:
            if error.report is None:
                raise
            failure, report = error, error.report

    def show(out: Any) -> None:
        _show_rotation(out, report)
        if failure is not None:
            print_error(failure)

    document = {**as_document(report), "error": failure}
    brief = [done.tenant_id for done in report.rotated]
    return Answer(document, show, brief, failure.exit_status if failure else 0)


@command(app, "public", permission="keys.read")
def public(invocation: Invocation) -> Answer:
    """Print the public key of each region's certificates of erasure. Whoever is to check certificates keeps them."""
    found = invocation.service().keys.public(invocation.user())
    rows = list(found.items())
    return Answer(
        {"algorithm": "Ed25519", "public_keys": found},
        lambda out: out.print(table("Ed25519, in base64", ("region", "public key"), rows)),
        [f"{region} {key}" for region, key in rows],
    )


@command(app, "verify", permission="report.read")
def verify(
    invocation: Invocation,
    certificate: Annotated[
        Path, typer.Argument(help="File with a certificate of erasure, as JSON.", exists=True, dir_okay=False)
    ],
    public_key: Annotated[str, typer.Option("--public-key", help="As `sbh keys public` printed it.", metavar="KEY")],
) -> Answer:
    """Check a certificate of erasure against a public key. Needs no settings, no network. One that is not genuine exits 8."""
    from sbh_pipelines.backup.service.keys import Keys

    try:
        document = json.loads(certificate.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError("Cannot read the certificate", on=str(certificate), why=type(error).__name__) from None
    if not isinstance(document, dict):
        raise RequestError("Not a certificate", on=str(certificate), remedy="give the JSON document itself")
    Keys.verify_certificate(document, public_key)
    told = f"Genuine: {document.get('tenant_id')} was erased at {document.get('finished_at')}"
    return Answer({"genuine": True, "certificate": document}, lambda out: out.print(told), ["genuine"])


_EPOCHS = ("keys of", "region", ">epoch", "-provider", "wrapped by", "-wrapped at", "->still of older epochs")
_FAILED = ("keys of", "code", "~what failed", "~why", "~what to do next")


def _epoch_rows(state: "KeyState") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for epoch in state.epochs:
        newest = epoch.epoch == state.newest
        number = f"{epoch.epoch}{'' if newest else ', older'}"
        key = "(destroyed)" if epoch.destroyed else epoch.key_id
        old = f"{size_text(state.old_bytes)} in {plural(state.old_packs, 'pack')}" if newest else ""
        rows.append((state.tenant_id, state.region, number, epoch.provider, key, utc(timestamp(epoch.wrapped_at)), old))
    return rows


def _show_rotation(out: Any, report: "RotationReport") -> None:
    rows = [_rotated_row(done) for done in report.rotated]
    out.print(table(f"Keys of {plural(len(rows), 'owner')} wrapped anew", _ROTATED, rows))
    if report.skipped:
        out.print(f"Without keys, so nothing to do: {', '.join(report.skipped[:20])}")
    if report.failed:
        lines = [_failure_row(failed.tenant_id, failed.error) for failed in report.failed]
        out.print(table(f"{plural(len(lines), 'owner')} failed", _FAILED, lines))
    for issue in report.issues or ():
        out.print(f"[{issue.code}] {issue.what} ({issue.on}): {issue.why}")


_ROTATED = (
    "keys of",
    ">epoch",
    "provider",
    "wrapped by",
    "before",
    ">re-encrypted",
    ">signed anew",
    "epochs destroyed",
    "note",
)


def _rotated_row(done: "OwnerRotation") -> tuple[str, ...]:
    return (
        done.tenant_id,
        count(done.epoch),
        done.provider,
        done.keys[-1].to_key if done.keys else "",
        ", ".join(sorted({key.from_key for key in done.keys})),
        size_text(done.re_encrypted_bytes),
        count(done.documents_signed),
        ", ".join(map(str, done.epochs_destroyed or ())),
        "; ".join([*([done.note] if done.note else []), *map(_of_copy, done.copies or ())]),
    )


def _of_copy(done: "CopyRotation") -> str:
    ended = f", epochs destroyed {', '.join(map(str, done.epochs_destroyed))}" if done.epochs_destroyed else ""
    return f"copy {done.copy}: {plural(done.keys, 'key')} wrapped anew{ended}{': ' if done.note else ''}{done.note}"


def _failure_row(name: str, error: SbhError) -> tuple[str, ...]:
    return (name, error.code, error.what, error.why, error.remedy)
