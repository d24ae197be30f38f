"""The tenancy map: which rows of which table are a tenant's.

Every table of the mapped schemas gets a status. A table that is neither owned, inherited, declared, shared nor excluded
stops every backup with an error that names it, and so does a table of another schema whose rows are tenants': nothing is
ever silently left out.
"""

from functools import partial

from sbh_pipelines.database.schema.catalog import read_catalog
from sbh_pipelines.database.schema.listing import find_listing
from sbh_pipelines.database.schema.mapping.mapped_table import (
    AMBIGUOUS,
    DECLARED,
    EXCLUDED,
    EXTENSION,
    INHERITED,
    OUTSIDE,
    OWNED,
    SHARED,
    TENANTS,
    UNLOGGED,
    UNMAPPED,
    Hop,
    MappedTable,
    TableStatus,
    TenancyMap,
)
from sbh_pipelines.database.schema.mapping.mapper import Mapper
from sbh_pipelines.database.schema.mapping.outside import check_schemas, find_outside, what_is
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.errors import TenancyError
from sbh_pipelines.settings import Settings

__all__ = [
    "AMBIGUOUS",
    "DECLARED",
    "EXCLUDED",
    "EXTENSION",
    "INHERITED",
    "OUTSIDE",
    "OWNED",
    "SHARED",
    "TENANTS",
    "UNLOGGED",
    "UNMAPPED",
    "Hop",
    "MappedTable",
    "TableStatus",
    "TenancyMap",
    "load_map",
    "survey_map",
]


def load_map(connection: Connection, settings: Settings) -> TenancyMap:
    """The tenancy map. Raises TenancyError naming every table that is unmapped, ambiguous, or outside though a tenant's."""
    tenancy = survey_map(connection, settings)
    bad = [s for s in tenancy.statuses if s.status in (UNMAPPED, AMBIGUOUS)]
    if bad := [*bad, *tenancy.outside]:
        more = f"\nand so on for {len(bad) - 5} more: `sbh doctor --suggest` prints all of it" if len(bad) > 5 else ""
        raise TenancyError(
            f"{len(bad)} table{'s are' if len(bad) > 1 else ' is'} not mapped to tenants",
            on=", ".join(f"{s.schema}.{s.name}" for s in bad[:20]),
            why="; ".join(f"{s.name}: {s.why}" for s in bad[:5]),
            remedy="\n".join(dict.fromkeys(s.remedy for s in bad[:5])) + more,
        )
    return tenancy


def survey_map(connection: Connection, settings: Settings) -> TenancyMap:
    """The tenancy map, also with tables that are unmapped or ambiguous.

    Raises SettingsError only where a setting names what does not exist.
    """
    schemas = settings.database.schemas
    catalog, listing = read_catalog(connection, schemas), find_listing(connection, settings)
    tenancy = Mapper(catalog, settings, listing, partial(what_is, connection, schemas)).map()
    check_schemas(connection, schemas)
    return find_outside(connection, settings, tenancy)
