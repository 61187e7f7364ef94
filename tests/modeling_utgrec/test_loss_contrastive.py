"""InfoNCE against brute force, and over two processes against one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_utgrec.loss_contrastive import info_nce

PACKAGE = str(Path(__file__).resolve().parents[2] / "modeling_utgrec")


def by_hand(anchors, positives, temperature, excluded=None) -> float:
    anchors, positives = anchors.double().numpy(), positives.double().numpy()
    losses = []
    for level in range(anchors.shape[1]):
        a, p = anchors[:, level], positives[:, level]
        a, p = a / np.linalg.norm(a, axis=1, keepdims=True), p / np.linalg.norm(p, axis=1, keepdims=True)
        for i in range(len(a)):
            terms = {j: np.exp(a[i] @ p[j] / temperature) for j in range(len(p))}
            kept = [v for j, v in terms.items() if j == i or excluded is None or not excluded[i, j]]
            losses.append(-np.log(terms[i] / sum(kept)))
    return np.mean(losses)


def pairs(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    anchors, positives = torch.randn(2, batch, 3, 5, generator=generator)
    # Also on the diagonal: an anchor's own positive stays in all the same.
    excluded = torch.rand(batch, batch, generator=generator) < 0.4
    assert excluded.diagonal().any() and not excluded.diagonal().all()
    return anchors, positives, excluded


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("exclude", [False, True])
def test_info_nce_by_hand(temperature, exclude):
    anchors, positives, excluded = pairs()
    before = excluded.clone()
    loss = info_nce(3 * anchors, 7 * positives, temperature, excluded if exclude else None)
    assert loss.item() == pytest.approx(by_hand(anchors, positives, temperature, excluded if exclude else None))
    assert torch.equal(excluded, before)


def test_excluded_positives_count_with_the_cosine_that_is_given():
    anchors, positives, excluded = pairs()
    losses = []
    for level in range(3):
        cosines = torch.cosine_similarity(anchors[:, None, level].double(), positives[None, :, level].double(), dim=-1)
        for row in range(6):
            terms = [
                0.3 if excluded[row, column] and column != row else cosines[row, column].item() for column in range(6)
            ]
            losses.append(np.log(sum(np.exp(each / 0.5) for each in terms)) - terms[row] / 0.5)
    assert info_nce(anchors, positives, 0.5, excluded, 0.3).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_excluded_positives_get_no_gradient():
    anchors, positives, _ = pairs(3)
    positives.requires_grad_()
    excluded = torch.zeros(3, 3, dtype=torch.bool)
    excluded[:, 2] = True
    info_nce(anchors[:2], positives, 0.1, excluded[:2]).backward()
    assert not positives.grad[2].any() and positives.grad[:2].any()


def test_no_negatives_left_and_a_batch_of_one():
    anchors, positives, _ = pairs()
    anchors.requires_grad_()
    loss = info_nce(anchors, positives, 0.1, torch.ones(6, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not anchors.grad.any()
    assert info_nce(anchors[:1], positives[:1], 0.1).item() == 0


def test_zero_representations_are_finite():
    anchors, positives = torch.zeros(2, 2, 1, 3, requires_grad=True)
    loss = info_nce(anchors, positives, 0.1)
    loss.backward(inputs=[anchors, positives])
    assert loss.item() == pytest.approx(np.log(2)) and anchors.grad.isfinite().all()


def test_autocast_does_not_round_the_similarities():
    anchors, positives, excluded = pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(anchors, positives, 0.01, excluded)
    assert loss.item() == info_nce(anchors, positives, 0.01, excluded).item()


# `weight` stands for the network behind the representations: its gradient is averaged over the processes, as in DDP.
TWO_PROCESSES = """
import importlib
import os
import sys
import types

import torch
import torch.distributed as dist

rank, folder, package = int(sys.argv[1]), sys.argv[2], types.ModuleType("parts")
package.__path__ = [sys.argv[3]]  # its two files alone: the import of the whole takes seconds
sys.modules["parts"] = package
info_nce = importlib.import_module("parts.loss_contrastive").info_nce
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
inputs = torch.load(f"{folder}/inputs.pt")
mine = slice(rank * 3, rank * 3 + 3)
weight = inputs["weight"].requires_grad_()
anchors, positives = inputs["anchors"][mine] @ weight, inputs["positives"][mine] @ weight
loss = info_nce(anchors, positives, 0.1, inputs["excluded"][mine])
loss.backward()
dist.all_reduce(weight.grad)
total = loss.detach().clone()
dist.all_reduce(total)
torch.save({"loss": total / 2, "gradient": weight.grad / 2, "own": loss.detach()}, f"{folder}/result{rank}.pt")
dist.barrier()
os._exit(0)  # all is written; the threads of gloo sometimes keep the interpreter from ending
"""


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_joined_batch(tmp_path, float32_tolerance):
    anchors, positives, excluded = pairs()
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    inputs = {"anchors": anchors, "positives": positives, "excluded": excluded, "weight": weight}
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path), PACKAGE],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    weight.requires_grad_()
    loss = info_nce(anchors @ weight, positives @ weight, 0.1, excluded)
    loss.backward()
    results = [torch.load(tmp_path / f"result{rank}.pt") for rank in range(2)]
    assert results[0]["own"] != results[1]["own"]
    for result in results:
        # a product, normalisation, the logits and their softmax
        torch.testing.assert_close(result["loss"], loss.detach(), **float32_tolerance(4))
        torch.testing.assert_close(result["gradient"], weight.grad, **float32_tolerance(4, weight.grad))
