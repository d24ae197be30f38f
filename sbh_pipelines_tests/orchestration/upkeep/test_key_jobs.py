"""The rotation of keys as a job, with a service that only answers."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sbh_pipelines.backup.keys.rotation import FailedRotation, OwnerRotation, RotationReport
from sbh_pipelines.errors import KeyRotationFailed, KeyServiceError
from sbh_pipelines_tests.orchestration.conftest import Run
from sbh_pipelines_tests.orchestration.upkeep.test_upkeep import output
from sbh_pipelines_tests.support.fakes import FakeService

ROTATED = OwnerRotation(
    "tenant-1", "eu-west-1", "local", [], 2, re_encrypted_bytes=2 << 20, old_bytes=1 << 20, epochs_destroyed=[1]
)


@pytest.fixture
def asked(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def rotate_keys(tenants: list[str], user: Any, *, progress: Any, **options: Any) -> RotationReport:
        calls.append((list(tenants), options))
        report = RotationReport([ROTATED], ["_platform"], [])
        if "keys" in fake.errors:
            denied = KeyServiceError("The use of the KMS key is denied", on="alias/x", why="AccessDeniedException")
            error = KeyRotationFailed("The keys of 1 of 2 were not rotated", on="tenant-2")
            error.report = replace(report, failed=[FailedRotation("tenant-2", denied)])
            raise error
        return report

    monkeypatch.setattr(fake, "keys", SimpleNamespace(rotate=rotate_keys), raising=False)
    return calls


def test_a_rotation_of_everybody(run: Run, fake: FakeService, asked: list[tuple[list[str], dict[str, Any]]]) -> None:
    result = run("key_rotation_job")
    assert result.success
    assert asked == [([], {"everyone": True, "new_data_key": False, "re_encrypt": False})]
    metadata = output(result, "rotate_keys")
    assert (metadata["rotated"], metadata["skipped"], metadata["epochs_destroyed"]) == (1, 1, 1)
    assert (metadata["re_encrypted"], metadata["still_of_older_epochs"]) == ("2 MiB", "1 MiB")


def test_a_rotation_of_one_tenant(run: Run, fake: FakeService, asked: list[tuple[list[str], dict[str, Any]]]) -> None:
    config = {"ops": {"rotate_keys": {"config": {"new_data_key": True, "re_encrypt": True}}}}
    assert run("key_rotation_job", partition_key="tenant-2", run_config=config).success
    assert asked == [(["tenant-2"], {"everyone": False, "new_data_key": True, "re_encrypt": True})]


def test_those_that_failed_are_named(
    run: Run, fake: FakeService, asked: list[tuple[list[str], dict[str, Any]]]
) -> None:
    fake.errors["keys"] = {}
    result = run("key_rotation_job")
    assert not result.success
    failure = result.failure_data_for_node("rotate_keys")
    assert failure is not None
    assert failure.user_failure_data is not None
    metadata = {name: value.value for name, value in failure.user_failure_data.metadata.items()}
    assert [(f["tenant"], f["code"]) for f in metadata["failed_tenants"]] == [("tenant-2", "SBH-500")]  # type: ignore[union-attr]
    assert metadata["rotated"] == 1
