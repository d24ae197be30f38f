"""What people search for: predicates of rows and patterns of files, which can hold personal data.

A restore that another process does is described to it through a third that may see runs, but not these: the API launches a
run of Dagster. They go that way sealed with the tenant's key, bound to the tenant and the backup, and with the key's end they
are gone from there as well.
"""

import base64
import binascii
import json
from dataclasses import replace

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.database.merge.row_choice import parse_rows
from sbh_pipelines.errors import CorruptObject, FormatUnsupported, RequestUnreadable
from sbh_pipelines.repository.format import canonical
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.repository.seal import REQUEST

_LONGEST = 4 << 20


def seal_private(repository: Repository, backup_id: str, request: RestoreRequest) -> str | None:
    """The private fields of a request for this backup as a text; None where it has none. Raises RequestError for a predicate
    that a restore would refuse: where it is asked for, and not in a run.
    """
    if request.rows is None and not request.files:
        return None
    if request.rows is not None:
        parse_rows(request.rows)
    plain = canonical({"rows": request.rows, "files": list(request.files)})
    return base64.urlsafe_b64encode(repository.sealer.seal(plain, backup_id.encode(), REQUEST)).decode()


def open_private(repository: Repository, backup_id: str, request: RestoreRequest, sealed: str) -> RestoreRequest:
    """The request with the private fields of a sealed text. Raises RequestUnreadable, RequestError."""
    try:
        if len(sealed) > _LONGEST:
            raise ValueError
        piece = base64.b64decode(sealed, b"-_", validate=True)
        plain = repository.sealer.open(piece, backup_id.encode(), REQUEST, on="the run's configuration")
        found = json.loads(plain)
    except (binascii.Error, ValueError, CorruptObject, FormatUnsupported):
        raise RequestUnreadable(
            "What the run was asked for cannot be opened",
            on=f"`sealed`, for {backup_id} of {repository.tenant}",
            why="it is of another tenant or backup, damaged, or of a key epoch that was destroyed",
            remedy="ask for the restore again",
        ) from None
    return replace(request, rows=found["rows"], files=tuple(found["files"]))
