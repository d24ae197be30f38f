"""Scripts of pg_dump's are told apart as psql tells them."""

from sbh_pipelines.database.rebuild.script import is_early, lesser_functions, statements

PIECES = [
    "SET statement_timeout = 0;",
    "CREATE TABLE \"a;\"\"b\" (c text DEFAULT 'it''s; -- no' CHECK ((c <> ';')));",
    "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $_$BEGIN /* ; */ RETURN ';'; END; \\restrict $x$ $_$;",
    'CREATE FUNCTION "g"() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;',
    "CREATE FUNCTION h(text DEFAULT ';') RETURNS text LANGUAGE sql RETURN CASE WHEN true THEN 'end' END;",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD (SELECT 1; SELECT 2);",
    "SELECT E'it\\'s; ''\\\\', $$;$$, $é$ ; $é$, x$1, /* a /* nested; */ ; */ 1;",
    "COMMENT ON TABLE t IS 'über;\n\\! never\n--';",
]


def test_statements_are_told_apart() -> None:
    text = "--\n-- Name: x; Type: y\n--\n\n\\restrict abc\n\n" + "\n\n-- c;\n".join(PIECES) + "\n\\unrestrict abc\n"
    assert list(statements(text.encode())) == PIECES


def test_bytes_that_are_no_text_pass() -> None:
    (one,) = statements(b"COMMENT ON TABLE t IS 'caf\xe9;';")
    assert one.encode("utf-8", "surrogateescape") == b"COMMENT ON TABLE t IS 'caf\xe9;';"


def test_indexes_over_the_applications_functions_come_early() -> None:
    assert is_early('CREATE INDEX "i" ON "public"."t" USING "btree" ("public"."slug"("title"));')
    assert is_early('CREATE UNIQUE INDEX "i" ON "s"."t" USING "btree" ("a") WHERE ("a" OPERATOR("public".=) 1);')
    assert not is_early('CREATE INDEX "i" ON "public"."t" USING "gin" ("lower"("a") "public"."gin_trgm_ops");')
    assert not is_early('CREATE STATISTICS "public"."s" ON "public"."slug"("title") FROM "public"."t";')


def test_what_is_made_where_a_function_may_not_be() -> None:
    head = 'CREATE FUNCTION "f"("a" integer DEFAULT 1) RETURNS integer\n'
    text = (
        head
        + '    LANGUAGE "sql" IMMUTABLE STRICT LEAKPROOF\n    SET "log_statement" TO \'none\'\n    SET "search_path" TO \'x\'\n    AS $_$SELECT $1$_$;'
    )
    lesser, stub = lesser_functions(text)
    assert (
        lesser == head + '    LANGUAGE "sql" IMMUTABLE STRICT\n    SET "search_path" TO \'x\'\n    AS $_$SELECT $1$_$;'
    )
    assert stub.startswith(head + "    LANGUAGE plpgsql IMMUTABLE STRICT\n    AS $sbh$BEGIN RAISE")
    assert len(lesser_functions(head + "    LANGUAGE \"c\"\n    AS '$libdir/x', 'f';")) == 1
    assert lesser_functions("CREATE TABLE t (a int);") == []
