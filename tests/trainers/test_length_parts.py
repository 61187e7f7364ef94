"""Parts of a batch: every row once, no more padding than needed, and the gradient of the whole batch."""

import copy

import pytest
import torch
from transformers import set_seed

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from trainers.length_parts import length_parts

LEVELS = 3


def make_batch(rows, longest=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = LEVELS * torch.randint(1, longest + 1, (rows,), generator=generator)
    mask = (torch.arange(LEVELS * longest) < lengths[:, None]).long()
    tokens = torch.randint(2, 14, mask.shape, generator=generator)
    return {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "labels": torch.randint(2, 14, (rows, LEVELS), generator=generator),
    }


@pytest.mark.parametrize(("rows", "num_parts"), [(1, 1), (9, 1), (10, 2), (23, 4), (500, 6)])
def test_rows_and_columns(rows, num_parts):
    batch = make_batch(rows)
    parts = length_parts(batch, least_rows=5, least_tokens=1, most_parts=6)
    assert len(parts) == num_parts and sum(share for share, _ in parts) == pytest.approx(1)
    found, longest = [], 0
    for share, part in parts:
        assert share == len(part["labels"]) / rows and (num_parts == 1 or len(part["labels"]) >= 5)
        lengths = part["attention_mask"].sum(1)
        assert lengths.min() >= longest
        longest = int(lengths.max())
        if num_parts > 1:
            assert part["input_ids"].shape[1] == part["attention_mask"].shape[1] == longest
        for ids, mask, labels in zip(part["input_ids"], part["attention_mask"], part["labels"], strict=True):
            found.append((tuple(ids[mask > 0].tolist()), tuple(labels.tolist())))
    expected = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    assert sorted(found) == sorted((tuple(i[m > 0].tolist()), tuple(t.tolist())) for i, m, t in expected)


def test_small_batches_stay_whole():
    batch = make_batch(100)
    num_tokens = batch["attention_mask"].numel()
    for least_tokens, num_parts in ((num_tokens, 1), (num_tokens // 2, 2), (num_tokens // 3, 3), (num_tokens + 1, 1)):
        assert len(length_parts(batch, least_rows=5, least_tokens=least_tokens)) == num_parts


def test_gradients_add_up_to_those_of_the_batch(float32_tolerance):
    set_seed(0)
    sizes = dict(d_model=16, d_ff=24, num_heads=2, d_kv=8, num_layers=2, dropout_rate=0.0)
    model = UTGRecForConditionalGeneration(UTGRecConfig(root_codebook_size=6, leaf_codebook_size=6, **sizes)).double()
    other, batch = copy.deepcopy(model), make_batch(23)
    loss = model(**batch).loss
    loss.backward()
    total = 0.0
    for share, part in length_parts(batch, least_rows=4, least_tokens=1):
        part_loss = share * other(**part).loss
        part_loss.backward()
        total += part_loss.detach()
    # T5's norms and softmax are in float32 whatever the model is in
    torch.testing.assert_close(total, loss.detach(), **float32_tolerance())
    for (name, parameter), same in zip(model.named_parameters(), other.parameters(), strict=True):
        allowed = float32_tolerance(4, parameter.grad)
        torch.testing.assert_close(same.grad, parameter.grad, **allowed, msg=lambda text, n=name: f"{n}: {text}")
