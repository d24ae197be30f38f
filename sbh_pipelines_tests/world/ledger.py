"""Book-keeping for a sharded future: the tenant's key is part of every primary and foreign key, several of them deferred and in circles."""

from sbh_pipelines_tests.world.product import Product, text_of

_SCHEMA = r"""
CREATE SCHEMA books;
CREATE TABLE companies (tenant_no smallint PRIMARY KEY, slug text UNIQUE NOT NULL, region text NOT NULL DEFAULT 'eu-west-1', tier text DEFAULT 'important',
    main_account int);
CREATE TABLE currencies (code char(3) PRIMARY KEY, digits int NOT NULL);
CREATE TABLE books.accounts (tenant_no smallint NOT NULL REFERENCES companies, id int NOT NULL, parent int, code varchar(20) COLLATE "C" NOT NULL, title text,
    currency char(3) REFERENCES currencies, PRIMARY KEY (tenant_no, id), UNIQUE (tenant_no, code),
    FOREIGN KEY (tenant_no, parent) REFERENCES books.accounts DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE companies ADD FOREIGN KEY (tenant_no, main_account) REFERENCES books.accounts DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE books.periods (tenant_no smallint NOT NULL, id int NOT NULL, during daterange NOT NULL, closed bool, PRIMARY KEY (tenant_no, id),
    FOREIGN KEY (tenant_no) REFERENCES companies, EXCLUDE USING gist (int4range(tenant_no, tenant_no, '[]') WITH &&, during WITH &&));
CREATE TABLE books.entries (tenant_no smallint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, period int NOT NULL, memo text, posted timestamptz,
    PRIMARY KEY (tenant_no, id), FOREIGN KEY (tenant_no, period) REFERENCES books.periods) PARTITION BY HASH (tenant_no);
CREATE TABLE books.entries_0 PARTITION OF books.entries FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE books.entries_1 PARTITION OF books.entries FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE books.lines (tenant_no smallint NOT NULL, entry bigint NOT NULL, line int NOT NULL, account int NOT NULL, amount numeric(20, 4) NOT NULL CHECK (amount <> 0),
    signed numeric GENERATED ALWAYS AS (amount * 100) STORED, PRIMARY KEY (tenant_no, entry, line),
    FOREIGN KEY (tenant_no, entry) REFERENCES books.entries ON DELETE CASCADE, FOREIGN KEY (tenant_no, account) REFERENCES books.accounts);
CREATE TABLE books.documents (tenant_no smallint NOT NULL REFERENCES companies, entry bigint, name text, content bytea,
    FOREIGN KEY (tenant_no, entry) REFERENCES books.entries ON DELETE SET NULL (entry));
CREATE SEQUENCE books.receipt START 1000;
CREATE TABLE books.receipts (tenant_no smallint NOT NULL REFERENCES companies, no bigint NOT NULL DEFAULT nextval('books.receipt'), total money, PRIMARY KEY (no));
CREATE FUNCTION books.no_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'entries are for ever'; END $$;
CREATE TRIGGER for_ever BEFORE UPDATE ON books.lines FOR EACH ROW EXECUTE FUNCTION books.no_change();
"""
_ROWS = f"""
INSERT INTO currencies VALUES ('EUR', 2), ('JPY', 0), ('BHD', 3);
INSERT INTO companies (tenant_no, slug) VALUES (-1, 'minus'), (7, 'seven'), (32767, 'most');
INSERT INTO books.accounts SELECT c.tenant_no, n, CASE WHEN n > 1 THEN n / 2 END, 'A-' || n, {text_of("n")}, (ARRAY['EUR', 'JPY', NULL])[1 + n % 3] FROM companies c, generate_series(1, 30) n;
UPDATE companies SET main_account = 1;
INSERT INTO books.periods SELECT c.tenant_no, n, daterange('2026-01-01'::date + 30 * n, '2026-01-01'::date + 30 * n + 30), n < 3 FROM companies c, generate_series(1, 6) n;
INSERT INTO books.entries (tenant_no, period, memo, posted) SELECT c.tenant_no, 1 + n % 6, {text_of("n")}, 'infinity' FROM companies c, generate_series(1, 40) n;
INSERT INTO books.lines (tenant_no, entry, line, account, amount) SELECT e.tenant_no, e.id, n, 1 + (e.id + n) % 30, CASE n WHEN 1 THEN 1 ELSE -1 END * (e.id + 0.0001) FROM books.entries e, generate_series(1, 2) n;
INSERT INTO books.documents SELECT tenant_no, CASE WHEN id % 3 > 0 THEN id END, 'scan', decode(repeat(md5(id::text), 50), 'hex') FROM books.entries WHERE id % 2 = 0;
INSERT INTO books.receipts (tenant_no, total) SELECT tenant_no, n * 1.25::numeric::money FROM companies, generate_series(1, 10) n;
"""
_MINE = "t.tenant_no = {key}"

LEDGER = Product(
    name="ledger",
    schema=_SCHEMA,
    rows=_ROWS,
    changes="DELETE FROM books.lines WHERE entry % 5 = 0; UPDATE books.accounts SET title = 'renamed' WHERE id % 4 = 0; UPDATE companies SET tier = 'critical';"
    " INSERT INTO books.receipts (tenant_no, total) SELECT tenant_no, (-1)::numeric::money FROM companies",
    wrecks=(
        "DELETE FROM books.entries WHERE tenant_no = 7 AND id % 4 = 0",
        "UPDATE companies SET main_account = NULL WHERE tenant_no = 7; DELETE FROM books.documents WHERE tenant_no = 7; DELETE FROM books.entries WHERE tenant_no = 7;"
        " DELETE FROM books.accounts WHERE tenant_no = 7; DELETE FROM books.periods WHERE tenant_no = 7",
        "UPDATE books.accounts SET code = reverse(code) || 'x', parent = NULL WHERE tenant_no = 7; DELETE FROM books.receipts WHERE tenant_no = 7;"
        " UPDATE books.periods SET during = daterange(lower(during) + 3000, upper(during) + 3000), closed = NULL WHERE tenant_no = 7;"
        " INSERT INTO books.entries (tenant_no, period, memo) SELECT 7, 1, 'extra' FROM generate_series(1, 9)",
    ),
    tables={
        "companies": _MINE,
        **{f"books.{name}": _MINE for name in ("accounts", "periods", "entries", "lines", "documents", "receipts")},
    },
    common=("currencies",),
    part=("books.documents", "UPDATE books.documents SET content = NULL WHERE tenant_no = 7"),
    keys={"seven": "7", "minus": "-1", "most": "32767"},
    settings={
        "tenants": {"table": "companies", "key": "tenant_no"},
        "database": {"schemas": ["public", "books"], "tenant_column": "tenant_no", "shared": ["currencies"]},
    },
)
