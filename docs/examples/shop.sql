-- A small SaaS to try things on: three customers who share all tables. Not the sample data of `make demo`: nothing here is named as SBH Pipelines expects it.
CREATE TABLE orgs (
    id integer PRIMARY KEY, handle text NOT NULL UNIQUE, plan text NOT NULL, home_region text NOT NULL DEFAULT 'eu-west-1'
);
CREATE TABLE currencies (code char(3) PRIMARY KEY, name text NOT NULL);
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org_id integer NOT NULL REFERENCES orgs, email text NOT NULL, UNIQUE (org_id, email)
);
CREATE TABLE invoices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org_id integer NOT NULL REFERENCES orgs, number text NOT NULL,
    currency char(3) NOT NULL REFERENCES currencies, total numeric(12, 2) NOT NULL, paid boolean NOT NULL DEFAULT false, issued date NOT NULL
);
CREATE TABLE invoice_lines (  -- whose they are, the invoice says
    invoice_id bigint REFERENCES invoices ON DELETE CASCADE, line integer, what text NOT NULL, price numeric(12, 2) NOT NULL, PRIMARY KEY (invoice_id, line)
);
CREATE TABLE web_sessions (token uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint REFERENCES users);

INSERT INTO orgs VALUES (1, 'acme', 'critical'), (2, 'bolt', 'important'), (3, 'crown', 'important');
INSERT INTO currencies VALUES ('EUR', 'Euro'), ('USD', 'US dollar');
INSERT INTO users (org_id, email) SELECT n % 3 + 1, 'user' || n || '@example.com' FROM generate_series(1, 60) n;
INSERT INTO invoices (org_id, number, currency, total, issued)
    SELECT n % 3 + 1, 'R-' || n, CASE n % 5 WHEN 0 THEN 'USD' ELSE 'EUR' END, n * 3, date '2026-01-01' + n % 300 FROM generate_series(1, 3000) n;
INSERT INTO invoice_lines SELECT i.id, line, 'position ' || line, i.total / 3 FROM invoices i, generate_series(1, 3) line;
INSERT INTO web_sessions (user_id) SELECT id FROM users;
