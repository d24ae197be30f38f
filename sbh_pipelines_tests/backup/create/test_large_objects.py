"""Large objects are in no backup, and everybody is told: by doctor, in the manifest, in the plan of a restore."""

import pytest

from sbh_pipelines.backup.contents.manifest import Manifest
from sbh_pipelines.database.schema import large_rows
from sbh_pipelines.doctor import Report, contents, database
from sbh_pipelines_tests.support.application import ADMIN, Application

SCHEMA = """
CREATE DOMAIN lo AS oid; CREATE DOMAIN picture AS lo;
CREATE TABLE docs (id int PRIMARY KEY, tenant_id int REFERENCES tenants NOT NULL, body oid, kind oid, pictures oid[], face picture, face2 lo);
INSERT INTO docs (id, tenant_id, body, kind, pictures) VALUES (1, 1, lo_from_bytea(0, 'one'), 'docs'::regclass, ARRAY[lo_from_bytea(0, 'a'), lo_from_bytea(0, 'b')]),
    (2, 1, lo_from_bytea(0, 'two'), 0, NULL), (3, 2, NULL, 16, ARRAY[lo_from_bytea(0, 'c')]);
"""


def told(application: Application) -> list[str]:
    report = Report()
    database.check(report, application.settings, lambda _: None)
    return [f"{f.what}: {f.detail}" for f in report.findings if f.area == contents.AREA]


def test_large_objects_are_told_of(application: Application) -> None:
    """Columns of type lo, and of type oid where their values are large objects: not those that name tables."""
    application.database.run(SCHEMA)
    service = application.service(files={"enabled": False})
    (found,) = told(application)
    assert "public.docs.body, public.docs.pictures, public.docs.face, public.docs.face2" in found
    drafts = service.backups.create_all(("acme", "bolt"), ADMIN)
    manifests = [draft.manifest for draft in drafts if draft.manifest]
    assert [sorted(m.left_out) for m in manifests] == [
        ["public.docs.body", "public.docs.pictures"],
        ["public.docs.pictures"],
    ]
    assert manifests[0].left_out["public.docs.body"].startswith("2 large objects:")
    assert Manifest(dict(service.get_backup(manifests[0].id, "acme", ADMIN))).left_out == manifests[0].left_out
    assert service.restores.plan("latest", "acme", ADMIN).left_out == manifests[0].left_out


def test_large_objects_that_no_column_names(application: Application) -> None:
    """Their numbers may be in a column of another type."""
    assert told(application) == []
    application.database.run("SELECT lo_from_bytea(0, 'stray')")
    assert ["1 large objects" in text for text in told(application)] == [True]


def test_rows_over_the_limit_are_found_beforehand(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is stored out of line, which is not read: a bytea counts twice."""
    monkeypatch.setattr(large_rows, "LIMIT", 100_000)
    monkeypatch.setattr(large_rows, "_COMPRESSED", 8192)
    application.database.run(
        "CREATE TABLE wide (id int, tenant_id int REFERENCES tenants NOT NULL, data bytea, note text);"
        "ALTER TABLE wide ALTER data SET STORAGE EXTERNAL;"
        "INSERT INTO wide SELECT n, 1, decode(repeat(md5(n::text), 100 * n), 'hex'), repeat('x', 2000) FROM generate_series(1, 70) n"
    )
    (found,) = told(application)
    expected = application.database.ask(
        "SELECT count(*) FROM wide WHERE octet_length(data) * 2 + octet_length(note) > 100000"
    )
    assert f"Rows of public.wide are too large: {expected[0][0]};" in found
