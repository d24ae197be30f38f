"""Positions in the server's log as numbers, in SQL and for people."""

ZERO = "'0/0'::pg_catalog.pg_lsn"


def as_number(expression: str) -> str:
    """SQL: the number of bytes that a pg_lsn stands for."""
    return f"({expression} OPERATOR(pg_catalog.-) {ZERO})::pg_catalog.int8"


def as_lsn(position: int) -> str:
    """SQL: the pg_lsn of a position."""
    return f"'{lsn_text(position)}'::pg_catalog.pg_lsn"


def lsn_text(position: int) -> str:
    """A position as PostgreSQL writes it: 16/B374D848."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
