"""A slug that one tenant gives up and another takes: the newcomer gets nothing of what was backed up under it before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.restore.request import RestoreRequest
from sbh_pipelines.backup.retain import forget as forgetting
from sbh_pipelines.backup.site.owners import Owners
from sbh_pipelines.errors import (
    AccessDenied,
    OwnerRefused,
    SlugChangedHands,
    SlugTaken,
    SourceUnavailable,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.repository.catalog import owners
from sbh_pipelines.repository.repository import Repository
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines.settings import RetentionSettings
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.databases import Database
from sbh_pipelines_tests.support.restore.small_schema import ACME, SmallSchema

ANN = UserContext("ann", ACME, Role.ADMIN)
TABLE = """
CREATE TABLE t (id int PRIMARY KEY, org_id int NOT NULL REFERENCES orgs, secret text);
INSERT INTO t VALUES (1, 1, 'old secret'), (2, 2, 'other');
"""
DELETED = (
    "DELETE FROM t WHERE org_id = 1",
    "DELETE FROM orgs WHERE id = 1",
    "INSERT INTO orgs VALUES (3, 'acme')",
    "INSERT INTO t VALUES (3, 3, 'new')",
)
RENAMED = (
    "UPDATE orgs SET slug = 'acme-inc' WHERE id = 1",
    "UPDATE orgs SET slug = 'acme' WHERE id = 2",
    "DELETE FROM t",
)


@pytest.fixture(params=[DELETED, RENAMED], ids=["deleted", "renamed"])
def schema(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> SmallSchema:
    made = SmallSchema(database, tmp_path, TABLE)
    made.backup(ACME)
    made.run(*request.param)
    return made


@pytest.fixture
def old_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_old_manifests(monkeypatch)


def _write_old_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests as releases wrote them that did not put the tenant's key there."""
    from sbh_pipelines.backup.contents.manifest import Manifest

    build = Manifest.build

    def without_key(**facts: Any) -> Manifest:
        document = dict(build(**facts).document)
        del document["tenant_key"]
        return Manifest(document)

    monkeypatch.setattr(Manifest, "build", without_key)


@pytest.fixture
def mixed(schema: SmallSchema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallSchema:
    """What an earlier release left: the newcomer's first backup beside the former tenant's, and nothing that says whose it is."""
    with monkeypatch.context() as patch:
        patch.setattr(Owners, "check", lambda *_: None)
        patch.setattr(Owners, "admits", lambda *_, **__: True)
        schema.service.backups.create(ACME, ANN)
    _strip_owner(tmp_path)
    return SmallSchema.over(schema, tmp_path)


def _repository(directory: Path) -> Path:
    return directory / "objects" / "sbh-files-eu-west-1" / "files" / ACME / "backups"


def _strip_owner(directory: Path) -> None:
    file = _repository(directory) / "keys" / "0001.json"
    document = json.loads(file.read_text())
    document.pop("owner", None)
    file.write_text(json.dumps(document))


def _ways(schema: SmallSchema, backup: str, user: UserContext, folder: Path) -> dict[str, Callable[[], object]]:
    service = schema.service
    part, missing = RestoreRequest.of(tables=("t",)), RestoreRequest.of(tables=("t",), mode="missing-only")
    whose = (backup, ACME, user)
    ways: dict[str, Callable[[], object]] = {
        "list": lambda: service.backups.of(ACME, user),
        "overview": lambda: service.backups.overview(ACME, user),
        "show": lambda: service.backups.get(*whose),
        "plan": lambda: service.restores.plan(*whose, RestoreRequest.of(samples=3)),
        "restore": lambda: service.restores.run(*whose),
        "part": lambda: service.restores.run(*whose, part),
        "missing": lambda: service.restores.run(*whose, missing),
        "rows": lambda: service.restores.run(*whose, RestoreRequest.of(rows="t where id = 1")),
        "export": lambda: service.exports.export(*whose, folder / "out"),
        "open": lambda: service.exports.open(*whose),
        "approval": lambda: service.approvals.request_restore(*whose, part, reason="because"),
    }
    if user is ADMIN:  # looks are for users of the platform
        ways["schema"] = lambda: service.restores.into_schema(*whose, "look")
    return ways


@pytest.mark.parametrize("named", [False, True], ids=["latest", "named"])
def test_nobody_gets_the_former_tenants_backups(schema: SmallSchema, tmp_path: Path, *, named: bool) -> None:
    """Not the newcomer, and not by accident an administrator of the platform."""
    repository = tmp_path / "objects" / "sbh-files-eu-west-1" / "files" / ACME / "backups" / "manifests"
    (backup_id,) = [file.stem for file in repository.iterdir()]
    rows = schema.rows()
    for user in (ANN, ADMIN):
        for name, way in _ways(schema, backup_id if named else "latest", user, tmp_path).items():
            with pytest.raises(SlugTaken) as caught:
                way()
            assert "sbh tenants retire acme" in str(caught.value), name
    assert schema.rows() == rows
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("named", [False, True], ids=["latest", "named"])
def test_in_a_repository_of_both_each_sees_its_own(mixed: SmallSchema, tmp_path: Path, *, named: bool) -> None:
    """An earlier release put the backups of both into one: it goes to whoever has the slug, the former one's are nobody's there."""
    old, new = sorted(file.stem for file in _repository(tmp_path).joinpath("manifests").iterdir())
    rows = mixed.rows()
    for user in (ANN, ADMIN):
        assert [m.id for m in mixed.service.backups.of(ACME, user)] == [new]
        ways = _ways(mixed, old, user, tmp_path) if named else {}
        for name, way in ways.items() - {"list": ways.get("list"), "overview": ways.get("overview")}.items():
            with pytest.raises(SlugChangedHands) as caught:
                way()
            assert "another tenant" in str(caught.value), name
    assert mixed.service.backups.get("latest", ACME, ANN).id == new
    assert mixed.rows() == rows
    assert mixed.service.backups.former_keys(ACME, ADMIN) == ["1"]
    with pytest.raises(OwnerRefused):
        mixed.service.keys.retire(ACME, ADMIN, confirm=ACME)
    # Not even where the repository does not say whose it is as yet is the former one's forgotten.
    with pytest.raises(UnknownBackup):
        mixed.service.retention.forget(ACME, ANN, backup_id=old)
    # From the next backup on the repository says whose it is, and no policy counts or drops what is another's.
    newest = mixed.service.backups.create(ACME, ANN).id
    held = json.loads((_repository(tmp_path) / "keys" / "0001.json").read_text())["owner"]
    assert held["others"] == [old]
    assert {line.id for line in mixed.service.retention.forget(ACME, ADMIN, dry_run=True).backups} == {new, newest}
    (manifest,) = mixed.service.backups.of(ACME, ADMIN, former_key="1")
    assert manifest.id == old


def test_in_a_repository_of_both_nobody_learns_of_or_lets_go_the_formers(mixed: SmallSchema, tmp_path: Path) -> None:
    """Users of the platform may check, keep and let go what is there, by its id; `latest` is the newcomer's for all."""
    service = mixed.service
    old, new = sorted(file.stem for file in _repository(tmp_path).joinpath("manifests").iterdir())
    service.retention.pin(old, ACME, ADMIN, "of a dispute with Ann")
    for way in (service.backups.validate, service.retention.pin, service.retention.unpin):
        with pytest.raises(SlugChangedHands):
            way(old, ACME, ANN)
    with pytest.raises(UnknownBackup):
        service.backups.status(old, ACME, ANN)
    assert service.retention.holds(ACME, ANN) == []
    for user in (ANN, ADMIN):
        assert service.backups.validate("latest", ACME, user).backup_id == new
        assert service.backups.status(new, ACME, user).status == "completed"
        service.retention.pin(new, ACME, user)
        service.retention.unpin(new, ACME, user)
    assert service.backups.validate(old, ACME, ADMIN).valid
    assert service.backups.status(old, ACME, ADMIN).status == "completed"
    assert service.retention.unpin(old, ACME, ADMIN).backup_id == old


def test_the_newcomers_own_backups(schema: SmallSchema) -> None:
    """Once the former tenant's are put aside, `latest` is the newcomer's own; it goes on as if the others were not there."""
    before = schema.rows()
    with pytest.raises(SlugTaken):
        schema.service.backups.create(ACME, ANN)
    done = schema.service.keys.retire(ACME, ADMIN, confirm=ACME)
    assert (done.home, done.next_home, done.former_keys) == ("acme", "acme~2", ["1"])
    own = schema.service.backups.create(ACME, ANN).id
    schema.run("UPDATE t SET secret = 'lost'")
    assert [m.id for m in schema.service.backups.of(ACME, ANN)] == [own]
    assert schema.service.backups.get("latest", ACME, ANN).id == own
    schema.restore(ACME)
    assert [r for r in schema.rows()["public.t"] if "\t2\t" not in r] == [
        r for r in before["public.t"] if "\t2\t" not in r
    ]


@pytest.mark.usefixtures("old_manifests")
def test_manifests_that_do_not_say_the_key(schema: SmallSchema, tmp_path: Path) -> None:
    """Nor does the repository: the configuration in its newest backup does."""
    _strip_owner(tmp_path)
    fresh = SmallSchema.over(schema, tmp_path)
    for name, way in _ways(fresh, "latest", ANN, tmp_path).items():
        with pytest.raises(SlugTaken):
            way()
        assert name
    with pytest.raises(SlugTaken):
        fresh.service.backups.create(ACME, ANN)
    assert fresh.service.backups.former_keys(ACME, ADMIN) == ["1"]


def test_an_administrator_of_the_platform_names_the_former_key(schema: SmallSchema, tmp_path: Path) -> None:
    """To look, and to hand out what belongs to the former tenant; nothing else opens it."""
    service = schema.service
    assert service.backups.former_keys(ACME, ADMIN) == ["1"]
    assert service.backups.former_keys(ACME, ANN) == []
    (manifest,) = service.backups.of(ACME, ADMIN, former_key="1")
    assert service.backups.get("latest", ACME, ADMIN, former_key="1").id == manifest.id
    service.exports.export("latest", ACME, ADMIN, tmp_path / "out", former_key="1")
    assert "old secret" in "".join(file.read_text() for file in (tmp_path / "out").rglob("*.jsonl"))
    schema.run(f"GRANT CREATE ON DATABASE {schema.database.name} TO sbh_backup")
    look = service.restores.into_schema("latest", ACME, ADMIN, "look", former_key="1").schema
    assert schema.database.ask(f"SELECT secret FROM {look}.t") == [("old secret",)]
    with pytest.raises(UnknownTenant, match="under the key '2'"):
        service.backups.get("latest", ACME, ADMIN, former_key="2")
    for role in (Role.ADMIN, Role.OPERATOR):
        user = UserContext("ann", ACME if role is Role.ADMIN else "*", role)
        with pytest.raises(AccessDenied):
            service.backups.of(ACME, user, former_key="1")


def test_a_tenant_that_is_deleted_keeps_its_backups(database: Database, tmp_path: Path) -> None:
    """Its row is gone and nobody took the slug: whatever was possible still is."""
    schema = SmallSchema(database, tmp_path, TABLE)
    schema.backup(ACME)
    before = schema.rows()
    schema.run("DELETE FROM t WHERE org_id = 1", "DELETE FROM orgs WHERE id = 1")
    assert len(schema.service.backups.of(ACME, ADMIN)) == 1
    schema.service.exports.export("latest", ACME, ADMIN, tmp_path / "out")
    schema.restore()
    assert schema.rows() == before
    # A token of the slug does not say whether its bearer is the tenant that had it: somebody may have taken the slug and left it.
    schema.run("DELETE FROM t WHERE org_id = 1", "DELETE FROM orgs WHERE id = 1")
    for name, way in _ways(schema, "latest", ANN, tmp_path).items():
        with pytest.raises(UnknownTenant):
            way()
        assert name


def test_without_the_database_the_newest_backup_says_whose_the_slug_is(schema: SmallSchema, tmp_path: Path) -> None:
    """An export works without the database, for users of the platform: of the tenant that was backed up last."""
    old = schema.service.backups.of(ACME, ADMIN, former_key="1")[0].id
    schema.service.keys.retire(ACME, ADMIN, confirm=ACME)
    new = schema.service.backups.create(ACME, ANN).id
    application = Application(database=schema.database, directory=tmp_path)
    gone = application.service(database={"dsn": "host=127.0.0.1 port=1 dbname=gone user=nobody"})
    for way in (gone.exports.open, gone.restores.plan):
        with pytest.raises(SourceUnavailable):
            way(new, ACME, ANN)
    assert gone.exports.export(new, ACME, ADMIN, tmp_path / "new").backup_id == new
    if old != new:  # ids are unique inside a repository only
        with pytest.raises(UnknownBackup):
            gone.exports.export(old, ACME, ANN, tmp_path / "old")
    assert "old secret" not in "".join(file.read_text() for file in (tmp_path / "new").rglob("*.jsonl"))


def test_the_backups_of_earlier_releases_cost_one_index(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first backup of this release asks each of them whose it is: with the index that one of them needs, whatever their number."""
    schema = SmallSchema(database, tmp_path, TABLE)
    with monkeypatch.context() as old:
        _write_old_manifests(old)
        for _ in range(12):
            schema.service.backups.create(ACME, ANN)
    _strip_owner(tmp_path)
    loads: list[Repository] = []
    load = Repository.load_index

    def counted(repository: Repository, *known: Any) -> None:
        loads.append(repository)
        load(repository, *known)

    monkeypatch.setattr(Repository, "load_index", counted)
    fresh = SmallSchema.over(schema, tmp_path)
    fresh.service.backups.create(ACME, ANN)
    bound = len(loads)
    fresh.service.backups.create(ACME, ANN)
    assert bound - (len(loads) - bound) == 2  # whether it may at all, by the newest; then whose each is
    loads.clear()
    assert len(SmallSchema.over(schema, tmp_path).service.backups.of(ACME, ANN)) == 14
    assert len(loads) == 1


@pytest.mark.parametrize("old", [False, True], ids=["", "of an earlier release"])
def test_no_policy_drops_more_of_the_former_tenants_than_are_named(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, old: bool
) -> None:
    """A repository names a bounded number of the former tenant's backups: the others are not the newcomer's to forget either."""
    monkeypatch.setattr(owners, "MOST_OTHERS", 1)
    schema = SmallSchema(database, tmp_path, TABLE)
    with monkeypatch.context() as patch:
        if old:
            _write_old_manifests(patch)
        former = [schema.service.backups.create(ACME, ANN).id for _ in range(3)]
        schema.run(*DELETED)
        patch.setattr(Owners, "check", lambda *_: None)
        patch.setattr(Owners, "admits", lambda *_, **__: True)
        schema.service.backups.create(ACME, ANN)
    _strip_owner(tmp_path)
    fresh = SmallSchema.over(schema, tmp_path)
    last = {"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_last": 1}
    policy = RetentionSettings.model_validate({"keep_within_hours": 0, "full_backups": last})
    monkeypatch.setattr(forgetting, "policy_of", lambda *_: policy)
    own = [fresh.service.backups.create(ACME, ANN).id for _ in range(2)]
    held = json.loads((_repository(tmp_path) / "keys" / "0001.json").read_text())["owner"]
    assert held["others"] == former[-1:]
    fresh.service.retention.forget(ACME, ANN)
    there = sorted(file.stem for file in _repository(tmp_path).joinpath("manifests").iterdir())
    assert there == sorted([*former, own[-1]])
    with pytest.raises(SlugChangedHands):
        fresh.service.retention.forget(ACME, ANN, backup_id=former[0])
