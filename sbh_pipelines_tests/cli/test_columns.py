"""Tables in narrow terminals: what is copied from them is whole."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbh_pipelines.cli.columns import Uncropped
from sbh_pipelines.cli.output import table
from sbh_pipelines.model import size_text

ID = "backup_20261128_122802"
COLUMNS = ("backup", "type", "-by", ">rows", "->stored anew", "-~description")
ROWS = [(ID, "incremental", "dagster", "3,010", "1.2 KiB", "hourly incremental of a tenant that works at night")]


def printed(width: int, columns: tuple[str, ...] = COLUMNS, rows: list[tuple[str, ...]] = ROWS) -> str:
    out = io.StringIO()
    Uncropped(file=out, width=width, markup=False).print(table("2 backups", columns, rows))
    return out.getvalue()


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (160, ""),
        (100, ""),
        (80, "description"),
        (60, "stored anew, description"),
        (30, "by, stored anew, description"),
    ],
)
def test_minor_columns_go_the_last_first_and_are_named(width: int, left_out: str) -> None:
    text = printed(width)
    row = next(line for line in text.splitlines() if ID in line)
    assert "incremental" in row
    assert "3,010" in row
    assert (f"no room for: {left_out}; --wide shows everything" in " ".join(text.split())) is bool(left_out)
    assert ("hourly" in text) is ("description" not in left_out)


def test_prose_is_wrapped_and_nothing_else() -> None:
    text = printed(50, ("tenant", "~why"), [("acme", "its key column has another type than the listing says it has")])
    assert all(len(line.rstrip()) <= 50 for line in text.splitlines())
    assert len([line for line in text.splitlines() if line.strip()]) > 4


@given(
    width=st.integers(10, 200),
    cells=st.lists(st.text("abcdef_0123456789é漢", min_size=1, max_size=60), min_size=1, max_size=6),
    signs=st.lists(st.sampled_from(["", ">"]), min_size=6, max_size=6),
)
def test_no_cell_that_is_not_prose_is_ever_broken(width: int, cells: list[str], signs: list[str]) -> None:
    text = printed(width, tuple(f"{sign}c{at}" for at, sign in enumerate(signs[: len(cells)])), [tuple(cells)])
    assert any(all(cell in line for cell in cells) for line in text.splitlines())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (3174, "3.1 KiB"),
        (2_359_296, "2.25 MiB"),
        (157_286_400, "150 MiB"),
        (1_288_490_189, "1.2 GiB"),
        (5 << 50, "5,120 TiB"),
    ],
)
def test_sizes_have_the_unit_that_one_reads(number: int | None, text: str) -> None:
    assert size_text(number) == text
