"""The report of storage as a job, on the real engine: a sentence, numbers that can be plotted, tables."""

import pytest

from sbh_pipelines_tests.support.fix_stack import RealRun


def test_the_job_makes_one(real_run: RealRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBH_PRICES__GIB_MONTH", '{"*": 1024}')
    assert real_run("platform_backup_job").success
    result = real_run("storage_report_job")
    assert result.success
    (made,) = result.asset_materializations_for_node("storage_report")
    told = {name: value.value for name, value in made.metadata.items()}
    assert told["stored_bytes"] >= told["new_bytes"] > 0
    assert told["cost_of_a_month"] == pytest.approx(told["stored_bytes"] / 2**20, abs=0.01)
    assert str(told["summary"]).startswith("**")
    assert "a month." in str(told["summary"])
    assert "(platform backups, eu-west-1)" in str(told["by_tenant"])
    assert "STANDARD" in str(told["by_storage_class"])
