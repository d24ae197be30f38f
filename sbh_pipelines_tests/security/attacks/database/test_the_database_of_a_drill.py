"""Any role of the server wants to read a tenant's rows while a drill has them in a database of its own, or after one was killed.

What stops them: nobody but the drill's role may connect to it, from before there is anything in it; prune drops what is left.
"""

from contextlib import closing

import psycopg2
import pytest

from sbh_pipelines.database.rebuild import throwaway
from sbh_pipelines.database.rebuild.throwaway import ThrowawayDatabase
from sbh_pipelines.embedded.servers.stack import Stack
from sbh_pipelines.model import DrillId
from sbh_pipelines_tests.support.application import ADMIN, Application
from sbh_pipelines_tests.support.servers import until

DRILL = "drill_20260101_000000_abcdef"


def _enter(stack: Stack) -> None:
    with closing(psycopg2.connect(stack.dsn("app"), dbname=f"sbh_{DRILL}")):
        pass


def test_nobody_else_gets_in(application: Application, embedded_stack: Stack) -> None:
    with ThrowawayDatabase.create(application.settings, DrillId(DRILL)):
        with pytest.raises(psycopg2.OperationalError, match="permission denied"):
            _enter(embedded_stack)
        (privileges,) = application.database.ask(
            "SELECT count(*) FILTER (WHERE grantee = 0) FROM pg_database d, aclexplode(d.datacl) WHERE datname = %s",
            (f"sbh_{DRILL}",),
        )
        assert privileges == (0,)


def test_what_a_killed_drill_left_goes_with_the_next_prune(application: Application) -> None:
    killed = ThrowawayDatabase.create(application.settings, DrillId(DRILL))
    del killed  # as the end of its process would, this ends the session that shows that it is in use
    # The server learns of it a moment later.
    assert until(lambda: application.service().drills.drop_leftovers(ADMIN)) == [f"sbh_{DRILL}"]
    assert throwaway.drop_leftovers(application.settings.database) == []
