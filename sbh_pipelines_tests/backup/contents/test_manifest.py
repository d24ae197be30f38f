"""Manifests as the fixture repositories have them: read, and built again byte for byte."""

import json
from pathlib import Path

import pytest

from sbh_pipelines.backup.contents.manifest import WITH_TABLES, Component, Manifest
from sbh_pipelines.backup.contents.table_summary import TableSummary
from sbh_pipelines.document import as_document
from sbh_pipelines.model import BackupId, Tenant, TenantId
from sbh_pipelines.repository.format import FORMAT_VERSION, pretty

FIXTURES = Path(__file__).parents[2] / "fixtures"
TENANTS_MANIFESTS = [
    file for file in sorted(FIXTURES.glob("repository-v*/**/manifests/*.json")) if "_platform" not in str(file)
]


def _read(file: Path) -> Manifest:
    return Manifest(json.loads(file.read_bytes()))


def test_there_are_manifests_of_both_versions() -> None:
    assert {_read(file).format_version for file in TENANTS_MANIFESTS} == {1, FORMAT_VERSION}


@pytest.mark.parametrize("file", TENANTS_MANIFESTS, ids=lambda file: f"{file.parents[6].name}-{file.stem}")
def test_what_is_read_is_what_is_stored(file: Path) -> None:
    manifest = _read(file)
    assert (manifest.id, manifest.size) == (file.stem, sum(part.size for part in manifest.components.values()))
    assert manifest.recovery_point.time == manifest.point_time
    tables = manifest.components["database"].tables  # version 1 listed them in the component's document only
    assert manifest.rows == (sum(table.rows for table in tables) if tables else 250)
    assert as_document(manifest) == json.loads(file.read_bytes())


@pytest.mark.parametrize(
    "file",
    [file for file in TENANTS_MANIFESTS if _read(file).format_version == FORMAT_VERSION],
    ids=lambda file: file.stem,
)
def test_a_manifest_is_built_byte_for_byte(file: Path) -> None:
    """From the components' own documents, whose lists of chunks it leaves out."""
    stored = _read(file)
    components = {
        name: Component.from_dict(json.loads((file.parents[1] / name / file.name).read_bytes()))
        for name in stored.component_names
    }
    bare = {
        name: Component(part.type, part.key, part.size, part.checksum, _own(part)) for name, part in components.items()
    }
    built = Manifest.build(
        backup_id=stored.id,
        tenant=Tenant(TenantId(stored.tenant_id), "", stored.region, stored.document["tier"]),
        type=stored.type,
        created_by=stored.created_by,
        created_at=stored.created_at,
        components=bare,
        parent=BackupId(stored.parent) if stored.parent else None,
        requested_type=stored.requested_type or stored.type,
        type_reason=stored.type_reason,
        reread=stored.reread,
        recovery_point=stored.recovery_point,
        description=stored.description,
        purpose=stored.purpose,
        key_epoch=stored.key_epoch or 1,
        index=stored.index,
        stats=stored.stats,
        duration_s=stored.duration_s,
    )
    unsigned = {name: value for name, value in stored.document.items() if name not in ("checksum", "signature")}
    expected = {**unsigned, "recovery_point": {**unsigned["recovery_point"], "started": stored.recovery_point.started}}
    assert pretty(built.document) == pretty(expected)


def _own(part: Component) -> dict[str, object]:
    return {name: value for name, value in part.facts.items() if name not in ("backup_id", "tenant_id")}


def test_keys_of_a_newer_release_are_carried_on() -> None:
    """In the entry of a table that a later backup takes over, and in a whole manifest."""
    entry = {"table": "public.t", "rows": 1, "bytes": 2, "groups": 1, "detail": ["00"], "of_a_newer_release": 3}
    component = Component.of_tables("json", [TableSummary(entry)])
    assert component.facts["table_details"] == [entry]
    assert as_document(Manifest({"id": "backup_20260101_0000", "newer": 1})) == {
        "id": "backup_20260101_0000",
        "newer": 1,
    }


def test_earlier_releases_did_not_say_all_of_it() -> None:
    old = TableSummary({"table": "public.t", "rows": 1, "bytes": 2, "groups": 1, "detail": ["00"]})
    assert (old.key_hash, old.seed, old.definition, old.layers) == (None, None, None, 0)
    assert WITH_TABLES == ("database", "config")
    assert Manifest({}).stats == {}
