"""Schemas of old rows beside the live ones: those whose time is over, and those that earlier releases made under callers' names."""

from datetime import UTC, datetime

from sbh_pipelines.database.rebuild.new_schema import looks, unnamed_looks
from sbh_pipelines.database.session.connection import Connection
from sbh_pipelines.database.session.sql import ident
from sbh_pipelines.doctor.findings import Report

AREA = "database"


def check(report: Report, connection: Connection) -> None:
    with report.trying(AREA):
        now = datetime.now(UTC)
        if over := [look.schema for look in looks(connection) if look.expired(now)]:
            report.warn(
                AREA,
                f"Schemas of old rows are there beyond their time: {len(over)}",
                ", ".join(over),
                "sbh restore drop-look --expired; prune does it every day",
            )
        for name, of_role in unnamed_looks(connection):
            say = report.fail if of_role else report.warn
            detail = "an earlier release made it under a name that a caller chose, and nothing drops it"
            if of_role:
                detail += "; it is named like a role, whose sessions find these tables in place of the application's"
            say(
                AREA,
                f"The schema {name} holds copies of a tenant's old rows",
                detail,
                f"DROP SCHEMA {ident(name)} CASCADE;",
            )
