"""The benchmark of histories in parts of like length, in small."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from modeling_utgrec import encoding_parts
from trainers.data.synthetic import DOWNSTREAM_DOMAIN, generate_domain, write_domain

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


NAMES = ["sasrec", "hstu", "gru4rec", "bert4rec", "fdsa", "unisrec", "missrec"]
SAMPLED = ["sasrec", "fdsa"]


@pytest.mark.parametrize(("more", "names"), [([], NAMES), (["--sampled", "--models", *SAMPLED], SAMPLED)])
def test_both_ways_of_every_model_are_timed(more, names, monkeypatch, capsys, tmp_path):
    write_domain(generate_domain(DOWNSTREAM_DOMAIN, 64, 90, 0), tmp_path)
    threads, most = torch.get_num_threads(), encoding_parts.MOST_PLACES
    shapes = []
    original = encoding_parts.length_batches
    monkeypatch.setattr(encoding_parts, "length_batches", lambda *given: shapes.append(given[1]) or original(*given))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sizes = ["--batch", "200", "--width", "16", "--repetitions", "1", "--warmup", "1"]
    monkeypatch.setattr(sys, "argv", ["history_parts.py", "--data", str(tmp_path), *sizes, *more])
    runpy.run_path(str(BENCHMARKS / "history_parts.py"), run_name="__main__")
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == names
    assert all(each["at once"] > 0 and each["ratio"] > 0 for each in found.values())
    assert encoding_parts.MOST_PLACES == most and {*shapes} == {most}, "a batch at once is not cut"
