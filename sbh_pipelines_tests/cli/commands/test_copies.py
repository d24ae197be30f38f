"""`sbh copies` against the real stack: what is not there yet, what is whole there, what is broken, and names that are none."""

import base64
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sbh_pipelines.backup.copies.place import open_copy
from sbh_pipelines.backup.copies.wrapping import bring_catalog_key, bring_keys
from sbh_pipelines.backup.service import BackupService
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.settings import load_settings
from sbh_pipelines_tests.cli.conftest import Sbh
from sbh_pipelines_tests.support.buckets import fresh_bucket
from sbh_pipelines_tests.support.site import site_of

TENANT = "tenant-6"


@pytest.fixture
def bucket(sample_stack: Stack, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A copy named `dr` in a bucket of its own, and what takes it there but for the keys is `transfer`."""
    key = tmp_path / "copy.key"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    with fresh_bucket(sample_stack) as name:
        copy = {"name": "dr", "from": ["eu-west-1"], "to": "eu-central-1", "bucket": name, "key_file": str(key)}
        monkeypatch.setenv("SBH_COPIES", json.dumps([copy]))
        yield name


def transfer(stack: Stack, bucket: str) -> str:
    """Bring a tenant's backups there, keys included; the tenant's slug."""
    service = BackupService(load_settings(stack.settings))
    tenant = next(t for t in service.tenants.all() if t.region == "eu-west-1")
    site = site_of(service)
    place, prefix = open_copy(site, "dr"), site.backup_store(tenant)[1]
    bring_catalog_key(place, tenant.region)
    bring_keys(place, tenant)
    client, source = stack.s3_client(), site.backup_place(tenant).bucket
    for entry in client.list_objects_v2(Bucket=source, Prefix=prefix).get("Contents", ()):
        if "/keys/" not in entry["Key"]:
            body = client.get_object(Bucket=source, Key=entry["Key"])["Body"].read()
            client.put_object(Bucket=bucket, Key=entry["Key"], Body=body)
    return str(tenant.id)


def lose_packs(stack: Stack, bucket: str) -> list[str]:
    """Take every pack away, for which of them the newest backup needs is not seen from outside; their keys."""
    client = stack.s3_client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"] if "/packs/" in entry["Key"]]
    for key in keys:
        client.delete_object(Bucket=bucket, Key=key)
    return keys


def on_record(sbh: Sbh, event: str) -> list[dict[str, Any]]:
    """Events of the platform's trail, newest first."""
    return list(sbh("audit", "list", "--platform", "--event", event, "--json").document["events"])


def test_what_is_whole_there_and_what_is_not(sbh: Sbh, sample_stack: Stack, bucket: str) -> None:
    service = BackupService(load_settings(sample_stack.settings))
    slug = str(next(t for t in service.tenants.all() if t.region == "eu-west-1").id)
    made = sbh("backup", "create", slug, "--json")
    assert made.status == 0, made.err
    newest = made.document["backups"][0]["id"]

    before = sbh("copies", "status", "dr")
    assert before.status == 14
    assert "never" in before.out
    assert "sbh copies run dr" in before.out

    assert transfer(sample_stack, bucket) == slug
    found = sbh("copies", "verify", "dr", "--tenant", slug, "--deep", "--json")
    assert found.status == 0, found.out
    (line,) = found.document["tenants"]
    assert (line["tenant_id"], line["backup_id"], line["error"]) == (slug, newest, None)
    shown = sbh("copies", "verify", "dr", "--tenant", slug)
    assert (shown.status, newest in shown.out, "valid" in shown.out) == (0, True, True)

    status = sbh("copies", "status", "--json").document["copies"][0]
    line = next(one for one in status["tenants"] if one["tenant_id"] == slug)
    assert (line["standing"], line["backup_id"]) == ("current", newest)
    assert sbh("copies", "status", "-q").out.startswith("dr 1 current 0 behind")

    report = sbh("report", "recovery")
    assert "Recovery points at copies" in report.out
    assert "nothing was verified of" in report.out

    packs = lose_packs(sample_stack, bucket)
    broken = sbh("copies", "verify", "dr", "--tenant", slug)
    assert broken.status == 8
    assert "SBH-642" in broken.out
    assert any(pack.rsplit("/", 1)[1][:16] in broken.out for pack in packs)
    assert "next  sbh copies run dr" in broken.out
    worst = sbh("copies", "status", "dr")
    assert (worst.status, "failed" in worst.out) == (14, True)


def test_names_that_are_none_are_clear_errors(sbh: Sbh, sample_stack: Stack, bucket: str) -> None:
    for name in ("nope", "../../etc", "dr\x1b[31m"):
        ended = sbh("copies", "verify", name, "--json")
        assert ended.status == 2
        assert ended.document["error"]["remedy"].startswith("`sbh copies status` lists them")
    unknown = sbh("copies", "verify", "dr", "--tenant", "nobody", "--json")
    assert unknown.code == "SBH-202"


def test_without_copies_there_is_nothing_behind(sbh: Sbh, settings_file: Path) -> None:
    ended = sbh("copies", "status")
    assert ended.status == 0
    assert "no [[copies]]" in ended.out
    assert sbh("copies", "verify", "dr", "--json").document["error"]["why"] == "the settings name no copy"


def test_a_run_brings_over_what_is_not_there_and_verifies_it(sbh: Sbh, sample_stack: Stack, bucket: str) -> None:
    service = BackupService(load_settings(sample_stack.settings))
    slug = str(next(t for t in service.tenants.all() if t.region == "eu-west-1").id)
    newest = sbh("backup", "create", slug, "--json").document["backups"][0]["id"]

    first = sbh("copies", "run", "dr", "--tenant", slug)
    assert first.status == 0, first.out + first.err
    assert newest in first.out
    assert re.search(r"[KM]iB stored", first.out)
    assert "next  sbh copies status dr" in first.out
    verified = sbh("copies", "verify", "dr", "--tenant", slug, "--deep", "--json").document
    assert (verified["valid"], verified["tenants"][0]["backup_id"]) == (True, newest)
    again = sbh("copies", "run", "dr", "--tenant", slug, "--json")
    (line,) = again.document["tenants"]
    assert (again.status, line["objects"], line["backup_id"]) == (0, 0, newest)
    done, *_ = on_record(sbh, "copy.completed")
    assert done["props"]["objects"] > 0

    lose_packs(sample_stack, bucket)
    assert sbh("copies", "verify", "dr", "--tenant", slug, "-q").status == 8
    mended = sbh("copies", "run", "dr", "--tenant", slug)  # as the remedy says
    assert mended.status == 0, mended.out
    assert sbh("copies", "verify", "dr", "--tenant", slug, "--deep", "-q").status == 0
    assert sbh("copies", "run", "nope").status == 2


def test_what_a_run_fails_with_is_said_and_on_record(
    sbh: Sbh, sample_stack: Stack, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = json.loads(os.environ["SBH_COPIES"])
    copies[0]["bucket"] = "no-such-bucket-" + uuid.uuid4().hex[:8]
    monkeypatch.setenv("SBH_COPIES", json.dumps(copies))
    service = BackupService(load_settings(sample_stack.settings))
    slug = str(next(t for t in service.tenants.all() if t.region == "eu-west-1").id)
    assert sbh("backup", "create", slug, "-q").status == 0
    ended = sbh("copies", "run", "dr", "--tenant", slug)
    assert ended.status != 0
    assert "SBH-4" in ended.out + ended.err
    failed = on_record(sbh, "copy.failed")
    assert failed[0]["props"]["copy"] == "dr"
    assert failed[0]["props"]["codes"]
