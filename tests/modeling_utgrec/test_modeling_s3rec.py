"""S3-Rec: the four tasks against loops in float64, directions of reading, what fine-tuning starts from."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec import S3RecConfig, S3RecForNextItem, S3RecForPreTraining, modeling_s3rec
from modeling_utgrec.modeling_sequential import sample_negatives

NUM_ITEMS, ATTRIBUTES, MASK = 10, 5, 11
TINY = {"num_items": NUM_ITEMS, "hidden_size": 8, "inner_size": 10, "max_history": 6, "initializer_range": 0.5}
TINY |= {"num_attributes": ATTRIBUTES, "attributes_per_item": 2}
TABLE = torch.tensor([[1, 2], [3, 0], [0, 0], [5, 1], [2, 0], [4, 5], [1, 0], [3, 4], [2, 5], [1, 3]])
ORIGINAL = torch.tensor([[0, 3, 4, 9], [1, 2, 5, 6], [0, 0, 8, 8]])
INPUT = torch.tensor([[0, 3, MASK, MASK], [1, 2, 5, MASK], [0, 0, 8, MASK]])
SEGMENTS = {
    "segment_ids": torch.tensor([[0, MASK, 4, 9], [1, MASK, MASK, 6]]),
    "positive_ids": torch.tensor([[0, 3, MASK, MASK], [MASK, 2, 5, MASK]]),
    "negative_ids": torch.tensor([[0, 7, MASK, MASK], [MASK, 1, 4, MASK]]),
}


def make_model(kind=S3RecForPreTraining, **config):
    torch.manual_seed(0)
    model = kind(S3RecConfig(**{**TINY, **config})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model.set_items(TABLE) if kind is S3RecForPreTraining else model


def attributes_by_loops(model, head, states, places):
    """Summed binary cross-entropy of every attribute at every place."""
    total = 0.0
    for user, column in places:
        state = head(states[user, column]).double()
        has = set(TABLE[ORIGINAL[user, column] - 1].tolist())
        for attribute in range(1, ATTRIBUTES + 1):
            score = float(state @ model.attributes.weight[attribute - 1].double())
            chance = 1 / (1 + math.exp(-score))
            total -= math.log(chance if attribute in has else 1 - chance)
    return total


@pytest.mark.parametrize("two_sigmoids", [False, True])
@torch.no_grad()
def test_the_four_tasks_against_loops(two_sigmoids, in_parts):
    model = make_model(two_sigmoids=two_sigmoids)
    torch.manual_seed(3)
    found = model(INPUT, original_ids=ORIGINAL, **SEGMENTS)
    torch.manual_seed(3)
    masked = [(0, 2), (0, 3), (1, 3), (2, 3)]
    read = [(0, 1), (1, 0), (1, 1), (1, 2), (2, 2)]
    negatives = sample_negatives(INPUT, ORIGINAL.masked_fill(INPUT != MASK, -100), NUM_ITEMS).tolist()
    items, states = model.get_input_embeddings().weight.double(), found.last_hidden_state

    def compared(own, other):
        if two_sigmoids:
            own, other = (1 / (1 + math.exp(-each)) for each in (own, other))
        return -math.log(1 / (1 + math.exp(-(own - other))))

    item_loss = 0.0
    for (user, column), negative in zip(masked, negatives, strict=True):
        state = model.item_head(states[user, column]).double()
        item_loss += compared(float(state @ items[ORIGINAL[user, column]]), float(state @ items[negative]))
    segment_loss = 0.0
    for user in range(2):
        context, positive, negative = (
            model.model(ids[user : user + 1], bidirectional=True).last_hidden_state[0, -1] for ids in SEGMENTS.values()
        )
        context = model.segment_head(context).double()
        segment_loss += compared(float(context @ positive.double()), float(context @ negative.double()))
    expected = {
        "attribute_loss": attributes_by_loops(model, model.attribute_head, states, read) / 3,
        "item_loss": item_loss / 3,
        "masked_attribute_loss": attributes_by_loops(model, model.masked_attribute_head, states, masked) / 3,
        "segment_loss": segment_loss / 3,
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name
    weighted = sum(weight * value for weight, value in zip((0.2, 1.0, 1.0, 0.5), expected.values(), strict=True))
    assert found.loss.item() == pytest.approx(weighted, rel=1e-4)
    if two_sigmoids:
        assert 0.313 <= expected["item_loss"] * 3 / 4 <= 1.314


@pytest.mark.parametrize(("two_sigmoids", "least"), [(False, 0.0), (True, math.log1p(math.exp(-1)))])
def test_scores_far_apart_cost_nothing_but_in_the_authors_program(two_sigmoids, least):
    model = make_model(two_sigmoids=two_sigmoids)
    own, other = torch.full((7,), 60.0), torch.full((7,), -60.0)
    assert model._compared(own, other).item() / 7 == pytest.approx(least, abs=1e-6)


def test_pre_training_reads_both_ways_and_the_recommender_one():
    model = make_model()
    changed = INPUT.clone()
    changed[1, 2] = 7
    one, other = (model(ids, original_ids=ORIGINAL).last_hidden_state for ids in (INPUT, changed))
    assert (one[1, 0] - other[1, 0]).abs().max() > 1e-4
    recommender = make_model(S3RecForNextItem)
    one, other = (recommender(ids).last_hidden_state for ids in (INPUT, changed))
    torch.testing.assert_close(one[1, :2], other[1, :2])


def test_negatives_are_neither_masks_nor_items_of_the_sequence(monkeypatch):
    drawn = []
    original = modeling_s3rec.sample_negatives
    monkeypatch.setattr(modeling_s3rec, "sample_negatives", lambda *a: drawn.append(original(*a)) or drawn[-1])
    model = make_model()
    for _ in range(30):
        model(INPUT, original_ids=ORIGINAL)
    found = torch.stack(drawn)
    owners = [0, 0, 1, 2]
    for column, user in enumerate(owners):
        assert not set(found[:, column].tolist()) & {0, MASK, *ORIGINAL[user].tolist()}


def test_every_weight_gets_a_gradient():
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0).train()
    model(INPUT, original_ids=ORIGINAL, **SEGMENTS).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key


def test_fine_tuning_starts_from_encoder_and_items_alone(tmp_path):
    pretrained = make_model()
    pretrained.save_pretrained(tmp_path)
    model, found = S3RecForNextItem.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert all(
        torch.equal(model.state_dict()[key], value)
        for key, value in pretrained.model.state_dict(prefix="model.").items()
    )
    assert torch.equal(model.item_embeddings, pretrained.get_input_embeddings().weight[1:MASK])


@pytest.mark.parametrize(
    ("table", "said"),
    [(TABLE[:9], r"has \(10, 2\)"), (TABLE + 1, "whole numbers from 1 to 5"), (TABLE.float(), "whole numbers")],
)
def test_attributes_that_do_not_fit(table, said):
    with pytest.raises(ValueError, match=said):
        make_model().set_items(table)


@pytest.mark.parametrize(
    "values", [{"num_attributes": 0}, {"mask_ratio": 1.5}, {"segment_weight": -1}, {"attributes_per_item": 0}]
)
def test_contradictions_are_named(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        S3RecConfig(**values)


def test_the_masks_score_is_no_candidate():
    model = make_model(S3RecForNextItem)
    assert model.item_embeddings.shape == (NUM_ITEMS, 8) and model.config.vocab_size == 12
    scores = model.user_states(ORIGINAL) @ model.item_embeddings.T
    loss = model(ORIGINAL, labels=torch.full_like(ORIGINAL, -100).index_fill(1, torch.tensor([3]), 7)).loss
    torch.testing.assert_close(loss, F.cross_entropy(scores, torch.full((3,), 6)))
