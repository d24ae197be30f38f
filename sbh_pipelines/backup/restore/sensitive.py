"""What of a request tells of values that `restore.sensitive` masks: a condition over a column counts what is behind it."""

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.database.merge.row_choice import parse_rows
from sbh_pipelines.settings.restore import RestoreSettings


def tells_of(request: RestoreRequest, settings: RestoreSettings) -> str:
    """The option, or the column, by which the request does; empty where it does not. Raises RequestError for none."""
    if request.show_sensitive:
        return "show_sensitive"
    if request.rows is None or not settings.sensitive:
        return ""
    choice = parse_rows(request.rows)
    table = choice.table.rpartition(".")[2]  # whatever its schema: rather one condition too many
    for declared in settings.sensitive:
        owner, _, column = declared.rpartition(".")
        if column in choice.columns and owner.rpartition(".")[2] in ("", table):
            return f"{table}.{column}"
    return ""
