"""The benchmark of models that read content, in small."""

import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


def test_every_model_ranks_a_catalogue_and_clusters_are_found(monkeypatch, capsys):
    class Here(ThreadPoolExecutor):  # in place of a process for each
        def __init__(self, **given):
            super().__init__(max_workers=given["max_workers"])

    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Here)
    sizes = ["--items", "60", "--users", "3", "--width", "32", "--interest_items", "50", "--shares", "0.1", "0.5"]
    monkeypatch.setattr(sys, "argv", ["content_models.py", *sizes])
    runpy.run_path(str(BENCHMARKS / "content_models.py"), run_name="__main__")
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["ranking"]) == ["sasrec", "fdsa", "unisrec", "vq-rec", "missrec", "missrec-images"]
    for each in found["ranking"].values():
        assert each["users_per_s"] > 0 and each["peak_gb"] >= each["model_gb"] > 0
    assert {share: each["interests"] for share, each in found["clusters"].items()} == {"0.1": 10, "0.5": 50}
