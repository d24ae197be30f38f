"""Scripts of pg_dump's are told apart as psql tells them."""

from sbh_pipelines.database.rebuild.script import EarlyIndexes, lesser_functions, statements

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
    """Not those over functions that read tables, by themselves or through others."""
    early = EarlyIndexes(
        [
            'CREATE FUNCTION "public"."slug"(text) RETURNS text LANGUAGE sql AS $$SELECT norm(substring($1 FROM 2))$$;',
            'CREATE FUNCTION "public"."norm"(text) RETURNS text LANGUAGE sql AS $$SELECT lower($1)$$;',
            'CREATE FUNCTION "public"."named"(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT n FROM t); END$$;',
            'CREATE FUNCTION "public"."other"(text) RETURNS text LANGUAGE sql AS $$SELECT named($1)$$;',
        ]
    )
    assert 'CREATE INDEX "i" ON "public"."t" USING "btree" ("public"."slug"("title"));' in early
    assert 'CREATE UNIQUE INDEX "i" ON "s"."t" USING "btree" ("a") WHERE ("a" OPERATOR("public".=) 1);' in early
    assert 'CREATE INDEX "i" ON "public"."t" USING "gist" ("public"."ll_to_earth"("a", "b"));' in early
    exclusion = (
        'ALTER TABLE ONLY "public"."t"\n    ADD CONSTRAINT "x" EXCLUDE USING "btree" ("public"."slug"("a") WITH =);'
    )
    (one,) = statements(exclusion.encode())
    assert one in early
    assert 'CREATE INDEX "i" ON "public"."t" USING "btree" ("public"."named"("a"));' not in early
    assert 'CREATE INDEX "i" ON "public"."t" USING "btree" ("public"."other"("a"));' not in early
    assert 'CREATE INDEX "i" ON "public"."t" USING "gin" ("lower"("a") "public"."gin_trgm_ops");' not in early
    assert 'CREATE STATISTICS "public"."s" ON "public"."slug"("title") FROM "public"."t";' not in early


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
