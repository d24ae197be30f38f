"""The picture of the benchmarks is of the results that are kept beside them."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_draw", BENCH / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_was_drawn_from_the_results(draw: ModuleType) -> None:
    assert draw.PICTURE.read_text("utf-8") == draw.picture(), "python bench/draw.py"


def test_the_table_was_made_of_the_results(draw: ModuleType) -> None:
    assert f"\n\n{draw.table()}\n\n" in draw.PAGE.read_text("utf-8"), "python bench/draw.py"


def test_each_result_is_shown_and_each_program_is_there(draw: ModuleType) -> None:
    kept = {file.stem for file in draw.RESULTS.glob("*.json")}
    assert kept <= {shown.bench for shown in draw.SHOWN}
    assert all((BENCH / f"{shown.bench}.py").exists() for shown in draw.SHOWN)
    for shown in draw.SHOWN:
        if shown.bench in kept:
            assert shown.ratio in json.loads((draw.RESULTS / f"{shown.bench}.json").read_text("utf-8"))["ratios"]
