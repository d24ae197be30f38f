"""A help desk as an object-relational framework makes it: integer keys, polymorphic tables, built-in roles, switched-off tenants.

Users are everybody's and remember the account they looked at last; accounts have no region; what is deleted leaves versions behind.
"""

from sbh_pipelines_tests.world.product import Product, text_of

_SCHEMA = r"""
CREATE TYPE ticket_state AS ENUM ('open', 'waiting', 'it''s done');
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE TABLE accounts (id bigserial PRIMARY KEY, subdomain varchar(63) NOT NULL, deleted_at timestamp, plan_id int,
    settings jsonb NOT NULL DEFAULT '{}');
CREATE UNIQUE INDEX ON accounts (subdomain) WHERE deleted_at IS NULL;
CREATE TABLE plans (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2));
ALTER TABLE accounts ADD FOREIGN KEY (plan_id) REFERENCES plans;
CREATE TABLE users (id bigserial PRIMARY KEY, email email UNIQUE, current_account_id bigint REFERENCES accounts ON DELETE SET NULL);
CREATE TABLE roles (id bigserial PRIMARY KEY, account_id bigint REFERENCES accounts ON DELETE CASCADE, name text NOT NULL,
    permissions text[] NOT NULL DEFAULT '{}');
CREATE TABLE memberships (id bigserial PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
    user_id bigint NOT NULL REFERENCES users, role_id bigint NOT NULL REFERENCES roles, UNIQUE (account_id, user_id));
CREATE TABLE folders (id bigserial PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts, parent_id bigint REFERENCES folders,
    name text);
CREATE TABLE tickets (id bigserial PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts, folder_id bigint REFERENCES folders ON DELETE SET NULL,
    requester_id bigint REFERENCES users, type text NOT NULL, state ticket_state NOT NULL DEFAULT 'open', subject text,
    search tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce(subject, ''))) STORED, lock_version int NOT NULL DEFAULT 0,
    created_at timestamp(6) NOT NULL DEFAULT now());
CREATE INDEX ON tickets USING gin (search);
CREATE INDEX ON tickets (lower(subject)) WHERE state = 'open';
CREATE TABLE comments (id bigserial PRIMARY KEY, ticket_id bigint REFERENCES tickets ON DELETE SET NULL, body text);
CREATE TABLE attachments (id bigserial PRIMARY KEY, comment_id bigint NOT NULL REFERENCES comments ON DELETE CASCADE, key text UNIQUE NOT NULL,
    checksum bytea, byte_size bigint);
CREATE TABLE tags (id bigserial PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts, name text NOT NULL, UNIQUE (account_id, name));
CREATE TABLE tags_tickets (tag_id bigint NOT NULL REFERENCES tags ON DELETE CASCADE, ticket_id bigint NOT NULL REFERENCES tickets ON DELETE CASCADE);
CREATE TABLE versions (id bigserial PRIMARY KEY, item_type text NOT NULL, item_id bigint NOT NULL, event text, object json);
CREATE TABLE sessions (id bigserial PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE, data text);
CREATE TABLE schema_migrations (version varchar PRIMARY KEY);
CREATE VIEW open_tickets AS SELECT * FROM tickets WHERE state = 'open';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.lock_version := OLD.lock_version + 1; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tickets USING (account_id = current_setting('app.account', true)::bigint);
"""
_ROWS = f"""
INSERT INTO plans VALUES (1, 'free', 0), (2, 'large', 99.90);
INSERT INTO accounts (subdomain, plan_id) VALUES ('acme', 1), ('globex', 2), ('initech', NULL);
INSERT INTO accounts (subdomain, deleted_at) VALUES ('acme', '2025-01-01');
INSERT INTO users (email, current_account_id) SELECT 'user' || n || '@x.org', 1 + n % 3 FROM generate_series(1, 12) n;
INSERT INTO roles (account_id, name, permissions) VALUES (NULL, 'admin', '{{all}}'), (NULL, 'agent', '{{read,"write, too"}}');
INSERT INTO roles (account_id, name) SELECT n, 'own role' FROM generate_series(1, 3) n;
INSERT INTO memberships (account_id, user_id, role_id) SELECT a, u, CASE WHEN u % 2 = 0 THEN 1 ELSE 2 + a END
    FROM generate_series(1, 3) a, generate_series(1, 12) u WHERE (a + u) % 3 > 0;
INSERT INTO folders (account_id, name) SELECT n, 'root' FROM generate_series(1, 3) n;
INSERT INTO folders (account_id, parent_id, name) SELECT 1 + n % 3, 1 + n % 3, {text_of("n")} FROM generate_series(1, 30) n;
INSERT INTO tickets (account_id, folder_id, requester_id, type, state, subject)
    SELECT f.account_id, f.id, 1 + n % 12, CASE n % 2 WHEN 0 THEN 'Incident' ELSE 'Question' END,
    (ARRAY['open', 'waiting', 'it''s done'])[1 + n % 3]::ticket_state, {text_of("n")} FROM folders f, generate_series(1, 6) n;
INSERT INTO comments (ticket_id, body) SELECT t.id, {text_of("t.id + n")} FROM tickets t, generate_series(1, 3) n;
INSERT INTO attachments (comment_id, key, checksum, byte_size) SELECT id, md5(id::text), decode(md5(id::text), 'hex'), id * 1000 FROM comments WHERE id % 4 = 0;
INSERT INTO tags (account_id, name) SELECT 1 + n % 3, 'tag ' || n FROM generate_series(1, 12) n;
INSERT INTO tags_tickets SELECT g.id, t.id FROM tickets t JOIN tags g USING (account_id) WHERE (t.id + g.id) % 5 = 0;
INSERT INTO versions (item_type, item_id, event, object) SELECT 'Ticket', id, 'update', json_build_object('subject', subject) FROM tickets;
INSERT INTO versions (item_type, item_id, event) SELECT 'Comment', id, 'create' FROM comments WHERE id % 3 = 0;
INSERT INTO sessions (user_id, data) SELECT id, 'secret' FROM users;
INSERT INTO schema_migrations SELECT (20260101000000 + n)::text FROM generate_series(1, 5) n;
"""
_MINE = "t.account_id = {key}"
_TICKET = "EXISTS (SELECT FROM tickets k WHERE k.id = t.ticket_id AND k.account_id = {key})"
_COMMENT = (
    "EXISTS (SELECT FROM comments c JOIN tickets k ON k.id = c.ticket_id WHERE c.id = {id} AND k.account_id = {key})"
)

HELPDESK = Product(
    name="helpdesk",
    schema=_SCHEMA,
    rows=_ROWS,
    changes="UPDATE tickets SET subject = 'changed ' || id WHERE id % 7 = 0; DELETE FROM tags_tickets WHERE ticket_id % 9 = 0;"
    " INSERT INTO comments (ticket_id, body) SELECT id, 'later' FROM tickets WHERE id % 10 = 0; UPDATE accounts SET settings = '{\"a\": 1}'",
    wrecks=(
        # What an application does itself: a ticket is deleted, its comments stay behind without one.
        "DELETE FROM tags_tickets WHERE ticket_id IN (SELECT id FROM tickets WHERE account_id = 1);"
        " DELETE FROM tickets WHERE account_id = 1 AND id % 3 = 0",
        # Everything below the account goes, from the leaves upwards, but versions have no foreign key.
        "DELETE FROM comments WHERE ticket_id IN (SELECT id FROM tickets WHERE account_id = 1); DELETE FROM tickets WHERE account_id = 1;"
        " DELETE FROM folders WHERE account_id = 1 AND parent_id IS NOT NULL; DELETE FROM memberships WHERE account_id = 1;"
        " DELETE FROM roles WHERE account_id = 1; DELETE FROM tags WHERE account_id = 1",
        # A migration gone wrong.
        "UPDATE tickets SET subject = NULL, state = 'it''s done' WHERE account_id = 1; UPDATE folders SET parent_id = NULL WHERE account_id = 1;"
        " UPDATE comments SET body = upper(body) WHERE ticket_id IN (SELECT id FROM tickets WHERE account_id = 1);"
        " INSERT INTO tickets (account_id, type, subject) SELECT 1, 'Incident', 'spam ' || n FROM generate_series(1, 20) n;"
        " DELETE FROM versions WHERE item_type = 'Ticket' AND item_id IN (SELECT id FROM tickets WHERE account_id = 1)",
    ),
    tables={
        "accounts": "t.id = {key}",
        "roles": _MINE,
        "memberships": _MINE,
        "folders": _MINE,
        "tickets": _MINE,
        "tags": _MINE,
        "comments": _TICKET,
        "tags_tickets": _TICKET,
        "attachments": _COMMENT.replace("{id}", "t.comment_id"),
        "versions": "CASE t.item_type WHEN 'Ticket' THEN EXISTS (SELECT FROM tickets k WHERE k.id = t.item_id AND k.account_id = {key})"
        f" ELSE {_COMMENT.replace('{id}', 't.item_id')} END",
    },
    common=("plans", "users", "schema_migrations", "(SELECT * FROM roles WHERE account_id IS NULL)"),
    part=("tags", "UPDATE tags SET name = name || '!' WHERE account_id = 1"),
    keys={"acme": "1", "globex": "2", "initech": "3"},
    settings={
        "tenants": {
            "table": "accounts",
            "slug": "subdomain",
            "region": "",
            "default_region": "eu-west-1",
            "tier": "",
            "where": "deleted_at IS NULL",
        },
        "database": {
            "tenant_column": "account_id",
            "shared": ["plans", "users", "schema_migrations"],
            "excluded": ["sessions"],
            "links": [
                {"table": "comments", "via": ["ticket_id"]},
                {"table": "tags_tickets", "via": ["ticket_id"]},
                {
                    "table": "versions",
                    "parent": "accounts",
                    "join": "p.id = CASE t.item_type"
                    " WHEN 'Ticket' THEN (SELECT k.account_id FROM public.tickets k WHERE k.id = t.item_id)"
                    " ELSE (SELECT k.account_id FROM public.comments c JOIN public.tickets k ON k.id = c.ticket_id WHERE c.id = t.item_id) END",
                },
            ],
        },
    },
)
