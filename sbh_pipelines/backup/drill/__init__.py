"""Drills: a tenant restored where nobody is hurt, proved, timed, thrown away; and the report of what that showed."""
