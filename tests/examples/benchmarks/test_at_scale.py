"""The table of what catalogues and logs of any size take."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "benchmarks" / "at_scale.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_tables_are_whole(script, capsys):
    script["main"](script["parse"](["--items", "1e6", "1e8", "--interactions", "1e8", "1e10"]))
    tables = [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]
    assert len(tables) == 3 and len(tables[2]) == 2 + 4
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    assert tables[2][2].endswith("| nothing |") and "log read by one process" in tables[2][3]


def test_what_breaks_is_what_one_process_cannot_hold(script):
    steps = {step.name: step for step in script["STEPS"]}
    assert len(steps) == len(script["STEPS"])
    counts = steps["counts of a memory, by one process"]
    size = counts.held(1e9)
    assert script["broken"](1e6, 1e9, size * 0.99)[0] in ("log read by one process", counts.name)
    assert counts.name not in script["broken"](1e6, 1e9, size * 1.01)
    assert script["broken"](1e12, 1.0, 1e9)[0] == "similar items by faiss"
