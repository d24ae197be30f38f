"""What somebody who may create objects in a schema of the search path would plant to take over statements of ours.

Exact types of arguments win over the order of the path, so `pg_catalog` in front does not help a call that has none there. For
every operator and function that our SQL uses there is one here, of types that it has no own one for: each raises an error, and
the server counts its calls, should the error be caught.
"""

from sbh_pipelines.database.session.functions import CALLED
from sbh_pipelines_tests.support.databases import Database

_FAMILIES = (
    ("int2", "int4", "int8", "numeric"),
    ("text", "varchar", "bpchar", "name"),
    ("oid", "regclass", "int8"),
    ("text[]", "varchar[]"),
    ("int4[]", "int8[]", "oid[]"),
    *(
        (one,)
        for one in ("bool", "uuid", "jsonb", "timestamptz", "bytea", "xid", "tid", "mood", "word", '"char"', "mood[]")
    ),
)
_PAIRS = list(dict.fromkeys((one, other) for family in _FAMILIES for one in family for other in family))
_OPERATORS = [
    "=",
    "<>",
    "<",
    ">",
    "<=",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "#",
    "||",
    "~",
    ">>",
    "->",
    "->>",
    "*=",
]
# What an argument may be instead: the value is coerced to the function's own type, or has that of a polymorphic one.
_INSTEAD = {
    "text": ("varchar", "name", "bpchar"),
    "int8": ("int4", "int2"),
    "int4": ("int2", "int8"),
    "numeric": ("int4", "int8"),
    "oid": ("regclass", "int4", "int8"),
    "regclass": ("text", "oid"),
    "anyarray": ("text[]", "int4[]", "int8[]", "mood[]", "varchar[]", "oid[]"),
    "any": ("int4", "int8", "text", "varchar", "uuid", "mood", "bool", "tid", "numeric", "timestamptz", "jsonb"),
    "record": (),
}
_INSTEAD |= dict.fromkeys(
    ("anyelement", "anynonarray", "anycompatible"), tuple(t for t in _INSTEAD["any"] if t != "tid")
)
_INSTEAD["anycompatiblearray"] = _INSTEAD["anyarray"]

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN short AS varchar(20);
CREATE TYPE word AS (word text);
"""

_PLANT = """
DO $do$
DECLARE pair text[]; o text;
BEGIN
  FOREACH pair SLICE 1 IN ARRAY %(pairs)s LOOP
    EXECUTE format('CREATE FUNCTION planted(%%s, %%s) RETURNS bool LANGUAGE plpgsql AS %%L', pair[1], pair[2],
                   format('BEGIN RAISE EXCEPTION %%L; END', 'planted operator ' || pair[1] || ' ' || pair[2]));
    FOREACH o IN ARRAY %(operators)s LOOP
      CONTINUE WHEN EXISTS (SELECT FROM pg_operator WHERE oprname = o AND oprleft = pair[1]::regtype
        AND oprright = pair[2]::regtype AND oprnamespace = 'pg_catalog'::regnamespace);
      EXECUTE format('CREATE OPERATOR %%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = planted)', o, pair[1], pair[2]);
    END LOOP;
  END LOOP;
END $do$;
"""


def plant(database: Database) -> int:
    """Plant in `public`, after `TYPES`; how many functions that were. Nothing of the application may use them."""
    arguments = {"pairs": [list(pair) for pair in _PAIRS], "operators": _OPERATORS}
    database.run(f"ALTER DATABASE {database.name} SET track_functions = 'all'")
    database.ask(_PLANT + "SELECT 1", arguments)
    signatures = database.ask(
        "SELECT p.proname::text, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u(t, n) ORDER BY n)"
        " FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%s) AND p.pronargs BETWEEN 1 AND 4",
        [list(CALLED)],
    )
    known = {(name, tuple(arguments)) for name, arguments in signatures}
    names = {"bigint": "int8", "integer": "int4", "smallint": "int2", '"any"': "any"}
    made = set()
    for name, types in known:
        for place, kind in enumerate(types):
            for other in _INSTEAD.get(names.get(kind, kind), ()):
                wanted = (*types[:place], _LONG.get(other, other), *types[place + 1 :])
                if not any(t.startswith("any") or t in ('"any"', "internal", "cstring", "record") for t in wanted):
                    made.add((name, wanted))
    statements = [
        f'CREATE FUNCTION public."{name}"({", ".join(types)}) RETURNS {_GIVES.get(name, "bigint")} LANGUAGE plpgsql AS'
        f" 'BEGIN RAISE EXCEPTION $$planted function {name}$$; END'"
        for name, types in sorted(made - known)
    ]
    database.run("; ".join(statements))
    return len(statements)


_LONG = {"int2": "smallint", "int4": "integer", "int8": "bigint", "varchar": "character varying", "bpchar": "character"}
_GIVES = {"unnest": "SETOF text"}


def called(database: Database) -> list[tuple[str, int]]:
    """The planted functions that were called, and how often."""
    query = "SELECT funcname, calls FROM pg_stat_user_functions WHERE calls > 0 AND schemaname = 'public'"
    return [(str(name), int(calls)) for name, calls in database.ask(query)]
