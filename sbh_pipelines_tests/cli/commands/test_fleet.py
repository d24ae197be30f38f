"""`sbh fleet`: several settings files, one of which cannot be asked."""

from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines_tests.cli.conftest import Sbh, sql


def test_the_worst_tenants_of_all_sites_come_first(sbh: Sbh, sample_stack: Stack) -> None:
    """A tenant without a backup before one that has just been backed up; a site whose database is away is named, and 11."""
    text = sample_stack.settings.read_text()
    here = sample_stack.settings.with_name("here.toml")
    gone = sample_stack.settings.with_name("gone.toml")
    here.write_text(f'{text}\n[site]\nname = "here"\n')
    dsn = "host=127.0.0.1 port=1 connect_timeout=1 dbname=app user=sbh_backup"
    gone.write_text("\n".join(f'dsn = "{dsn}"' if "dbname=app" in line else line for line in text.splitlines()))
    with sql(
        sample_stack,
        "INSERT INTO tenants (slug, name, region, tier, plan_id) SELECT 'never', 'x', region, 'critical', plan_id FROM tenants LIMIT 1",
        after="DELETE FROM tenants WHERE slug = 'never'",
    ):
        assert sbh("--settings", str(here), "backup", "create", "tenant-2").status == 0
        ended = sbh("fleet", str(here), str(gone), "--json")
        assert ended.status == 11
        site, away = ended.document["sites"]
        assert (site["site"], site["issues"]) == ("here", [])
        assert (away["site"], away["tenants"]) == (str(gone), 0)
        assert away["issues"][0]["code"].startswith("SBH-3")
        tenants = ended.document["tenants"]
        assert len(tenants) == site["tenants"]
        order = [tenant["tenant_id"] for tenant in tenants]
        assert order.index("never") < order.index("tenant-2")
        losses = [tenant["lost_s"] is not None for tenant in tenants]
        assert losses == sorted(losses), "who has no backup comes first"
        safe = tenants[order.index("tenant-2")]
        assert (safe["site"], safe["missed"], safe["lost_s"] < 600) == ("here", False, True)
        missed = sbh("fleet", str(here), "--missed", "-q")
        assert missed.status == 0
        assert "here never none" in missed.out.splitlines()
        assert "tenant-2" not in missed.out
        shown = sbh("fleet", str(here), str(gone))
        assert "not read" in shown.out
        assert "everything" in shown.out
