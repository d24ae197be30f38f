"""The site: one application database with its tenants, as one settings file describes it.

Several sites may be run by one Dagster instance, each in a code location of its own. Dagster keeps partitions, assets, jobs,
schedules, sensors, pools and runs by name alone, so a site that has a name puts it before each of those.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from sbh_pipelines.settings.section import Section

SITE_TAG = "sbh/site"
"""On every run of a site that has a name."""

SiteName = Annotated[str, StringConstraints(max_length=30, pattern=r"^([a-z][a-z0-9]*(_[a-z0-9]+)*)?$")]

_BETWEEN = "__"  # a site's name has no two underscores in a row, and none at an end: both parts can be told again


class SiteSettings(Section):
    """What this site is called where several share one Dagster instance."""

    name: SiteName = Field(
        "",
        description="A short name: lower-case letters, digits, single underscores. It goes before the names of jobs, schedules,"
        " sensors, pools, partitions and assets in Dagster, is on every run as the tag `sbh/site`, on every alert, and on every"
        " metric as the label `site`. Empty: none of them has one, as on an instance with one site. A changed name begins new"
        " assets there; the backups are not concerned.",
        examples=["eu_west_1"],
    )

    def named(self, text: str) -> str:
        """A name of Dagster's of this site: `eu__restore_job`; without a name of the site, `text` itself."""
        return f"{self.name}{_BETWEEN}{text}" if self.name else text

    @property
    def tags(self) -> dict[str, str]:
        """The tag of this site's runs; none without a name."""
        return {SITE_TAG: self.name} if self.name else {}

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags, one that says what it does in them, is of this site."""
        return tags.get(SITE_TAG, "") == self.name


def parted(text: str) -> tuple[str, str]:
    """The site's name and the rest of a name of Dagster's; the first is empty where it has none."""
    site, _, rest = text.partition(_BETWEEN)
    return (site, rest) if site and rest else ("", text)  # Dagster's own begin with two underscores
