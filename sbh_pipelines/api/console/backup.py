"""What is in a backup: its tables and files, rows of a table a page at a time, a file.

Viewers see what the manifest says. Who may plan restores sees rows, without the values that `restore.sensitive` names; who may
export sees those as well where they ask for them, and takes files out.
"""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.responses import Response

from sbh_pipelines.api.app.middleware import CONSOLE
from sbh_pipelines.api.console.download import Download, Sent
from sbh_pipelines.api.console.tenant import Part, read_part
from sbh_pipelines.api.console.visit import AVisit, Visit, answer_of
from sbh_pipelines.api.routes import backups
from sbh_pipelines.api.routes.backups import BackupIdPath

router = APIRouter(prefix=f"{CONSOLE}/tenants/{{slug}}/backups/{{backup_id}}")

_ROWS, _FILES = 50, 100

TableName = Annotated[str, Query(max_length=300)]
FilePath = Annotated[str, Query(max_length=2000)]


@router.get("")
async def backup(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """The manifest, and what is in it."""
    manifest = await answer_of(backups.get_backup(visit.call, backup_id, None))
    named = manifest["id"]
    tables = await tables_of(visit, named) if visit.may("restore.plan") else Part(None)
    holds = await answer_of(backups.holds(visit.call, named))
    return visit.page("backup.html", named, manifest=manifest, tables=tables, holds=holds["holds"])


async def tables_of(visit: Visit, backup_id: str) -> Part:
    """Tables of a backup with their rows; of a moment, those of the newest backup."""
    call, slug = visit.call, visit.slug
    wanted = "latest" if backup_id.startswith("@") else backup_id

    def work() -> object:
        with call.service.exports.view(wanted, slug, call.user, "tables") as view:
            return {
                "tables": view.tables,
                "files": view.file_count,
                "missing": view.missing_files,
                "backup_id": view.backup_id,
            }

    return await read_part(visit, work)


@router.get("/rows")
async def rows(
    visit: AVisit,
    backup_id: BackupIdPath,
    table: TableName,
    first: Annotated[int, Query(ge=0, le=10**15)] = 0,
    sensitive: bool = False,
) -> Response:
    """Rows of a table."""
    return await _rows(visit, backup_id, table, first, "", sensitive)


@router.post("/rows")
async def found_rows(visit: AVisit, backup_id: BackupIdPath, table: TableName) -> Response:
    """Rows that hold a word. A form, because what people search for is not to be in an address."""
    form = await visit.form()
    return await _rows(
        visit, backup_id, table, form.number("first"), form.one("search")[:200], form.one("sensitive") == "yes"
    )


async def _rows(visit: Visit, backup_id: str, table: str, first: int, search: str, sensitive: bool) -> Response:
    call, slug = visit.call, visit.slug

    def work() -> object:
        with call.service.exports.view(backup_id, slug, call.user, table, show_sensitive=sensitive) as view:
            return view.rows(table, first=first, limit=_ROWS, search=search)

    found = visit.document(await call.expensive("restore.plan", work))
    return visit.page("rows.html", found["table"], backup_id=backup_id, found=found, search=search, sensitive=sensitive)


@router.get("/files")
async def files(visit: AVisit, backup_id: BackupIdPath, after: FilePath = "") -> Response:
    """Files of a backup."""
    return await _files(visit, backup_id, after, "")


@router.post("/files")
async def found_files(visit: AVisit, backup_id: BackupIdPath) -> Response:
    """Files whose path holds a word."""
    form = await visit.form()
    return await _files(visit, backup_id, form.one("after"), form.one("search")[:200])


async def _files(visit: Visit, backup_id: str, after: str, search: str) -> Response:
    call, slug = visit.call, visit.slug

    def work() -> object:
        with call.service.exports.view(backup_id, slug, call.user, "files") as view:
            page = view.files(after=after, limit=_FILES, search=search)
            files = [{"path": f.path, "size": f.size, "modified": f.modified} for f in page.files]
            return {"files": files, "after": page.after, "count": view.file_count}

    found = visit.document(await call.expensive("restore.plan", work))
    return visit.page("files.html", f"Files of {backup_id}", backup_id=backup_id, found=found, search=search)


@router.get("/file")
async def file(visit: AVisit, backup_id: BackupIdPath, path: FilePath) -> Response:
    """A file's content. It is checked while it is sent: a damaged one ends before its length is reached."""
    call, slug = visit.call, visit.slug
    download = Download(call.api.streams, call.whose, call.api.settings.request_timeout_s)
    try:
        work = download.opened(lambda: call.service.exports.file(backup_id, slug, call.user, path))
        size = await call.expensive("backup.export", work)
    except BaseException:  # given up as well: what is opened after that is closed at once
        await download.close()
        raise
    name = quote(path.rpartition("/")[2], safe="")
    headers = {"Content-Length": str(size), "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Sent(download, headers=headers)
