"""What the server's error codes mean to a backup and to a restore: which error of ours, whether it passes, and what mends it.

One table of PostgreSQL's classes (documentation, appendix A), and of the codes in them that mean something else than their class. A
remedy is true for its cause: what happened while rows were read has another one than the same code while rows were written.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sbh_pipelines.errors import (
    PrivilegeMissing,
    RestoreConflict,
    RestoreRefused,
    SbhError,
    SchemaMismatch,
    SettingsError,
    SourceConflict,
    SourceError,
    SourceUnavailable,
    UnreadableRow,
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an error of the server is to us.

    Attributes:
        kind: The class of our error; it says whether the same call may succeed later.
        remedy: What mends it, where rows were read.
        writing: What mends it where rows were written; None: the same.
    """

    kind: type[SbhError]
    remedy: str
    writing: str | None = None

    def to_do(self, *, writing: bool) -> str:
        """The remedy."""
        return self.writing if writing and self.writing is not None else self.remedy


_AGAIN = "check the database server, then try again"
_CONDITION = (
    "write the condition of database.links so that the server takes it, with the schemas of tables and functions"
)
_CODE = (
    "the application's own code raised it (a function in an index, a constraint or a trigger, or the condition of"
    " database.links): call that by hand, and correct it"
)
_NAMES = (
    "if the table changed in this moment, try again; else code of the application (a function in an index, a constraint or a"
    " trigger, the condition of database.links) uses a name without its schema: say where, under [database]: search_path ="
    ' ["app", "public"]'
)
_VALUE = (
    "a function that an index or a constraint calls, or the condition of database.links, does not take a value of the table:"
    " correct the one or the other"
)
_FIT = (
    "a value of the backup does not fit the column as it is now: `sbh restore diff` names the columns that changed; widen the"
    " column, or look at the rows in a schema of their own (`sbh restore run --into-schema LABEL`)"
)
_INTERNAL = "report it with what `--debug` prints: the program sent something that the server does not allow"
_EXCHANGED = (
    "something between us and the server exchanged or ended the session: let database.dsn name the server itself, or a"
    " pool in which"
    " pool_mode is session"
)
_ENDED_BY_TIMEOUT = (
    "something between us and the server set a timeout of its own on the session: let database.dsn name the server itself, or raise"
    " the timeout there"
)
_SPLIT = "find the table's largest values, and keep each in several rows or in a file"
_ENCODING = "find the value whose bytes are not in the database's encoding, and correct it"
_EXTENSION = "install the extension's package on the server, in the version that the database was made with"

CLASSES: Mapping[str, Meaning] = {
    "00": Meaning(SourceError, _INTERNAL),
    "01": Meaning(SourceError, _INTERNAL),
    "02": Meaning(SourceError, _INTERNAL),
    "03": Meaning(SourceError, _INTERNAL),
    "08": Meaning(SourceUnavailable, "check the network, the server and poolers in between, then try again"),
    "09": Meaning(SourceError, _CODE),
    "0A": Meaning(
        SourceError,
        "the server, or an extension, cannot do this with the object: leave the table out with database.excluded, or name it under"
        " database.shared",
    ),
    "0B": Meaning(SourceError, _INTERNAL),
    "0F": Meaning(SourceError, _CODE),
    "0L": Meaning(SourceError, "grant the privilege as the object's owner, or as a superuser"),
    "0P": Meaning(SourceError, "create the role that is named, or correct the name"),
    "0Z": Meaning(SourceError, _CODE),
    "10": Meaning(SourceError, _CODE),
    "20": Meaning(SourceError, _CODE),
    "21": Meaning(
        SchemaMismatch,
        "a sub-query gave several rows where one may be: add LIMIT 1 to that of the condition in database.links, or correct the"
        " application's function",
    ),
    "22": Meaning(SchemaMismatch, _VALUE, _FIT),
    "23": Meaning(
        RestoreRefused,
        _CODE,
        "a constraint was added or changed since the backup: `sbh restore diff` names it and the rows; correct it, or"
        " restore without"
        " that table (`--tables`)",
    ),
    "24": Meaning(SourceError, _EXCHANGED),
    "25": Meaning(SourceError, _INTERNAL),
    "26": Meaning(SourceError, _EXCHANGED),
    "27": Meaning(SourceError, _CODE),
    "28": Meaning(
        SourceError,
        "correct the role in database.dsn, its password (database.password_file) and pg_hba.conf: `sbh doctor` tries them",
    ),
    "2B": Meaning(SourceError, "take back what the role has granted to others first (REVOKE ... CASCADE)"),
    "2D": Meaning(SourceError, _CODE),
    "2F": Meaning(SourceError, _CODE),
    "34": Meaning(SourceError, _EXCHANGED),
    "38": Meaning(SourceError, _CODE),
    "39": Meaning(SourceError, _CODE),
    "3B": Meaning(SourceError, _EXCHANGED),
    "3D": Meaning(SettingsError, "correct dbname in database.dsn"),
    "3F": Meaning(SettingsError, "correct database.schemas: name schemas that are there"),
    "40": Meaning(SourceConflict, "concurrent writes to the tenant: try again"),
    "42": Meaning(SchemaMismatch, _CONDITION + "; or correct the application's function that it names"),
    "44": Meaning(
        RestoreRefused, "the row does not satisfy the view's WITH CHECK OPTION: name its table, not the view"
    ),
    "53": Meaning(SourceUnavailable, "the server has too little of something: free it there, then try again"),
    "54": Meaning(
        SourceError, "what is asked for is too large for the server: fewer columns in the table, or a simpler function"
    ),
    "55": Meaning(
        SourceError,
        "the object is not in a state for it: if it is a materialized view, REFRESH it; a sequence, use it; on a standby, let"
        " database.dsn name the primary",
    ),
    "57": Meaning(SourceUnavailable, "the server ended the session: wait until it is up, then try again"),
    "58": Meaning(
        SourceError, "the server cannot read or write its files: look at its disks and its log, then try again"
    ),
    "72": Meaning(
        SourceConflict,
        "the snapshot lived longer than old_snapshot_threshold: raise that above the length of a backup, or back up fewer"
        " tenants at"
        " once",
    ),
    "F0": Meaning(SourceError, "correct the server's configuration files, which its log names"),
    "HV": Meaning(
        SourceError,
        "a foreign table, or the server behind it: mend its wrapper's options, or leave the table out with database.excluded",
    ),
    "P0": Meaning(SourceError, _CODE),
    "XX": Meaning(SourceError, "an internal error of the server, or of an extension: see the server's log"),
}

CODES: Mapping[str, Meaning] = {
    "0A000": Meaning(
        SourceError,
        "the server, or an extension, cannot do this with the object: leave the table out with database.excluded, or"
        " update the server or"
        " extension; if it says that the extension is not available: " + _EXTENSION,
    ),
    "0LP01": Meaning(
        SourceError, "grant the privilege as a role that may pass it on (WITH GRANT OPTION), or as a superuser"
    ),
    "08P01": Meaning(
        SourceUnavailable,
        "a pooler in between said so: look at its log and its limits (sessions, waiting time), then try again",
    ),
    "08001": Meaning(SourceUnavailable, "check database.dsn, the network and the server, then try again"),
    # values
    "22021": Meaning(UnreadableRow, _ENCODING, _FIT),
    "22P05": Meaning(UnreadableRow, _ENCODING, "make the new database with the encoding of the old one"),
    "22P03": Meaning(SchemaMismatch, _INTERNAL),
    "22P04": Meaning(SchemaMismatch, _INTERNAL, "the table's columns changed in this moment: try again"),
    # constraints, when rows are written
    "23001": Meaning(
        RestoreRefused,
        _CODE,
        "rows refer to what would be deleted: restore them, too (`--tables` names both), or delete them first",
    ),
    "23502": Meaning(
        RestoreRefused,
        _CODE,
        "the column is NOT NULL now, and the backup has rows without a value: give them one, under [restore.fill]:"
        ' "schema.table.column" = "value"',
    ),
    "23503": Meaning(
        RestoreRefused,
        _CODE,
        "rows that the backup's rows refer to are not there: restore their table, too (`--tables` names both), or bring"
        " them back first",
    ),
    "23505": Meaning(
        RestoreConflict,
        _CODE,
        "another row holds the same key: `sbh restore diff` names it; change or remove that row, or take `--mode missing-only`",
    ),
    "23514": Meaning(
        RestoreRefused,
        _CODE,
        "a CHECK, or a partition's bounds, do not take a row of the backup: correct the constraint, or create the"
        " partition, then try"
        " again",
    ),
    "23P01": Meaning(
        RestoreConflict,
        _CODE,
        "another row excludes the backup's: `sbh restore diff` names it; change or remove that row, or take `--mode missing-only`",
    ),
    # transactions
    "25006": Meaning(
        SourceError,
        "the server takes no writes, as a standby or after a failover: let database.dsn name the primary, e.g. host=a,b"
        " target_session_attrs=read-write",
    ),
    "25P01": Meaning(SourceError, _EXCHANGED),
    "25P03": Meaning(SourceError, _ENDED_BY_TIMEOUT),
    "25P04": Meaning(SourceError, _ENDED_BY_TIMEOUT),
    "40002": Meaning(RestoreRefused, "a deferred constraint does not hold: `sbh restore diff` names the rows"),
    "40003": Meaning(SourceUnavailable, "whether it was done is not known: look at what is there, then try again"),
    # names and privileges
    "42501": Meaning(
        PrivilegeMissing,
        "`sbh doctor` prints the GRANTs that are missing; where it cannot look either, grant what is named here",
    ),
    "42601": Meaning(SchemaMismatch, _CONDITION),
    "42602": Meaning(SchemaMismatch, _CONDITION),
    "42622": Meaning(SchemaMismatch, _CONDITION),
    **dict.fromkeys(("42703", "42704", "42883", "42P01", "42P02", "3F000"), Meaning(SchemaMismatch, _NAMES)),
    "42702": Meaning(
        SchemaMismatch, "write the column in the condition of database.links with its alias: t, or p of the parent"
    ),
    "42725": Meaning(
        SchemaMismatch, "cast the arguments in the condition of database.links, so that one function fits"
    ),
    **dict.fromkeys(
        ("42804", "42846", "42P18"),
        Meaning(
            SchemaMismatch,
            "cast one side in the condition of database.links to the type of the other, e.g. t.item_id = p.id::text",
            _FIT,
        ),
    ),
    **dict.fromkeys(
        ("42P21", "42P22"),
        Meaning(
            SchemaMismatch, 'name a collation in the condition of database.links, e.g. t.name COLLATE "C" = p.name'
        ),
    ),
    "42809": Meaning(
        SchemaMismatch, "it is another kind of object than a backup expects: leave it out with database.excluded"
    ),
    "42939": Meaning(SchemaMismatch, "a name that is reserved to the server: rename the object"),
    **dict.fromkeys(
        ("42701", "42710", "42712", "42723", "42P03", "42P04", "42P05", "42P06", "42P07"),
        Meaning(
            SourceError, "something of that name is there already: choose another name, or remove it, then try again"
        ),
    ),
    "42P17": Meaning(
        SchemaMismatch, "correct the definition of the object that is named; a policy or view must not use itself"
    ),
    # limits of the server
    "53100": Meaning(
        SourceUnavailable, "free disk space on the database server, also for its temporary files, then try again"
    ),
    "53200": Meaning(
        SourceUnavailable,
        "the server has too little memory: lower database.work_mem_mib or database.connections; if it speaks of locks, raise"
        " max_locks_per_transaction there",
    ),
    "53300": Meaning(
        SourceUnavailable,
        "all connections are taken: lower database.connections, or raise max_connections or the role's CONNECTION LIMIT,"
        " then try again",
    ),
    "53400": Meaning(
        SourceError,
        "a sort needs more temporary space than temp_file_limit allows: raise database.work_mem_mib, or for the backup's role"
        " ALTER ROLE ... SET temp_file_limit = -1",
    ),
    "54000": Meaning(UnreadableRow, _SPLIT),
    "54001": Meaning(
        SourceError,
        "a function calls itself too deep for max_stack_depth: for the backup's role ALTER ROLE ... SET max_stack_depth",
    ),
    "55006": Meaning(SourceConflict, "somebody uses the object: try again"),
    "55P02": Meaning(SourceError, "this setting cannot be changed in a session: take it out of the hook or assertion"),
    "55P03": Meaning(SourceConflict, "somebody holds a lock on the table: try again, or raise database.lock_timeout_s"),
    "55P04": Meaning(SourceConflict, "an enum label was added in this moment: try again"),
    "57014": Meaning(SourceConflict, "the statement was cancelled or ran into database.statement_timeout_s"),
    "57P04": Meaning(SourceError, "the database was dropped: correct dbname in database.dsn"),
    "57P05": Meaning(SourceError, _ENDED_BY_TIMEOUT),
    "58P01": Meaning(
        SourceError,
        "a file of the server is missing: if it is an extension's library, install its package; else check the disk",
    ),
    "HV00N": Meaning(SourceUnavailable, "the server behind a foreign table does not answer: check it, then try again"),
    "XX001": Meaning(
        UnreadableRow, "the server's files are damaged: check the disk, and take the row's values from an older backup"
    ),
    "XX002": Meaning(UnreadableRow, "an index is damaged: REINDEX the table's indexes, and check the disk"),
}

LOST = Meaning(SourceUnavailable, _AGAIN)
"""Without a code: the connection is gone."""

FROM_CODE = Meaning(SourceError, _CODE)
"""Codes that no class of the server's has, and whatever the application's code raises by itself."""

TOO_LARGE = Meaning(UnreadableRow, _SPLIT)
GONE_MEANWHILE = Meaning(SourceConflict, "an object was dropped or replaced in this moment: try again")


def meaning(code: str, message: str = "") -> Meaning:
    """What a code means; the message tells apart what has the code of all internal errors."""
    if not code:
        return LOST
    if code == "XX000":  # these messages are not translated
        if "invalid memory alloc request size" in message:
            return TOO_LARGE
        if message.startswith(("cache lookup failed", "could not open relation with OID", "tuple concurrently")):
            return GONE_MEANWHILE
    return CODES.get(code) or CLASSES.get(code[:2]) or FROM_CODE


RAISED = "RAISE of the application's code"
"""In place of what PL/pgSQL's RAISE says, or code in another language dies with: its words may be a row's."""


def without_values(code: str, message: str) -> str:
    """What the server says, without the value that does not fit: data, as DETAIL and CONTEXT lines are."""
    return _QUOTED.sub('"…"', message) if code[:2] == "22" else message


_QUOTED = re.compile(r'".*"|".*', re.DOTALL)  # a value may have quotes in it
