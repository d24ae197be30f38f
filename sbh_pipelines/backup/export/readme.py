"""What the person who receives an export is told: README.txt, and the same sentences in manifest.json."""

from sbh_pipelines.backup.export.manifest import ExportManifest

FORMATS: dict[str, tuple[str, ...]] = {
    "sql": (
        "Statements for psql. Load all tables in one transaction into a database that does not have them: psql -d"
        " DATABASE -f load.sql",
        "Each file makes its table (columns, types, NOT NULL, primary key, identity) and fills it with COPY; the"
        " rows are exactly what PostgreSQL wrote.",
        "Types that the application or an extension defines are named in comments: the database must have them"
        " first. Foreign keys, other constraints, defaults, indexes and generated columns are not part of an export.",
    ),
    "jsonl": (
        "One JSON object for each row, one to a line, UTF-8.",
        "smallint, integer, bigint, oid, numeric, real and double precision are numbers with all digits that"
        " PostgreSQL has: read them with a parser that keeps them. NaN, Infinity and -Infinity are strings.",
        "boolean is true or false. json and jsonb are embedded; NULL in such a column is told by the member's"
        " absence, since null is a value there. In all other columns NULL is null.",
        "timestamp and timestamp with time zone are ISO 8601, the latter in UTC with a Z; infinity, years before"
        " Christ and after 9999 are as PostgreSQL writes them, as in `0044-03-15 12:00:00 BC`.",
        "bytea is a string of hexadecimal digits after \\x. Arrays are arrays, nested as deep as they have"
        " dimensions; arrays whose indexes do not begin at 1, and arrays of json with NULL elements, are"
        " PostgreSQL's text, as in `[0:1]={1,2}`.",
        "Everything else is a string: PostgreSQL's text of the value.",
    ),
    "csv": (
        "RFC 4180, UTF-8, with a line of column names. Every value is PostgreSQL's text. NULL is an empty field,"
        ' the empty string is "".',
        "COPY table FROM 'file' WITH (FORMAT csv, HEADER) reads it back exactly.",
        "These are the application's texts, byte for byte. A spreadsheet takes text that begins with = + - @, a tab or a"
        " line break for a formula, which can send cells elsewhere or start a program: do not open the files in one, or"
        " import every column as text. The format spreadsheet is for that.",
    ),
    "spreadsheet": (
        "CSV for spreadsheets: RFC 4180, UTF-8, with a line of column names. Every value is PostgreSQL's text. Open it as"
        " comma-separated: where the separator is another, text is cut into cells that nobody looked at.",
        "Text that begins with = + - @ | %, a tab or a line break, and is no number, has an apostrophe before it, so that"
        " it is not taken for a formula. So it is not exact: use csv to load it into a database.",
        'NULL is an empty field, the empty string is "".',
    ),
    "parquet": (
        "Apache Parquet, compressed with zstd. The metadata of each column has its PostgreSQL type under"
        " `postgresql_type`.",
        "Integers, floating point numbers, boolean, bytea (binary), date, time, timestamp (microseconds; with time"
        " zone: UTC) have Parquet's types. numeric with a precision of up to 76 digits is a decimal. Arrays of one"
        " dimension are lists.",
        "Everything else is a string: PostgreSQL's text of the value. So is a whole column where one of its values"
        " does not fit the type, as NaN among decimals, infinity among dates, or arrays of two dimensions;"
        " `text_columns` in manifest.json names these.",
    ),
}
ROW_ORDER = "Rows are in no particular order."


def _rows(number: int) -> str:
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def readme(manifest: ExportManifest) -> str:
    """README.txt of an export, from its manifest."""
    point, files = manifest.recovery_point or {}, manifest.files
    listed = "".join(f"  {table.file}: {table.table}, {_rows(table.rows)}\n" for table in manifest.tables)
    parts = [
        f"Data of {manifest.tenant_id}\n{'=' * (len(manifest.tenant_id) + 8)}\n\n",
        f"Exported at {manifest.exported_at} from the backup {manifest.backup_id}: everything below is as it was at"
        f" {point.get('time', manifest.created_at)}.\n"
        "It may contain personal data: keep it where only those who need it can read it, and delete it when it has served.\n\n",
        f"Tables ({manifest.format})\n\n{listed}\n",
        "".join(f"* {sentence}\n" for sentence in manifest.format_notes),
    ]
    stray = [(table, table.not_text) for table in manifest.tables if table.not_text]
    if stray:
        parts.append(
            "\nSome values have bytes that mean nothing in the encoding of the database. They are "
            + ("here as they are" if manifest.format in ("csv", "spreadsheet") else "written as \\xNN, in hexadecimal")
            + ":\n"
            + "".join(
                f"  {t.table}: {', '.join(f'{n:,} of {name}' for name, n in found.items())}\n" for t, found in stray
            )
        )
    if files is not None:
        parts.append(
            f"\nFiles\n\n{files.count:,} files, {files.bytes:,} bytes, in files/ under their own names."
            f" {files.renamed:,} have names that cannot be those of files here and are in files-renamed/.\n"
            "files.jsonl has a line for each: `path`, its own name; `file`, where it is here; size, modified, sha256, attributes.\n"
        )
    if files is not None and files.missing_references:
        one = files.missing_references == 1
        said = f"{files.missing_references:,} {'file' if one else 'files'} that rows refer to did not exist at that time.\n"
        parts.append(said)
    parts.append(
        "\nmanifest.json says the same for programs: tables with columns, types, rows and keys, and the SHA-256 of each file.\n"
    )
    return "".join(parts)
