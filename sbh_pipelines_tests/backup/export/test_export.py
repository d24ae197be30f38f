"""What is exported is what was backed up: every type, every format, loaded back into PostgreSQL and compared as COPY text."""

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.document import as_document
from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.errors import AccessDenied, RepositoryError, RequestError
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application
from sbh_pipelines_tests.support.databases import Database, copy_text, fresh_database
from sbh_pipelines_tests.support.effort import examples
from sbh_pipelines_tests.support.schemas import NAMES, literal, quoted
from sbh_pipelines_tests.support.values import DEFINITIONS, OWN, PLAIN, Kind

# Values that Parquet's types cannot hold, each of which makes its column text.
_UNFIT = ("infinity", "BC", "10000-", "294276", "24:00", "[0:1]=", "{{", "[-1:0]")
FORMATS = ("sql", "jsonl", "csv", "parquet")


@dataclass(frozen=True)
class Made:
    """A column of a test's table: its name, its kind, the values of its rows."""

    name: str
    kind: Kind
    values: Sequence[str | None]

    @property
    def sql(self) -> str:
        return self.kind.sql.format(schema="public")


class Exported:
    """A table with these columns in a small application, its COPY text, and an incremental backup with layers."""

    def __init__(self, application: Application, columns: Sequence[Made], rows: int) -> None:
        self.application, self.columns = application, columns
        self.service = application.service()
        database = application.database
        parts = ", ".join(f"{quoted(c.name)} {c.sql}" for c in columns)
        filled = [*columns, Made("pk", PLAIN["integer"], [str(n) for n in range(1, rows + 1)])]
        with database.session() as connection:
            cursor = connection.cursor()
            cursor.execute("DROP TABLE IF EXISTS public.kinds CASCADE")
            cursor.execute(
                f"CREATE TABLE public.kinds ({parts}, pk int PRIMARY KEY,"
                " tenant_id int NOT NULL DEFAULT 1 REFERENCES tenants, twice int GENERATED ALWAYS AS (pk * 2) STORED)"
            )
            for row in range(rows):
                values = ", ".join(literal(c.values[row % len(c.values)]) for c in filled)
                cursor.execute(
                    f"INSERT INTO public.kinds ({', '.join(quoted(c.name) for c in filled)}) VALUES ({values})"
                )
            self.service.create_backup(ACME, ADMIN, "full")
            cursor.execute("DELETE FROM public.kinds WHERE pk % 50 = 3")
            # Written anew without a change: these rows come from a layer.
            cursor.execute("UPDATE public.kinds SET tenant_id = 1 WHERE pk % 10 = 1")
            self.backup = self.service.create_backup(ACME, ADMIN, "incremental")
            self.names = ", ".join(quoted(c.name) for c in (*filled, Made("tenant_id", PLAIN["integer"], ())))
            self.text = copy_text(connection, f"SELECT {self.names} FROM public.kinds ORDER BY pk")
        self.types = {c.name: c.sql for c in columns} | {"pk": "integer", "tenant_id": "integer"}

    def export(self, folder: Path, format: str) -> dict[str, Any]:
        return as_document(self.service.exports.export(self.backup["id"], ACME, ADMIN, folder, format=format))

    def loaded(self, load: Any) -> bytes:
        """The COPY text of an empty table of the same definition after `load(cursor)`."""
        with self.application.database.session() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TEMPORARY TABLE loaded (LIKE public.kinds)")
            load(cursor)
            return copy_text(connection, f"SELECT {self.names} FROM loaded ORDER BY pk")

    def insert(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Python's values through the types' input functions."""
        names = list(self.types)
        places = ", ".join(f"%s::{self.types[name].split(' COLLATE')[0].replace('%', '%%')}" for name in names)
        listed = ", ".join(quoted(name).replace("%", "%%") for name in names)
        statement = f"INSERT INTO loaded ({listed}) VALUES ({places})"
        for row in rows:
            cursor.execute(statement, [pg_text(row[name]) for name in names])


def pg_text(value: Any) -> str | None:
    """A Python value as the text that the input function of its type takes."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def _element(value: Any) -> str:
    if value is None or isinstance(value, list):
        return pg_text(value) or "NULL"
    text = pg_text(value)
    assert text is not None
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture(scope="module")
def server(embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with fresh_database(embedded_stack) as database:
        made = Application(database, tmp_path_factory.mktemp("export"))
        made.create()
        database.run(*(definition.format(schema="public") for definition in DEFINITIONS))
        yield made


def _kinds(database: Database) -> dict[str, Kind]:
    """Every kind that this server has."""
    kinds = {**PLAIN, **OWN}
    del kinds["vector"]
    # Spaces around a document are no part of it for the server's operators, which take it out of an exported line.
    kinds["json"] = replace(kinds["json"], listed=tuple(v.strip() for v in kinds["json"].listed))
    try:
        database.ask("SELECT '<a/>'::xml")
    except psycopg2.Error:
        del kinds["xml"]
    return kinds


@pytest.mark.parametrize("fitting", [False, True], ids=["all values", "values that Parquet's types hold"])
def test_every_type_comes_back_from_every_format(
    server: Application, embedded_stack: Stack, tmp_path: Path, fitting: bool
) -> None:
    """Each type with each of its hard values and NULL; of the second table some rows come from a layer."""
    columns = []
    for number, (name, kind) in enumerate(_kinds(server.database).items()):
        if fitting and name == "regtype":  # tables with such columns have no layers
            continue
        listed = [
            v
            for v in kind.listed
            if not (fitting and (any(u in v for u in _UNFIT) or (name == "numeric(10,3)" and v == "NaN")))
        ]
        columns.append(Made(f"c{number} {name}", kind, [None, *listed]))
    exported = Exported(server, columns, 130)
    tables = {t["table"]: t for t in exported.backup["components"]["database"]["table_details"]}
    assert tables["public.kinds"]["layers"] == int(fitting)
    reports = _check_formats(exported, embedded_stack, tmp_path)
    (kinds,) = [t for t in reports["parquet"]["tables"] if t["table"] == "public.kinds"]
    schema = pq.read_schema(tmp_path / "parquet" / kinds["file"])
    if fitting:
        assert kinds["text_columns"] == []
        typed = {c.kind.sql: schema.field(c.name).type for c in columns}
        assert typed["numeric(10,3)"] == pa.decimal128(10, 3)
        assert typed["timestamptz"] == pa.timestamp("us", "UTC")
        assert typed["integer[]"] == pa.list_(pa.int32())
        assert typed["date"] == pa.date32()
        assert typed["time"] == pa.time64("us")
    else:
        assert {"date", "timestamp", "timestamptz", "time", "numeric(10,3)", "integer[]"} <= {
            name.split(" ", 1)[1] for name in kinds["text_columns"]
        }


@settings(
    max_examples=examples(3),
    phases=[Phase.explicit, Phase.generate],
)
@given(data=st.data())
def test_random_rows_come_back_from_every_format(
    server: Application, embedded_stack: Stack, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Random columns of odd names, random values."""
    kinds = _kinds(server.database)
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    columns = [
        Made(name, kind, data.draw(st.lists(st.none() | kind.values, min_size=1, max_size=12)))
        for name in names
        for kind in [kinds[data.draw(st.sampled_from(sorted(kinds)))]]
    ]
    exported = Exported(server, columns, data.draw(st.sampled_from([0, 1, 20, 90])))
    _check_formats(exported, embedded_stack, tmp_path_factory.mktemp("random"))


def _check_formats(exported: Exported, stack: Stack, folder: Path) -> dict[str, Any]:
    reports = {}
    for format in FORMATS:
        reports[format] = report = exported.export(folder / format, format)
        _check_manifest(folder / format, report)
        (file,) = [folder / format / t["file"] for t in report["tables"] if t["table"] == "public.kinds"]
        assert _LOADERS[format](exported, file, stack) == exported.text, format
    _check_python(exported)
    return reports


def _from_sql(exported: Exported, file: Path, stack: Stack) -> bytes:
    """All of `load.sql`, by psql, into an empty database that has the application's types."""
    with fresh_database(stack) as empty:
        empty.run(*(definition.format(schema="public") for definition in DEFINITIONS))
        dsn = make_dsn(stack.dsn(postgres.ADMIN), dbname=empty.name)
        done = subprocess.run(
            [postgres.binaries() / "psql", "-X", "-q", "-d", dsn, "-f", str(file.with_name("load.sql"))],
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        found = empty.copy(f"SELECT {exported.names} FROM public.kinds ORDER BY pk")
        # Items have an identity column: the next number is one that is free.
        empty.run("INSERT INTO public.items (project_id, title) SELECT id, 'next' FROM public.projects LIMIT 1")
        empty.run("INSERT INTO public.projects (tenant_id, code) VALUES (1, 'next')")
        return found


def _from_csv(exported: Exported, file: Path, stack: Stack) -> bytes:
    def load(cursor: Any) -> None:
        with open(file, "rb") as source:
            cursor.copy_expert(f"COPY loaded ({exported.names}) FROM STDIN (FORMAT csv, HEADER)", _Read(source))

    columns = [*exported.types]
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines, strict=True))
    assert sorted(rows[0]) == sorted(columns)
    assert {len(row) for row in rows} == {len(columns)}
    # The header names the columns in the table's order, which is `names`.
    assert ", ".join(map(quoted, rows[0])) == exported.names
    return exported.loaded(load)


class _Read(BytesIO):
    """psycopg2 wants an object with read() and nothing closed twice."""

    def __init__(self, source: Any) -> None:
        super().__init__(source.read())


def _from_jsonl(exported: Exported, file: Path, stack: Stack) -> bytes:
    """By PostgreSQL's own reading of JSON: the numbers as they stand, json columns as what is embedded."""

    def load(cursor: Any) -> None:
        picked = []
        for name, kind in exported.types.items():
            taken = (
                f"(line -> {literal(name)})::{kind}" if kind == "json" else f"(line -> {literal(name)})::text::{kind}"
            )
            picked.append(taken if kind in ("json", "jsonb") else f"(made).{quoted(name)}")
        listed = ", ".join(quoted(name) for name in exported.types)
        statement = (
            f"INSERT INTO loaded ({listed}) SELECT {', '.join(picked)}"
            " FROM (SELECT x.line::json, json_populate_record(NULL::loaded, x.line::json) AS made FROM pg_temp.lines x) y"
        )
        cursor.execute("CREATE TEMPORARY TABLE lines (line text)")
        for line in file.read_bytes().decode().split("\n")[:-1]:
            json.loads(line)
            cursor.execute("INSERT INTO lines VALUES (%s)", (line,))
        cursor.execute(statement)

    return exported.loaded(load)


def _from_parquet(exported: Exported, file: Path, stack: Stack) -> bytes:
    rows = pq.read_table(file).to_pylist()
    return exported.loaded(lambda cursor: exported.insert(cursor, rows))


_LOADERS = {"sql": _from_sql, "csv": _from_csv, "jsonl": _from_jsonl, "parquet": _from_parquet}


def _check_python(exported: Exported) -> None:
    """The values that `read_rows` gives are what the rows hold; those of json columns are what json.loads makes of them."""
    with exported.service.open_backup("latest", ACME, ADMIN) as backup:
        rows = [row for batch in backup.read_rows("kinds", batch=37) for row in batch]
        for batch in backup.read_rows("kinds", batch=37):
            assert 0 < len(batch) <= 37
    documents = [name for name, kind in exported.types.items() if kind in ("json", "jsonb")]
    for row in rows:
        for name in documents:
            if row[name] is not None:
                row[name] = json.dumps(row[name], default=float)
    got = exported.loaded(lambda cursor: exported.insert(cursor, rows))
    names = [c.name for c in exported.columns] + ["pk", "tenant_id"]
    nulls_in_json = {names.index(name) for name in documents}
    for mine, theirs in zip(got.split(b"\n"), exported.text.split(b"\n"), strict=True):
        for at, (a, b) in enumerate(zip(mine.split(b"\t"), theirs.split(b"\t"), strict=True)):
            if at not in nulls_in_json:
                assert a == b, names[at]


def _check_manifest(folder: Path, report: Mapping[str, Any]) -> None:
    """Everything in the folder is in the manifest with its hash, and nothing is missing; all of it is its owner's only."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest == {k: v for k, v in report.items() if k != "folder"}
    listed = {entry["file"]: entry["sha256"] for entry in (*manifest["tables"], *manifest["others"], manifest["files"])}
    for line in (folder / "files.jsonl").read_text().splitlines():
        listed[json.loads(line)["file"]] = json.loads(line)["sha256"]
    found = {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()
    }
    assert found.keys() - listed.keys() == {"manifest.json"}
    assert {name: found[name] for name in listed} == listed
    for place in (folder, *folder.rglob("*")):
        assert place.stat().st_mode & 0o777 == (0o700 if place.is_dir() else 0o600)
    assert manifest["backup_id"] in (folder / "README.txt").read_text()


# the folder as a whole


def test_an_export_of_an_untouched_application(application: Application, tmp_path: Path) -> None:
    """Tables in order, parents first; the tenant's files byte for byte; nothing of another tenant."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    before = application.state(ACME)
    noticed = []
    report = as_document(
        service.exports.export("latest", ACME, ADMIN, tmp_path / "new" / "out", format="csv", progress=noticed.append)
    )
    names = [table["table"] for table in report["tables"]]
    assert names == ["public.tenants", "public.notes", "public.projects", "public.items"]
    assert {t["table"]: t["rows"] for t in report["tables"]} == {
        f"public.{name}": rows.count(b"\n") for name, rows in before.rows.items()
    }
    out = tmp_path / "new" / "out"
    _check_manifest(out, report)
    assert {
        str(f.relative_to(out / "files")): f.read_bytes() for f in (out / "files").rglob("*") if f.is_file()
    } == before.files
    assert b"bolt" not in b"".join(f.read_bytes() for f in out.rglob("*") if f.is_file())
    assert {(n.subject, n.done) for n in noticed} >= {("public.items", 100), ("files", 4)}
    projects = report["tables"][2]
    assert projects["primary_key"] == ["id"]
    assert projects["columns"][0] == {"name": "id", "type": "integer", "not_null": True}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


def test_only_the_tables_that_are_wanted(application: Application, tmp_path: Path) -> None:
    service = application.service()
    service.create_backup(ACME, ADMIN)
    report = as_document(
        service.exports.export("latest", ACME, ADMIN, tmp_path / "out", tables=["public.notes", "items"], files=False)
    )
    assert [table["table"] for table in report["tables"]] == ["public.notes", "public.items"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "README.txt", "manifest.json", "public.items.jsonl", "public.notes.jsonl",
    ]  # fmt: skip
    with pytest.raises(RequestError, match=r"public\.tenants, public\.notes"):
        service.exports.export("latest", ACME, ADMIN, tmp_path / "other", tables=["nots"])
    with pytest.raises(RequestError, match="sql, jsonl, csv, spreadsheet, parquet"):
        service.exports.export("latest", ACME, ADMIN, tmp_path / "other", format="xml")
    assert not (tmp_path / "other").exists()


def test_who_may_export(application: Application, tmp_path: Path) -> None:
    """An admin of the tenant; no operator, and no admin of another tenant."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    for user in (UserContext("o", ACME, Role.OPERATOR), UserContext("a", "bolt", Role.ADMIN)):
        with pytest.raises(AccessDenied):
            service.exports.export("latest", ACME, user, tmp_path / "out")
        with pytest.raises(AccessDenied):
            service.open_backup("latest", ACME, user)
    assert service.exports.export("latest", ACME, UserContext("a", ACME, Role.ADMIN), tmp_path / "out").files.count == 4


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_damage_is_an_error_and_no_folder(application: Application, tmp_path: Path, format: str) -> None:
    """Packs whose bytes are others."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    packs = sorted((application.repository(ACME) / "packs").iterdir())
    for pack in packs:
        body = bytearray(pack.read_bytes())
        body[: len(body) // 2] = bytes(len(body) // 2)
        pack.write_bytes(body)
    with pytest.raises(RepositoryError):
        service.exports.export("latest", ACME, ADMIN, tmp_path / "exports" / "out", format=format)
    assert list((tmp_path / "exports").iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings

settings, folder, when = Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def killed(notice):
    if f"{notice.subject} {notice.done}" == when:
        os.kill(os.getpid(), signal.SIGKILL)
BackupService(settings).exports.export("latest", "acme", UserContext("t", "*", Role.ADMIN), folder, progress=killed)
"""


def _run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_an_export_that_is_killed_leaves_nothing_under_its_name(application: Application, tmp_path: Path) -> None:
    """Neither in a table nor among the files; the next export takes away what was left, and not what another is writing."""
    service = application.service()
    service.create_backup(ACME, ADMIN)
    place = tmp_path / "exports"
    for when in ("public.items 100", "files 4"):
        ended = _run(_KILLED, application.settings.model_dump_json(), str(place / "out"), when)
        assert ended.returncode == -9, ended.stderr
        (left,) = place.iterdir()
        assert left.name.endswith(".incomplete")
    stranger = place / ".outer.0123abcd.incomplete"
    stranger.mkdir()

    def nested(notice: Any) -> None:
        """An export to the same folder while this one runs: it is complete first, and this one is refused."""
        if notice.subject == "files" and not (place / "out").exists():
            service.exports.export("latest", ACME, ADMIN, place / "out")

    with pytest.raises(RequestError, match="not empty"):
        service.exports.export("latest", ACME, ADMIN, place / "out", progress=nested)
    assert sorted(p.name for p in place.iterdir()) == [stranger.name, "out"]
    assert json.loads((place / "out" / "manifest.json").read_bytes())["files"]["count"] == 4


_MEASURED = """
import resource, sys
from pathlib import Path
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import Settings

service, folder = BackupService(Settings.model_validate_json(sys.argv[1])), Path(sys.argv[2])
def export(tenant, format):
    service.exports.export("latest", tenant, UserContext("t", "*", Role.ADMIN), folder / tenant / format, format=format)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = [export("bolt", format) for format in ("jsonl", "parquet")][-1]
print([export("acme", format) - before for format in ("jsonl", "parquet")])
"""


def test_memory_does_not_grow_with_the_table(application: Application, tmp_path: Path) -> None:
    """60,000 rows, 60 MB of text: a few pieces of it are held at once, and one row group of a Parquet file."""
    application.database.run(
        "CREATE TABLE many (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, done boolean, at timestamptz,"
        " price numeric(9,2), title text)",
        "INSERT INTO many SELECT n, 1, n % 3 = 0, '2024-01-01 00:00:00.123Z'::timestamptz + n * interval '1 s', n / 7.0,"
        " 'title ' || repeat(md5(n::text), 30) FROM generate_series(1, 60000) n",
    )
    service = application.service()
    service.backups.create_all([ACME, "bolt"], ADMIN)
    ended = _run(_MEASURED, application.settings.model_dump_json(), str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    grown = json.loads(ended.stdout)
    assert max(grown) < 90, grown
    assert (tmp_path / "out" / ACME / "jsonl" / "public.many.jsonl").read_bytes().count(b"\n") == 60_000
    parquet = pq.ParquetFile(tmp_path / "out" / ACME / "parquet" / "public.many.parquet")
    assert parquet.metadata.num_rows == 60_000
    assert 2 <= parquet.num_row_groups <= 8


def test_decimals_keep_their_scale(application: Application, tmp_path: Path) -> None:
    """Also those of more digits than a float or 128 bits hold."""
    application.database.run(
        "ALTER TABLE notes ADD wide numeric(60,20), ADD narrow numeric(5,2), ADD odd numeric(2,4), ADD negative numeric(3,-2)",
        "UPDATE notes SET wide = 12345678901234567890123456789.00000000000000000001, narrow = -1.50, odd = 0.0012, negative = 12345",
    )
    service: BackupService = application.service()
    service.create_backup(ACME, ADMIN)
    service.exports.export("latest", ACME, ADMIN, tmp_path / "out", format="parquet", tables=["notes"])
    first = pq.read_table(tmp_path / "out" / "public.notes.parquet").to_pylist()[0]
    assert first["wide"] == Decimal("12345678901234567890123456789.00000000000000000001")
    assert str(first["narrow"]) == "-1.50"
    assert (first["odd"], first["negative"]) == ("0.0012", "12300")
