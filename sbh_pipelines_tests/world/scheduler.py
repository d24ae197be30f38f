"""A job runner as a TypeScript ORM makes it: quoted mixed case, text keys, join tables without a primary key, nullable references."""

from sbh_pipelines_tests.world.product import Product, text_of

_SCHEMA = r"""
CREATE TYPE "RunStatus" AS ENUM ('PENDING', 'Executing', 'COMPLETED_WITH_ERRORS');
CREATE TABLE "Organization" ("id" text PRIMARY KEY, "slug" text NOT NULL UNIQUE, "homeRegion" text NOT NULL DEFAULT 'eu-west-1', "deletedAt" timestamp(3));
CREATE TABLE "User" ("id" text PRIMARY KEY, "email" text NOT NULL);
CREATE TABLE "OrgMember" ("id" text PRIMARY KEY, "organizationId" text NOT NULL REFERENCES "Organization" ON UPDATE CASCADE ON DELETE CASCADE,
    "userId" text NOT NULL REFERENCES "User" ON UPDATE CASCADE ON DELETE CASCADE, UNIQUE ("organizationId", "userId"));
CREATE TABLE "Project" ("id" text PRIMARY KEY, "organizationId" text NOT NULL REFERENCES "Organization" ON UPDATE CASCADE ON DELETE CASCADE, "name" text NOT NULL,
    "builderProjectId" text, "allowedRegions" text[] NOT NULL DEFAULT ARRAY[]::text[]);
CREATE TABLE "RuntimeEnvironment" ("id" text PRIMARY KEY, "projectId" text NOT NULL REFERENCES "Project" ON UPDATE CASCADE ON DELETE CASCADE,
    "orgMemberId" text REFERENCES "OrgMember" ON UPDATE CASCADE ON DELETE SET NULL, "apiKey" text NOT NULL UNIQUE, "parentEnvironmentId" text REFERENCES "RuntimeEnvironment");
CREATE TABLE "BackgroundWorker" ("id" text PRIMARY KEY, "projectId" text NOT NULL REFERENCES "Project" ON UPDATE CASCADE ON DELETE CASCADE,
    "runtimeEnvironmentId" text NOT NULL REFERENCES "RuntimeEnvironment" ON UPDATE CASCADE ON DELETE CASCADE, "version" text, "metadata" jsonb NOT NULL);
CREATE TABLE "BackgroundWorkerTask" ("id" text PRIMARY KEY, "workerId" text NOT NULL REFERENCES "BackgroundWorker" ON UPDATE CASCADE ON DELETE CASCADE,
    "projectId" text NOT NULL REFERENCES "Project" ON UPDATE CASCADE ON DELETE CASCADE, "fileId" text, "slug" text NOT NULL, "retryConfig" jsonb);
CREATE TABLE "TaskRun" ("id" text PRIMARY KEY, "number" int NOT NULL DEFAULT 0, "friendlyId" text NOT NULL, "status" "RunStatus" NOT NULL DEFAULT 'PENDING',
    "projectId" text NOT NULL, "runtimeEnvironmentId" text NOT NULL, "lockedById" text REFERENCES "BackgroundWorkerTask" ON UPDATE CASCADE ON DELETE SET NULL,
    "parentTaskRunId" text REFERENCES "TaskRun" ON DELETE SET NULL, "payload" text, "statuses" "RunStatus"[], "costInCents" double precision NOT NULL DEFAULT 0,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE UNIQUE INDEX "TaskRun_friendlyId_key" ON "TaskRun" ("friendlyId");
CREATE INDEX "TaskRun_status idx" ON "TaskRun" ("status") WHERE "status" <> 'Executing';
CREATE TABLE "TaskRunTag" ("id" text PRIMARY KEY, "name" text NOT NULL, "projectId" text NOT NULL);
CREATE TABLE "_TaskRunToTaskRunTag" ("A" text NOT NULL REFERENCES "TaskRun" ON UPDATE CASCADE ON DELETE CASCADE, "B" text NOT NULL);
CREATE UNIQUE INDEX "_TaskRunToTaskRunTag_AB_unique" ON "_TaskRunToTaskRunTag" ("A", "B");
CREATE TABLE "TaskSchedule" ("id" text PRIMARY KEY, "projectId" text NOT NULL REFERENCES "Project" ON UPDATE CASCADE ON DELETE CASCADE, "during" tstzrange,
    "generatorExpression" text, EXCLUDE USING gist ("during" WITH &&) WHERE ("during" IS NOT NULL));
CREATE TABLE "Checkpoint" ("id" text PRIMARY KEY, "runId" text NOT NULL REFERENCES "TaskRun" ON DELETE CASCADE, "projectId" text NOT NULL REFERENCES "Project" ON DELETE CASCADE,
    "location" text, "imageRef" bytea);
CREATE TABLE "Waitpoint" ("id" text PRIMARY KEY, "completedByTaskRunId" text REFERENCES "TaskRun" ON DELETE SET NULL, "projectId" text NOT NULL REFERENCES "Project" ON DELETE CASCADE,
    "output" text);
CREATE TABLE "_prisma_migrations" (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz);
"""
_ROWS = f"""
INSERT INTO "Organization" ("id", "slug") SELECT 'org_' || n, 'Team-' || n FROM generate_series(1, 3) n;
INSERT INTO "User" SELECT 'usr_' || n, {text_of("n")} || '@' || n FROM generate_series(1, 9) n WHERE {text_of("n")} IS NOT NULL;
INSERT INTO "OrgMember" SELECT 'mem_' || o || u."id", 'org_' || o, u."id" FROM generate_series(1, 3) o, "User" u;
INSERT INTO "Project" ("id", "organizationId", "name", "allowedRegions") SELECT 'proj ' || n || E'\\t', 'org_' || (1 + n % 3), 'Project ' || n, ARRAY['eu,west', NULL, '"'] FROM generate_series(1, 9) n;
INSERT INTO "RuntimeEnvironment" ("id", "projectId", "orgMemberId", "apiKey") SELECT 'env_' || p."id" || n, p."id", (SELECT min(m."id") FROM "OrgMember" m WHERE m."organizationId" = p."organizationId"),
    p."id" || n FROM "Project" p, generate_series(1, 2) n;
UPDATE "RuntimeEnvironment" e SET "parentEnvironmentId" = (SELECT min("id") FROM "RuntimeEnvironment" o WHERE o."projectId" = e."projectId");
INSERT INTO "BackgroundWorker" SELECT 'wrk_' || e."id", e."projectId", e."id", '2026.' || row_number() OVER (), '{{"tasks": []}}' FROM "RuntimeEnvironment" e;
INSERT INTO "BackgroundWorkerTask" SELECT 'task_' || n || w."id", w."id", w."projectId", CASE n WHEN 1 THEN 'file' END, 'slug-' || n, '{{"n": 1.50}}' FROM "BackgroundWorker" w, generate_series(1, 2) n;
INSERT INTO "TaskRun" ("id", "number", "friendlyId", "projectId", "runtimeEnvironmentId", "lockedById", "payload", "statuses", "costInCents")
    SELECT 'run_' || n || t."id", n, 'run_' || md5(n || t."id"), t."projectId", w."runtimeEnvironmentId", CASE WHEN n % 2 = 0 THEN t."id" END, {text_of("n")}, '{{PENDING,NULL,Executing}}', n / 3.0
    FROM "BackgroundWorkerTask" t JOIN "BackgroundWorker" w ON w."id" = t."workerId", generate_series(1, 4) n;
UPDATE "TaskRun" r SET "parentTaskRunId" = (SELECT min("id") FROM "TaskRun" o WHERE o."projectId" = r."projectId") WHERE "number" > 2;
INSERT INTO "TaskRunTag" SELECT 'tag_' || p."id" || n, 'tag "' || n, p."id" FROM "Project" p, generate_series(1, 2) n;
INSERT INTO "_TaskRunToTaskRunTag" SELECT r."id", t."id" FROM "TaskRun" r JOIN "TaskRunTag" t USING ("projectId") WHERE r."number" = 1;
INSERT INTO "TaskSchedule" SELECT 'sched_' || n, p."id", CASE WHEN n % 4 > 0 THEN tstzrange('2026-01-01'::timestamptz + n * interval '1 day', '2026-01-01'::timestamptz + n * interval '1 day' + interval '1 hour') END,
    {text_of("n")} FROM (SELECT row_number() OVER (ORDER BY "id") n, "id" FROM "Project") p;
INSERT INTO "Checkpoint" SELECT 'chk_' || r."id", r."id", r."projectId", '/x', decode(md5(r."id"), 'hex') FROM "TaskRun" r WHERE r."number" = 3;
INSERT INTO "Waitpoint" SELECT 'wait_' || r."id", r."id", r."projectId", {text_of("r.number")} FROM "TaskRun" r WHERE r."number" IN (2, 4);
INSERT INTO "_prisma_migrations" SELECT md5(n::text), md5(n::text), now() FROM generate_series(1, 4) n;
"""
_OWN = '(SELECT p."id" FROM "Project" p WHERE p."organizationId" = {key})'
_MINE = f't."projectId" IN {_OWN}'
_FIRST = _OWN.replace("{key}", "'org_1'")

SCHEDULER = Product(
    name="scheduler",
    schema=_SCHEMA,
    rows=_ROWS,
    changes='UPDATE "TaskRun" SET "status" = \'COMPLETED_WITH_ERRORS\' WHERE "number" = 2; DELETE FROM "_TaskRunToTaskRunTag" WHERE "B" LIKE \'%1\';'
    ' INSERT INTO "Waitpoint" SELECT \'new_\' || "id", NULL, "id", NULL FROM "Project"; UPDATE "Organization" SET "deletedAt" = \'2026-02-03 04:05:06.789\'',
    wrecks=(
        # One project deleted: 8 tables cascade, but runs have no foreign key to it, and keep what points to them.
        'DELETE FROM "Project" WHERE "id" = (SELECT min("id") FROM "Project" WHERE "organizationId" = \'org_1\')',
        f'DELETE FROM "TaskRun" WHERE "projectId" IN {_FIRST} AND "number" > 1; DELETE FROM "BackgroundWorkerTask" WHERE "projectId" IN {_FIRST}',
        f'UPDATE "TaskRun" SET "payload" = \'x\', "statuses" = NULL, "friendlyId" = "friendlyId" || \'x\' WHERE "projectId" IN {_FIRST};'
        f' DELETE FROM "TaskRunTag" WHERE "projectId" IN {_FIRST}; UPDATE "TaskSchedule" SET "during" = NULL WHERE "projectId" IN {_FIRST};'
        ' DELETE FROM "OrgMember" WHERE "organizationId" = \'org_1\'',
    ),
    tables={
        '"Organization"': 't."id" = {key}',
        '"OrgMember"': 't."organizationId" = {key}',
        '"Project"': 't."organizationId" = {key}',
        **{
            f'"{name}"': _MINE for name in ("RuntimeEnvironment", "BackgroundWorker", "BackgroundWorkerTask", "TaskRun")
        },
        **{f'"{name}"': _MINE for name in ("TaskRunTag", "TaskSchedule", "Checkpoint", "Waitpoint")},
        '"_TaskRunToTaskRunTag"': f'EXISTS (SELECT FROM "TaskRun" r WHERE r."id" = t."A" AND r."projectId" IN {_OWN})',
    },
    common=('"User"', '"_prisma_migrations"'),
    part=('"Waitpoint"', f'UPDATE "Waitpoint" SET "output" = NULL WHERE "projectId" IN {_FIRST}'),
    keys={f"Team-{n}": f"'org_{n}'" for n in (1, 2, 3)},
    settings={
        "tenants": {"table": "Organization", "region": "homeRegion", "tier": ""},
        "database": {
            "tenant_column": "organizationId",
            "shared": ["User", "_prisma_migrations"],
            "follow": [{"column": "projectId", "parent": "Project"}],
        },
    },
)
