"""The site's name, and the names that are made of it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sbh_pipelines.errors import SettingsError
from sbh_pipelines.settings import SiteSettings, load_settings, load_site
from sbh_pipelines.settings.site import parted


@pytest.mark.parametrize("name", ["", "eu", "eu_west_1", "a1"])
def test_a_name_goes_before_another_and_comes_off_again(name: str) -> None:
    """Whatever the site: no two sites share a name of Dagster's, and none has one of Dagster's own."""
    site = SiteSettings(name=name)
    assert parted(site.named("undo_restore_job")) == (name, "undo_restore_job")
    assert site.owns(site.tags)
    assert not SiteSettings(name="other").owns(site.tags)
    assert parted("__ASSET_JOB") == ("", "__ASSET_JOB")


@pytest.mark.parametrize("name", ["EU", "eu-west-1", "1eu", "eu__west", "eu_", "_eu", "e u", "eu\n", "e" * 31])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        SiteSettings(name=name)


def test_the_name_is_read_whatever_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code location keeps its names, and the jobs say what is wrong; a name that is none is told."""
    file = tmp_path / "sbh.toml"
    file.write_text('[site]\nname = "eu"\n[storage]\nregions = []\nno_such_field = 1\n')
    assert load_site(file).name == "eu"
    with pytest.raises(SettingsError):
        load_settings(file)
    monkeypatch.setenv("SBH_SITE__NAME", "us")
    assert load_site(file).name == "us"
    monkeypatch.setenv("SBH_SITE__NAME", "US East")
    with pytest.raises(SettingsError, match=r"site\.name"):
        load_site(file)
