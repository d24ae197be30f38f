"""Somebody who may name an object of the database wants commands run on the machine that rebuilds it, by a line break in the name.

What stops them: nothing of a stored dump reaches a program that has commands of its own, and a pg_dump that lets names out is refused.
"""

import shlex
from pathlib import Path

import pytest

from sbh_pipelines.embedded.servers import postgres
from sbh_pipelines.errors import UnsafeProgram
from sbh_pipelines_tests.support.application import ACME, ADMIN, BOLT, Application
from sbh_pipelines_tests.support.databases import fresh_database
from sbh_pipelines_tests.support.restore.platform import PROGRAMS

# What an old pg_dump makes of a name: the comment ends at its line break, and the rest is the script's.
_NAMES = r"""--
-- Name: x
SELECT 1 \! touch {0}.inside
\! touch {0}.line
 ; \! touch {0}.after
COMMENT ON SCHEMA public IS 'it''s' \g |touch {0}.pipe
;
; Type: TABLE; Schema: public; Owner: -
--
"""


def _program(folder: Path, told: str, more: str) -> str:
    """A pg_dump that tells a version, and adds to what the real one writes."""
    program, added = folder / "pg_dump", folder / "added"
    added.write_text(more)
    real = shlex.quote(PROGRAMS["pg_dump"])
    program.write_text(
        f"#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'pg_dump (PostgreSQL) {told}'; exit; fi\n"
        f'{real} "$@" && cat {shlex.quote(str(added))}\n'
    )
    program.chmod(0o755)
    return str(program)


def test_no_command_of_a_dump_is_run(application: Application, tmp_path: Path) -> None:
    """Neither by a recovery, nor by a drill, which every week runs what is stored; statements are statements."""
    mark = tmp_path / "mark"
    programs = {"pg_dump": _program(tmp_path, "18.4", _NAMES.format(mark))}
    service = application.service(platform=programs)
    service.backups.create_all([ACME, BOLT], ADMIN)
    service.platform.create(ADMIN)
    with fresh_database(application.database.stack) as target:
        dsn = target.stack.dsn(postgres.ADMIN).replace("dbname=app", f"dbname={target.name}")
        with pytest.raises(Exception, match="schema cannot be built"):
            service.platform.recover(dsn, ADMIN, confirm=True)
    service.drills.run(ACME, ADMIN)
    assert [file.name for file in tmp_path.glob("mark*")] == []


@pytest.mark.parametrize("told", ["18beta1", "17.5 (Debian 17.5-1)", "16.9", "15.13", "14.18", "13.21"])
def test_a_pg_dump_that_lets_names_out_is_refused(told: str, application: Application, tmp_path: Path) -> None:
    service = application.service(platform={"pg_dump": _program(tmp_path, told, "")})
    service.backups.create(ACME, ADMIN)
    with pytest.raises(UnsafeProgram, match="known hole") as refused:
        service.platform.create(ADMIN)
    assert "minor release" in refused.value.remedy
