"""Everything for everybody: a hundred and fifty tables in four schemas, made by rule. References go six deep."""

from sbh_pipelines_tests.world.product import Product, text_of

MODULES = ("sales", "stock", "people", "public")
TABLES = 36  # in each module, beside what there is once
_KEY = ("int", "uuid", "text")


def _name(module: str, n: int) -> str:
    return f"{module}.item_{n:02d}"


def _kind(n: int) -> str:
    return _KEY[n % 3]


def _key(n: int, expression: str) -> str:
    """The key of a table's row, of the row's number."""
    return {
        "int": f"({expression})::int",
        "uuid": f"md5('{n}/' || ({expression}))::uuid",
        "text": f"('row ' || ({expression}) || E'\\t')",
    }[_kind(n)]


def _parent(n: int) -> int | None:
    """The table of the same module that a table's rows belong to; None: they have the tenant's column."""
    return None if n % 6 == 0 else n - 1


def _table(module: str, n: int) -> str:
    columns = [f"id {_kind(n)} PRIMARY KEY", "label text", "amount numeric(12, 3)", "extra jsonb", "at timestamptz"]
    parent = _parent(n)
    if parent is None:
        columns.append("tenant uuid NOT NULL REFERENCES public.tenants")
    else:
        columns.append(f"parent {_kind(parent)} NOT NULL REFERENCES {_name(module, parent)} ON DELETE CASCADE")
    if n % 5 == 0:
        columns.append(f"link {_kind(n)} REFERENCES {_name(module, n)} DEFERRABLE")
    if n % 4 == 0:
        columns.append("country text NOT NULL REFERENCES public.countries")
    if n % 7 == 0:
        columns.append("double numeric GENERATED ALWAYS AS (amount * 2) STORED")
    if n % 8 == 0:
        columns.append("UNIQUE (label, at)")
    return f"CREATE TABLE {_name(module, n)} ({', '.join(columns)});"


def _fill(module: str, n: int) -> str:
    """Three rows a table, one of each tenant; a row's number says whose it is."""
    parent = _parent(n)
    columns, values = (
        ["id", "label", "amount", "extra", "at"],
        [
            _key(n, "i"),
            text_of(f"i + {n}"),
            f"i / 7.0 + {n}",
            "jsonb_build_object('i', i)",
            f"timestamptz '2026-01-01 00:00:00.{n:06d}+00' + i * interval '1 day'",
        ],
    )
    columns.append("tenant" if parent is None else "parent")
    values.append("md5('tenant' || i)::uuid" if parent is None else _key(parent, "i"))
    if n % 5 == 0:
        columns.append("link")
        values.append(_key(n, "i"))
    if n % 4 == 0:
        columns.append("country")
        values.append("'de'")
    return f"INSERT INTO {_name(module, n)} ({', '.join(columns)}) SELECT {', '.join(values)} FROM generate_series(1, 3) i;"


def _mine(module: str, n: int) -> str:
    way, table = "t", n
    joins: list[str] = []
    while (parent := _parent(table)) is not None:
        joins.append(f"JOIN {_name(module, parent)} p{parent} ON p{parent}.id = {way}.parent")
        way, table = f"p{parent}", parent
    if not joins:
        return "t.tenant = {key}"
    first = joins[0].removeprefix("JOIN ")
    source, condition = first.split(" ON ", 1)
    return f"EXISTS (SELECT FROM {source} {' '.join(joins[1:])} WHERE {condition} AND {way}.tenant = {{key}})"


_ALL = [(module, n) for module in MODULES for n in range(TABLES)]
_FIRST = "md5('tenant' || 1)::uuid"

SUITE = Product(
    name="suite",
    schema="CREATE SCHEMA sales; CREATE SCHEMA stock; CREATE SCHEMA people;"
    " CREATE TABLE tenants (id uuid PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL DEFAULT 'eu-west-1', tier text DEFAULT 'archive');"
    " CREATE TABLE countries (code text PRIMARY KEY, name text);"
    + "".join(f" CREATE TABLE lookup_{n} (id int PRIMARY KEY, name text);" for n in range(4))
    + "".join(_table(module, n) for module, n in _ALL),
    rows="INSERT INTO tenants SELECT md5('tenant' || n)::uuid, 'customer.' || n FROM generate_series(1, 3) n;"
    " INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France');"
    + "".join(f" INSERT INTO lookup_{n} SELECT i, 'name ' || i FROM generate_series(1, 5) i;" for n in range(4))
    + "".join(_fill(module, n) for module, n in _ALL),
    changes="".join(
        f"UPDATE {_name(module, n)} SET amount = amount + 1, label = 'changed' || left(id::text, 5);"
        for module, n in _ALL
        if n % 9 == 0
    ),
    wrecks=(
        "".join(
            f"DELETE FROM {_name(module, 0)} WHERE tenant = {_FIRST};" for module in MODULES
        ),  # five levels cascade
        "".join(
            f"DELETE FROM {_name(module, n)} WHERE tenant = {_FIRST};"
            for module in MODULES
            for n in range(0, TABLES, 6)
        ),
    ),
    tables={"tenants": "t.id = {key}", **{_name(module, n): _mine(module, n) for module, n in _ALL}},
    common=("countries", *(f"lookup_{n}" for n in range(4))),
    part=(_name("sales", 6), f"UPDATE {_name('sales', 6)} SET extra = NULL WHERE tenant = {_FIRST}"),
    keys={f"customer.{n}": f"md5('tenant' || {n})::uuid" for n in (1, 2, 3)},
    settings={
        "database": {
            "schemas": ["public", "sales", "stock", "people"],
            "tenant_column": "tenant",
            "shared": ["countries", *(f"lookup_{n}" for n in range(4))],
        },
    },
)
