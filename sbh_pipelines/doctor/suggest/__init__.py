"""`sbh doctor --suggest`: settings that map a stranger's schema, with a reason for each. Reads only; changes no file.

    suggestion    what is suggested, why, and how it is written to be pasted
    paste         a suggestion put into a settings file
    tenants       which table lists the tenants, and where slug and region are
    columns       which columns name a tenant
    tables        rules, links and shared tables, round by round
    polymorphic   tables that refer to one of several
    names         what names tell

What rests on a name, or on few rows, is marked.
"""

from collections.abc import Callable
from contextlib import closing

from sbh_pipelines.database.schema.tenancy import survey_map
from sbh_pipelines.database.session.connection import look
from sbh_pipelines.doctor.journal import statements
from sbh_pipelines.doctor.suggest.suggestion import CHECK, Suggestion
from sbh_pipelines.doctor.suggest.tables import Tables
from sbh_pipelines.doctor.suggest.tenants import suggest_tenants
from sbh_pipelines.settings import Settings

__all__ = ["CHECK", "Suggestion", "suggest"]


def suggest(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Suggestion:
    """Raises the source's errors, and SettingsError where a setting that is there names what is not."""
    with closing(look(settings.database, "suggest")) as connection:
        made = Suggestion(settings)
        say("tenants")
        suggest_tenants(connection, made)
        made = Tables(connection, made).suggest(say)
        say("change journal")
        # Of the tables as they will be mapped once this is pasted.
        made.statements = statements(connection, survey_map(connection, made.applied).tables)
        return made
