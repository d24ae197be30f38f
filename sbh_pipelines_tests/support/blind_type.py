"""A type like citext, made of SQL: equal is what differs by case only. Its operators are in a schema of their own."""

_COMPARISONS = {"lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"}


def blind_type(schema: str = "made", name: str = "blind") -> str:
    """SQL for a superuser: the schema, the type, its casts from and to text, its operators."""
    kind = f"{schema}.{name}"
    functions = "".join(
        f"CREATE FUNCTION {kind}_{word}({kind}, {kind}) RETURNS bool LANGUAGE sql IMMUTABLE STRICT AS"
        f" $$SELECT lower($1::text) {sign} lower($2::text)$$;"
        f"CREATE OPERATOR {schema}.{sign} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = {kind}_{word});"
        for word, sign in _COMPARISONS.items()
    )
    operators = ", ".join(f"OPERATOR {nth} {schema}.{sign}" for nth, sign in enumerate(_COMPARISONS.values(), 1))
    return (
        f"CREATE SCHEMA {schema}; CREATE TYPE {kind};"
        f"CREATE FUNCTION {kind}_in(cstring) RETURNS {kind} LANGUAGE internal IMMUTABLE STRICT AS 'textin';"
        f"CREATE FUNCTION {kind}_out({kind}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';"
        f"CREATE TYPE {kind} (INPUT = {kind}_in, OUTPUT = {kind}_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);"
        f"CREATE CAST ({kind} AS text) WITHOUT FUNCTION AS IMPLICIT; CREATE CAST (text AS {kind}) WITHOUT FUNCTION AS ASSIGNMENT;"
        f"{functions}"
        f"CREATE FUNCTION {kind}_cmp({kind}, {kind}) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS"
        " $$SELECT CASE WHEN lower($1::text) < lower($2::text) THEN -1 WHEN lower($1::text) > lower($2::text) THEN 1 ELSE 0 END$$;"
        f"CREATE OPERATOR CLASS {kind}_ops DEFAULT FOR TYPE {kind} USING btree AS {operators},"
        f" FUNCTION 1 {kind}_cmp({kind}, {kind});"
        f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC"
    )
