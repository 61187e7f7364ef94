"""The benchmark of preparation at a size that takes a second: both programs give the same."""

import importlib.util
import json
from pathlib import Path

import polars as pl
import pytest

FILE = Path(__file__).parents[3] / "examples" / "benchmarks" / "preparation.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_preparation", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FILE.parent))
        spec.loader.exec_module(module)
    return module


def test_package_and_pandas_give_the_same(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "FAULTY", 0.01)
    benchmark.generate(tmp_path, 3000, seed=0)
    for name, program in benchmark.PROGRAMS.items():
        program(tmp_path, tmp_path / name)
    assert benchmark.identical(tmp_path)
    document = json.loads((tmp_path / "package" / "prepared.json").read_text())
    dropped = document["dropped"]["interactions"]
    for reason in ("timestamp is missing", "timestamp is in the future", "not in the 5-core"):
        assert dropped[reason]["count"] > 0
    assert document["counts"]["interactions"] > 500 and document["counts"]["k_core_rounds"] > 1

    path = tmp_path / "pandas" / "interactions.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    assert not benchmark.identical(tmp_path)
