"""What `sbh doctor` says of slugs that changed hands, and of tenants that got another one."""

from sbh_pipelines.doctor.findings import Report
from sbh_pipelines.doctor.tenants import check_owners
from sbh_pipelines_tests.backup.conftest import application, database
from sbh_pipelines_tests.support.application import ACME, ADMIN, Application

__all__ = ["application", "database"]


def said(application: Application) -> list[tuple[str, str, str]]:
    report = Report()
    check_owners(report, application.settings)
    return [(str(found.level), found.what, f"{found.detail}: {found.remedy}") for found in report.findings]


def test_a_slug_that_changed_hands_is_found_with_both_ways_out(application: Application) -> None:
    service = application.service()
    service.backups.create(ACME, ADMIN)
    assert said(application) == []
    application.database.run(
        "UPDATE tenants SET slug = 'acme-inc' WHERE slug = 'acme'",
        "INSERT INTO tenants (id, slug, region, tier) VALUES (9, 'acme', 'eu-west-1', 'critical')",
    )
    ((level, what, detail),) = said(application)
    assert (level, "SBH-217" in what) == ("error", True)
    assert detail.startswith("acme: ")
    assert "sbh tenants retire acme --confirm acme" in detail
    assert "sbh tenants adopt acme --confirm acme" in detail
    application.service().keys.retire(ACME, ADMIN, confirm=ACME)
    assert [(level, detail) for level, _, detail in said(application)] == [("ok", "acme: ")]


def test_a_tenant_that_got_another_slug_is_told_where_its_backups_are(application: Application) -> None:
    service = application.service()
    service.backups.create(ACME, ADMIN)
    application.database.run("UPDATE tenants SET slug = 'acme-inc' WHERE slug = 'acme'")
    ((level, _, detail),) = said(application)
    assert level == "warning"
    assert detail.startswith("acme (now acme-inc): ")
    assert "sbh backup list acme" in detail
    assert len(application.service().backups.of(ACME, ADMIN)) == 1  # what it says is true
