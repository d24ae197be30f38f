"""`sbh report storage` on a real S3 server: what it says is what lies there, by tenant and storage class, and what it costs."""

from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import load_settings
from sbh_pipelines.stores.open_store import open_control
from sbh_pipelines_tests.cli.conftest import Sbh, sql

TENANT = "tenant-3"


def test_bytes_by_class_growth_and_cost(
    sbh: Sbh, settings_file: Path, sample_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_STORAGE__PACK_CLASSES", '{"*": "STANDARD_IA"}')
    monkeypatch.setenv("SBH_PRICES__GIB_MONTH", '{"STANDARD": 1024, "STANDARD_IA": 2048}')
    mine = f"tenant_id = (SELECT id FROM tenants WHERE slug = '{TENANT}')"
    with sql(sample_stack, f"UPDATE tasks SET title = title || ' again' WHERE {mine}"):
        assert sbh("backup", "create", TENANT).status == 0
    assert sbh("backup", "validate", "latest", "--tenant", TENANT, "--deep").status == 0

    ended = sbh("report", "storage", TENANT, "--json")
    assert ended.status == 0, ended.out
    (line,) = ended.document["tenants"]
    settings = load_settings(settings_file)
    found = list(
        open_control(settings.storage, line["region"]).objects(
            settings.storage.bucket.format(region=line["region"]), f"files/{TENANT}/backups/"
        )
    )
    by_class: dict[str, int] = {}
    for info, name in found:
        by_class[name] = by_class.get(name, 0) + info.size
        if name != "STANDARD":
            assert "/packs/" in info.key
    assert set(by_class) == {"STANDARD", "STANDARD_IA"}
    stored = line["stored"]
    assert (stored["objects"], stored["by_class"]) == (len(found), by_class)
    assert stored["bytes"] == stored["new"] == sum(by_class.values())
    assert stored["cost"] == pytest.approx(by_class["STANDARD"] / 2**20 + 2 * by_class["STANDARD_IA"] / 2**20, abs=1e-3)
    assert line["backups"] >= 1
    assert line["saved"] == pytest.approx(line["logical"] / stored["bytes"], abs=0.01)
    assert ended.document["shared"] == []

    everyone = sbh("report", "storage", "--json").document
    assert {one["tenant_id"] for one in everyone["tenants"]} > {TENANT}
    assert {one["name"] for one in everyone["shared"]} >= {"catalog"}
    assert everyone["total"]["bytes"] == sum(
        one["stored"]["bytes"] for one in (*everyone["tenants"], *everyone["shared"])
    )
    monkeypatch.setenv("SBH_PRICES__GIB_MONTH", "{}")
    said = sbh("report", "storage")
    assert "No cost: [prices] lacks a price for STANDARD, STANDARD_IA" in said.out
    assert "storage class" in said.out


def test_a_class_that_cannot_be_read_at_once_is_refused(
    sbh: Sbh, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBH_STORAGE__PACK_CLASSES", '{"archive": "DEEP_ARCHIVE"}')
    ended = sbh("report", "storage")
    assert ended.status != 0
    assert "pack_classes" in ended.out + ended.err
