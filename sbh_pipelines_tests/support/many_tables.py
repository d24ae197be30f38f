"""A schema as the products of others have them, 130 tables, none of which was made for this system.

Organisations with projects, keys of uuid, mixed-case names, tables without foreign keys, polymorphic ones, joins of many with
many, rows that are everybody's, lists for all. The tenants table has neither region nor tier, and slugs that were given away.
"""

NUMBER = 130

_BASE = """
CREATE SCHEMA billing; GRANT USAGE ON SCHEMA billing TO PUBLIC;
CREATE TABLE organizations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, slug text, deleted_at timestamptz);
CREATE UNIQUE INDEX ON organizations (slug) WHERE deleted_at IS NULL;
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text, current_organization_id uuid REFERENCES organizations);
CREATE TABLE memberships (organization_id uuid NOT NULL REFERENCES organizations, user_id uuid NOT NULL REFERENCES users,
                          PRIMARY KEY (organization_id, user_id));
CREATE TABLE roles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid REFERENCES organizations, name text);
CREATE TABLE projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid NOT NULL REFERENCES organizations, name text);
CREATE TABLE "Environment" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "organizationId" uuid NOT NULL, "projectId" uuid NOT NULL);
CREATE TABLE plans (id int PRIMARY KEY, name text);
CREATE TABLE prices (id int PRIMARY KEY, plan_id int NOT NULL REFERENCES plans, cents int);
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE feature_flags (name text PRIMARY KEY, enabled bool);
CREATE TABLE invoices (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid NOT NULL REFERENCES organizations);
CREATE TABLE attachments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), record_type text NOT NULL, record_id uuid NOT NULL);
CREATE TABLE versions (id bigint PRIMARY KEY, item_type text NOT NULL, item_id text NOT NULL, object text);
CREATE TABLE audit_entries (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), auditable_type text NOT NULL, auditable_id uuid NOT NULL);
CREATE TABLE "_InvoiceToProject" ("A" uuid NOT NULL REFERENCES invoices, "B" uuid NOT NULL REFERENCES projects);
CREATE TABLE comments (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), project_id uuid REFERENCES projects ON DELETE SET NULL, body text);
CREATE TABLE comment_reactions (comment_id uuid NOT NULL REFERENCES comments, user_id uuid NOT NULL REFERENCES users, mark text);
CREATE TABLE background_jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), archived_invoice_id uuid REFERENCES invoices,
                              project_id uuid NOT NULL REFERENCES projects);
CREATE TABLE alert_channels (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), invoice_id uuid REFERENCES invoices,
                             comment_id uuid REFERENCES comments);
CREATE TABLE legacy_runs (id bigint PRIMARY KEY, project_id uuid NOT NULL);
CREATE TABLE legacy_steps (id bigint PRIMARY KEY, run_id bigint NOT NULL);
ALTER TABLE legacy_steps ADD FOREIGN KEY (run_id) REFERENCES legacy_runs NOT VALID;
CREATE TABLE billing.ledger (id bigint PRIMARY KEY, organization_id uuid NOT NULL REFERENCES organizations, cents int);
CREATE TABLE billing.ledger_lines (id bigint PRIMARY KEY, ledger_id bigint NOT NULL REFERENCES billing.ledger);
INSERT INTO organizations (name, slug, deleted_at) VALUES ('Acme', 'acme', NULL), ('Globex', 'globex', NULL), ('Old', 'acme', now());
INSERT INTO users (email, current_organization_id) SELECT 'u' || n, (SELECT id FROM organizations ORDER BY slug LIMIT 1) FROM generate_series(1, 3) n;
INSERT INTO memberships SELECT o.id, u.id FROM organizations o, users u;
INSERT INTO roles (organization_id, name) VALUES (NULL, 'built in'), ((SELECT id FROM organizations WHERE slug = 'globex'), 'own');
INSERT INTO projects (organization_id, name) SELECT id, 'p' FROM organizations WHERE deleted_at IS NULL;
INSERT INTO invoices (organization_id) SELECT id FROM organizations WHERE deleted_at IS NULL;
INSERT INTO "Environment" ("organizationId", "projectId") SELECT organization_id, id FROM projects;
INSERT INTO attachments (record_type, record_id) SELECT 'Project', id FROM projects;
INSERT INTO versions SELECT 1, 'Invoice', id::text, 'v' FROM invoices LIMIT 1;
INSERT INTO versions SELECT 2, 'App\\Models\\Project', id::text, 'v' FROM projects LIMIT 1;
"""


def schema() -> str:
    """SQL that makes the tables, of which 130 are in `public`, and a few rows."""
    made = [_BASE]
    for n in range(NUMBER - _BASE.count("CREATE TABLE") + _BASE.count("CREATE TABLE billing.")):
        ways = (
            "organization_id uuid NOT NULL REFERENCES organizations",
            "project_id uuid NOT NULL REFERENCES projects, created_by uuid NOT NULL REFERENCES invoices",
            '"projectId" uuid NOT NULL, "environmentId" uuid REFERENCES "Environment"',
            "project_id uuid NOT NULL, note text",
            "project_id uuid REFERENCES projects, invoice_id uuid NOT NULL REFERENCES invoices",
            '"organizationId" uuid NOT NULL',
        )
        name = f'"Thing{n}"' if n % 3 == 0 else f"thing_{n}"
        made.append(f"CREATE TABLE {name} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), {ways[n % len(ways)]});")
    return "\n".join(made)
