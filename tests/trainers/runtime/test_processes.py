"""Processes of a launcher on a CPU, and batches of which no example counts twice. Run as a script this file is a
worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainers.runtime.processes import join_processes, logger, real_rows, weighed, without_repeated

ROOT = Path(__file__).parents[3]


def process(rank, processes=2, at_end=True, counts=()):
    """An accelerator of one of several processes; `counts` are what the others add."""
    return SimpleNamespace(
        num_processes=processes,
        process_index=rank,
        device=torch.device("cpu"),
        gradient_state=SimpleNamespace(end_of_dataloader=at_end),
        reduce=lambda count, _: count + sum(counts),
    )


@pytest.mark.parametrize(
    ("examples", "expected"), [(16, [4, 4]), (0, [4, 4]), (1, [1, 0]), (12, [4, 0]), (13, [4, 1]), (23, [4, 3])]
)
def test_rows_of_the_last_batch_are_counted_once(examples, expected):
    """Eight examples a step, four on each process: the first takes the first four of those that are left."""
    assert [real_rows(process(rank), 4, examples) for rank in (0, 1)] == expected
    assert real_rows(process(1, at_end=False), 4, examples) == 4
    assert real_rows(process(0, processes=1), 4, examples) == 4


def test_weighed_means_are_the_mean_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(4 + 1, 3, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(losses.shape, generator=generator) < 0.3, -100, 7)
    expected = losses[labels != -100].mean()
    parts = [slice(0, 4), slice(4, 8)]
    padded = [torch.cat([each, each[:3]]) for each in (losses, labels)]
    counts = [float((labels[part] != -100).sum()) for part in parts]
    total = 0.0
    for rank, part in enumerate(parts):
        batch = {"losses": padded[0][part], "labels": padded[1][part]}
        cut = weighed(process(rank, counts=[counts[1 - rank]]), batch, 5)
        assert len(cut["labels"]) == (4, 1)[rank]
        total += cut["weight"].double() * cut["losses"][cut["labels"] != -100].mean() / 2
    torch.testing.assert_close(total, expected)


def test_a_process_without_any_example_counts_nothing():
    batch = {"input_ids": torch.ones(4, 3, dtype=torch.long), "labels": torch.ones(4, 3, dtype=torch.long)}
    assert weighed(process(1, counts=[12.0]), batch, 4)["weight"] == 0
    assert (without_repeated(process(1), batch, 4)["labels"] == -100).all()
    assert weighed(process(1, counts=[3.0]), {"embeddings": torch.ones(4, 2)}, 3)["weight"] == 0
    for whole in (process(0, processes=1), process(1, at_end=False)):
        assert without_repeated(whole, batch, 4) is batch
    assert weighed(process(0, processes=1), batch, 4) is batch


def test_a_launcher_that_started_one_process_is_told_of(monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warning", said.append)
    monkeypatch.setattr("trainers.runtime.processes.is_on_cpu", lambda: True)
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    join_processes()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    join_processes()  # accelerate launch without --num_processes
    assert not said
    monkeypatch.setenv("MASTER_PORT", "29500")
    join_processes()
    assert len(said) == 1 and "has started one process" in said[0] and "torchrun --nproc_per_node 2" in said[0]


@pytest.mark.distributed
def test_processes_of_torchrun_find_each_other_and_end_together(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    running = subprocess.Popen(
        [*command, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", __file__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["2", "2"]
    assert time.time() - (tmp_path / "1").stat().st_mtime < 10 and running.returncode
    assert "SIGKILL" in errors and "rank      : 1" in errors


def run_worker(folder):
    from accelerate import PartialState

    join_processes()
    state = PartialState()
    state.wait_for_everyone()
    (folder / str(state.process_index)).write_text(str(state.num_processes))
    if state.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    state.wait_for_everyone()
    time.sleep(60)


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
