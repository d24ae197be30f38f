"""Moves that are refused: nothing is written at either site, and the error says what is in the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sbh_pipelines.errors import (
    AccessDenied,
    LeaseHeld,
    MoveRefused,
    NotConfirmed,
    RestoreConflict,
    SbhError,
    SchemaMismatch,
    SlugTaken,
    TenantErased,
    TenantMoved,
    UnknownBackup,
    UnknownTenant,
)
from sbh_pipelines.repository import lease as leases
from sbh_pipelines.security.policy import Role, UserContext
from sbh_pipelines_tests.backup.move.two_sites import TwoSites
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT
from sbh_pipelines_tests.support.site import site_of


def _objects(*directories: Path) -> dict[str, bytes]:
    """All that is stored, but for audit trails, catalogs' keys and what a look at a backup leaves in the trail."""
    found = (file for directory in directories for file in directory.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in found if "audit" not in str(file) and "/keys/" not in str(file)}


@contextmanager
def _nothing_written(sites: TwoSites) -> Iterator[None]:
    directories = sites.here.directory / "objects", sites.there.directory / "objects"
    before = _objects(*directories), sites.here.state(ACME), sites.there.state(ACME), sites.others()
    yield
    assert (_objects(*directories), sites.here.state(ACME), sites.there.state(ACME), sites.others()) == before


def _same_slug(sites: TwoSites) -> None:
    sites.there.database.run("INSERT INTO tenants VALUES (77, 'acme', 'eu-west-1', NULL, NULL)")


def _leftovers(sites: TwoSites) -> None:
    sites.there.database.run("INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', NULL, NULL)")


def _same_key(sites: TwoSites) -> None:
    sites.there.database.run("INSERT INTO tenants VALUES (1, 'other', 'eu-west-1', NULL, NULL)")


def _column_gone(sites: TwoSites) -> None:
    sites.there.database.run("ALTER TABLE notes RENAME COLUMN body TO text")


def _code_taken(sites: TwoSites) -> None:
    sites.there.database.run("UPDATE projects SET code = 'code-2' WHERE tenant_id = 2 AND code = 'code-1'")


def _file_there(sites: TwoSites) -> None:
    sites.there.write_file(ACME, "docs/0 of acme.txt", b"whose is this?")


REFUSED: dict[str, tuple[Callable[[TwoSites], None], type[SbhError], str]] = {
    "its slug is taken": (_same_slug, MoveRefused, "already, with the key 77"),
    "its rows are there, and no move was begun": (_leftovers, MoveRefused, "no move to there was begun"),
    "its key is another's": (_same_key, MoveRefused, "under its key or prefix"),
    "a column is gone": (_column_gone, SchemaMismatch, "notes"),
    "a unique value is another's": (_code_taken, RestoreConflict, "projects"),
    "files are there": (_file_there, MoveRefused, "1 files"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_other_site_has_or_lacks(sites: TwoSites, what: str) -> None:
    sites.source.create_backup(ACME, ADMIN)
    prepare, kind, words = REFUSED[what]
    prepare(sites)
    with _nothing_written(sites), pytest.raises(kind, match=words) as refused:
        sites.move()
    assert refused.value.remedy


def test_a_region_that_the_other_site_does_not_serve(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    target = sites.service(sites.there, storage={"regions": ["us-east-1"]})
    with _nothing_written(sites), pytest.raises(MoveRefused, match="eu-west-1, is none of eu_2"):
        sites.source.moves.run(ACME, ADMIN, target.moves, ADMIN)


def test_one_site_given_twice(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    with _nothing_written(sites), pytest.raises(MoveRefused, match="of one database"):
        sites.source.moves.run(ACME, ADMIN, sites.source.moves, ADMIN)


def test_two_databases_with_one_place_for_backups(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    shared = {"kind": "local", "path": sites.here.directory / "objects"}
    target = sites.service(sites.there, storage=shared)
    with _nothing_written(sites), pytest.raises(MoveRefused, match="in one place"):
        sites.source.moves.run(ACME, ADMIN, target.moves, ADMIN)


def test_one_catalog_under_two_addresses(sites: TwoSites) -> None:
    """A link, a name and an address, a slash at the end: the catalog's key tells."""
    sites.source.create_backup(ACME, ADMIN)
    (sites.there.directory / "linked").symlink_to(sites.here.directory / "objects")
    target = sites.service(
        sites.there,
        storage={"kind": "local", "path": sites.there.directory / "linked"},
        keys={"provider": "local", "key_file": sites.here.directory / "backup.key"},
    )
    with _nothing_written(sites), pytest.raises(MoveRefused, match="in one place"):
        sites.source.moves.run(ACME, ADMIN, target.moves, ADMIN)


def test_files_in_one_place(sites: TwoSites) -> None:
    """Who removes what is left at the first site would remove them from both."""
    sites.source.create_backup(ACME, ADMIN)
    storage = {"kind": "local", "path": sites.here.directory / "objects", "bucket": "own", "prefix": "own/{tenant}/"}
    target = sites.service(sites.there, storage={**storage, "catalog_prefix": "_own/"})
    with _nothing_written(sites), pytest.raises(MoveRefused, match="its files in one place"):
        sites.source.moves.run(ACME, ADMIN, target.moves, ADMIN)


def test_files_that_one_site_leaves_out(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    target = sites.service(sites.there, files={"exclude": ["backups/", "cache/"]})
    with _nothing_written(sites), pytest.raises(MoveRefused, match=r"files\.exclude differs"):
        sites.source.moves.run(ACME, ADMIN, target.moves, ADMIN)


def test_a_tenant_that_is_not_known_or_was_never_backed_up(sites: TwoSites) -> None:
    with _nothing_written(sites):
        with pytest.raises(UnknownTenant):
            sites.move("nobody")
        with pytest.raises(UnknownBackup):
            sites.move()


def test_a_lease_that_another_process_holds(sites: TwoSites) -> None:
    """Of the source, at the end; the move then goes on when it is given again."""
    sites.source.create_backup(ACME, ADMIN)
    site = site_of(sites.source)
    store, prefix = site.backup_store(sites.here.tenant())
    held = leases.acquire(store, prefix, "another", "prune", 60, site.clock)
    with pytest.raises(LeaseHeld, match="prune"):
        sites.move()
    assert [one.id for one in sites.target.tenants.all()] == [BOLT], "what is on its way is not backed up yet"
    with pytest.raises(TenantMoved, match="from eu_1 was begun"):
        sites.target.create_backup(ACME, ADMIN)
    assert [one.id for one in sites.source.tenants.all()] == [ACME, BOLT]
    held.release()
    sites.move()
    assert sites.there.state(ACME) == sites.here.state(ACME)


@pytest.mark.parametrize("user", [UserContext("boss", ACME, Role.ADMIN), UserContext("op", "*", Role.OPERATOR)])
def test_who_may_not_at_either_site(sites: TwoSites, user: UserContext) -> None:
    sites.source.create_backup(ACME, ADMIN)
    with _nothing_written(sites):
        for users in ((user, ADMIN), (ADMIN, user)):
            with pytest.raises(AccessDenied, match=r"tenant\.move"):
                sites.source.moves.run(ACME, users[0], sites.target.moves, users[1])


def test_it_is_confirmed(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    with _nothing_written(sites), pytest.raises(NotConfirmed, match="acme from eu_1 to eu_2"):
        sites.move(confirm=False)


def test_one_that_was_erased_at_the_other_site(sites: TwoSites) -> None:
    """Only who readmits it there lets it come."""
    sites.source.create_backup(ACME, ADMIN)
    sites.there.database.run("INSERT INTO tenants VALUES (1, 'acme', 'eu-west-1', 'critical', NULL)")
    sites.target.create_backup(ACME, ADMIN)
    sites.target.keys.erase(ACME, ADMIN, confirm=ACME, reason="it left")
    sites.there.database.run("DELETE FROM tenants WHERE id = 1")
    with _nothing_written(sites), pytest.raises(TenantErased):
        sites.move()
    sites.target.keys.readmit(ACME, ADMIN)
    sites.move()
    assert sites.there.state(ACME) == sites.here.state(ACME)
    assert list(site_of(sites.target).owners.former(ACME, "eu-west-1")) == [1], "the erasure's mark is another one"


def test_a_repository_of_another_tenant_at_the_other_site(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    _same_slug(sites)
    sites.target.create_backup(ACME, ADMIN)
    sites.there.database.run("DELETE FROM tenants WHERE id = 77")
    with _nothing_written(sites), pytest.raises(SlugTaken):
        sites.move()


def test_one_that_went_to_a_third_site(sites: TwoSites) -> None:
    sites.source.create_backup(ACME, ADMIN)
    sites.move()
    third = sites.service(sites.there, storage={"prefix": "third/{tenant}/", "catalog_prefix": "_third/"})
    with pytest.raises(TenantMoved, match="moved to eu_2"):
        sites.source.moves.run(ACME, ADMIN, third.moves, ADMIN)
