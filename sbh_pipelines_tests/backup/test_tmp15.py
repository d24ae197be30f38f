from pathlib import Path
from sbh_pipelines.embedded.stack import Stack
from sbh_pipelines_tests.backup.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.backup.hard_platform import PROGRAMS, content
from sbh_pipelines_tests.sources.databases import fresh_database
from sbh_pipelines_tests.sources.own_server import own_server
from psycopg2.extensions import make_dsn
from sbh_pipelines.embedded import postgres

def test_15(tmp_path: Path, embedded_stack: Stack) -> None:
    old = {n: f"/usr/lib/postgresql/15/bin/{n}" for n in ("pg_dump", "psql")}
    with own_server(15) as server:
        application = Application(server.create_database("old"), tmp_path)
        application.create()
        application.database.run("CREATE ROLE x15; GRANT x15 TO sbh_backup WITH ADMIN OPTION; CREATE TABLE p (id serial primary key, v text); INSERT INTO p (v) VALUES ('x')")
        for programs in (old, PROGRAMS):
            service = application.service(platform=programs, database={"shared": ["p"]})
            service.create_backups([ACME, BOLT], ADMIN)
            service.create_platform_backup(ADMIN)
            target = server.create_database("new" + str(len(programs["psql"])))
            report = service.recover_platform(server.dsn().replace("dbname=postgres", "dbname=" + target.name), ADMIN, confirm=True)
            print(report["differences"], report["skipped_statements"], report["issues"])
            assert report["status"] == "completed"
            assert content(target) == content(application.database)
            with fresh_database(embedded_stack) as new:
                report = service.recover_platform(make_dsn(embedded_stack.dsn(postgres.ADMIN), dbname=new.name), ADMIN, confirm=True)
                print(report["differences"], report["roles_made"])
                assert report["status"] == "completed"
                assert content(new) == content(application.database)
                new.run("DROP OWNED BY x15; DROP ROLE x15") if "x15" in report["roles_made"] else None
        with fresh_database(embedded_stack) as src, fresh_database(embedded_stack) as _:
            pass
    with own_server(15) as server, fresh_database(embedded_stack) as src:
        application = Application(src, tmp_path / "b")
        (tmp_path / "b").mkdir()
        application.create()
        service = application.service(platform=PROGRAMS)
        service.create_backups([ACME, BOLT], ADMIN)
        service.create_platform_backup(ADMIN)
        target = server.create_database("down")
        report = service.recover_platform(server.dsn().replace("dbname=postgres", "dbname=down"), ADMIN, confirm=True)
        print(report["status"], report["skipped_statements"], report["differences"])
        assert content(target) == content(application.database)
