"""UniSRec: the adaptor and both contrastive tasks against loops, what fine-tuning leaves alone, new catalogues."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForPreTraining

from modeling_utgrec import UniSRecConfig, UniSRecForNextItem, UniSRecForPreTraining
from modeling_utgrec.modeling_content import batch_items

NUM_ITEMS, WIDTH = 20, 12
TINY = {"num_items": NUM_ITEMS, "content_size": WIDTH, "hidden_size": 8, "inner_size": 10, "max_history": 6}
TINY |= {"initializer_range": 0.3, "num_experts": 3}
# targets 7 and 9 are those of two rows each
HISTORIES = torch.tensor([[0, 0, 3, 4], [1, 2, 5, 6], [0, 8, 8, 1], [2, 3, 4, 5], [0, 0, 0, 9]])
TARGETS = torch.tensor([7, 9, 7, 9, 20])


def make_model(kind=UniSRecForNextItem, seed=0, **config):
    torch.manual_seed(seed)
    model = kind(UniSRecConfig(**{**TINY, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter += 0.3 * torch.randn_like(parameter)
    return model.set_items(content=torch.randn(model.config.num_items, WIDTH)).eval()


def last_only(targets: torch.Tensor) -> torch.Tensor:
    labels = torch.full_like(HISTORIES[: len(targets)], -100)
    labels[:, -1] = targets
    return labels


def test_adaptor_against_loops():
    experts = make_model().model.embeddings.items.experts
    content = torch.randn(4, WIDTH)
    found = experts(content).detach()
    weight, shift, gate = (each.detach().double().tolist() for each in (experts.weight, experts.shift, experts.gate))
    for row, x in enumerate(content.double().tolist()):
        logits = [sum(x[i] * gate[i][g] for i in range(WIDTH)) for g in range(3)]
        total = sum(map(math.exp, logits))
        for column in range(8):
            expected = sum(
                math.exp(logits[g]) / total * sum(weight[g][column][i] * (x[i] - shift[g][i]) for i in range(WIDTH))
                for g in range(3)
            )
            assert found[row, column].item() == pytest.approx(expected, abs=1e-6, rel=1e-5)


def test_first_weights_of_the_adaptor():
    experts = UniSRecForNextItem(UniSRecConfig(num_items=3)).model.embeddings.items.experts
    assert experts.weight.std().item() == pytest.approx(0.02, rel=0.02) and experts.weight.shape == (8, 300, 768)
    assert not any(each.any() for each in (experts.shift, experts.gate, experts.noise))


def test_noise_and_dropout_are_those_of_training_alone():
    experts = make_model(content_dropout=0.0).model.embeddings.items.experts
    content = torch.randn(2, WIDTH).repeat(500, 1)
    assert torch.equal(experts(content), experts(content))
    experts.train()
    found = experts(content).detach()
    assert not torch.equal(found[0], found[2])
    # the gate's logits vary by the size that is learned: recovered from two experts of known outputs
    with torch.no_grad():
        experts.weight.zero_()
        experts.shift.zero_()
        experts.weight[0, 0, 0] = 1.0
        shares = experts(content)[::2, 0] / content[0, 0]
        experts.gate.zero_()
        spread = F.softplus(content[0] @ experts.noise) + 0.01
        assert (experts(content)[::2, 0] / content[0, 0]).mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert shares.std() > 0 and spread.min() > 0.01


def test_an_item_has_one_draw_in_a_step():
    """What the encoder reads of an item and what it is compared with as a candidate are one vector."""
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0).train()
    seen = []
    model.model.embeddings.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    vectors = []
    original = model.item_vectors
    model.item_vectors = lambda: vectors.append(original()) or vectors[-1]
    model(HISTORIES, labels=last_only(TARGETS))
    assert len(vectors) == 1
    positions = model.model.embeddings.positions.weight.detach()
    torch.testing.assert_close(seen[0][0, 3], vectors[0][3].detach() + positions[0])


def test_transductive_adds_ids_to_what_is_read_and_what_is_compared():
    model = make_model(transductive=True)
    items = model.model.embeddings.items
    expected = items.experts(items.content) + items.ids.weight[1:]
    torch.testing.assert_close(model.item_vectors(), expected)
    torch.testing.assert_close(items(torch.tensor([[4, 2]])), expected[[3, 1]][None])
    assert model.get_input_embeddings() is items.ids and make_model().get_input_embeddings() is None
    torch.testing.assert_close(model.item_embeddings, F.normalize(expected, dim=-1))


def test_vectors_that_are_at_hand_change_nothing(float32_tolerance, monkeypatch):
    """Parts of the catalogue at a time give what the whole gives."""
    model = make_model()
    expected = model.item_vectors()
    monkeypatch.setattr("modeling_utgrec.modeling_content.ITEMS_AT_A_TIME", 7)
    with torch.no_grad():
        vectors = model.item_vectors()
        torch.testing.assert_close(vectors, expected, **float32_tolerance(2, expected))
        states = model.user_states(HISTORIES)
        given = model.user_states(HISTORIES, item_vectors=vectors)
    torch.testing.assert_close(given, states, **float32_tolerance(8, states))
    scores = states @ model.item_embeddings.T
    assert scores.abs().max() <= (1 + 1e-5) / 0.07


def test_a_large_catalogue_has_the_gradient_of_the_whole(monkeypatch):
    """Its items are made again for their gradient, with the noise and dropout that they had."""
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0).train()
    monkeypatch.setattr("modeling_utgrec.modeling_content.ITEMS_AT_A_TIME", 7)
    weight = model.model.embeddings.items.experts.weight

    def loss():
        torch.manual_seed(5)
        return model(HISTORIES, labels=last_only(TARGETS)).loss

    loss().backward()
    direction = torch.randn_like(weight)
    step, before = 1e-3, weight.detach().clone()
    with torch.no_grad():
        values = [(weight.copy_(before + sign * step * direction), loss().item())[1] for sign in (1, -1)]
    expected = (values[0] - values[1]) / (2 * step)
    assert (weight.grad * direction).sum().item() == pytest.approx(expected, rel=0.02)


def contrastive_by_loops(states, positives, targets, duplicates="excluded"):
    """Mean over rows of -log of the positive's share, in float64, a row and a candidate at a time."""
    losses = []
    for row, target in enumerate(targets.tolist()):
        terms = []
        for other, target_of_other in enumerate(targets.tolist()):
            cosine = F.cosine_similarity(states[row].double(), positives[other].double(), dim=0).item()
            if other != row and target_of_other == target:
                if duplicates == "excluded":
                    continue
                cosine = 0.0
            terms.append((other, math.exp(cosine / 0.07)))
        own = next(term for other, term in terms if other == row)
        losses.append(-math.log(own / sum(term for _, term in terms)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("duplicates", ["excluded", "zero"])
def test_both_tasks_against_loops(duplicates, in_parts):
    model = make_model(UniSRecForPreTraining, duplicates=duplicates, augmentation_weight=0.5)
    augmented = torch.tensor([[0, 3], [5, 6], [8, 1], [2, 5], [0, 9]])
    with torch.no_grad():
        states = model.model(HISTORIES).last_hidden_state[:, -1]
        shorter = model.model(augmented).last_hidden_state[:, -1]
        items = model.item_vectors()[TARGETS - 1]
        item_loss = model(HISTORIES, labels=last_only(TARGETS)).loss.item()
        both = model(HISTORIES, labels=last_only(TARGETS), augmented_ids=augmented).loss.item()
        scaled = model(HISTORIES, labels=last_only(TARGETS), num_items_in_batch=10).loss.item()
    expected = contrastive_by_loops(states, items, TARGETS, duplicates)
    assert item_loss == pytest.approx(expected, rel=1e-5) and scaled == pytest.approx(expected / 2, rel=1e-5)
    pairs = contrastive_by_loops(states, shorter, TARGETS, duplicates)
    assert both == pytest.approx(expected + 0.5 * pairs, rel=1e-5)


def test_planted_duplicates_count_as_if_they_were_not_there():
    """A row's loss with duplicates of its target in the batch is its loss in a batch without them."""
    model = make_model(UniSRecForPreTraining)
    with torch.no_grad():
        whole = model(HISTORIES, labels=last_only(TARGETS)).loss.item() * 5
        # rows 0 and 2 share a target, 1 and 3 another: each row is judged in the batch without its double
        parts = 0.0
        for row in range(5):
            others = [other for other in range(5) if other == row or TARGETS[other] != TARGETS[row]]
            states = model.model(HISTORIES[others]).last_hidden_state[:, -1]
            candidates = F.normalize(model.item_vectors()[TARGETS[others] - 1], dim=-1)
            scores = F.normalize(states, dim=-1) @ candidates.T / 0.07
            place = others.index(row)
            parts += F.cross_entropy(scores[place], torch.tensor(place)).item()
    assert whole == pytest.approx(parts, rel=1e-5)


def test_items_that_lost_words_are_read_from_their_other_embedding():
    model = make_model(UniSRecForPreTraining, augmentation_weight=1.0)
    other = torch.randn(2, WIDTH)
    augmented = HISTORIES.clone()
    augmented[0, 2], augmented[1, 0] = NUM_ITEMS + 1, NUM_ITEMS + 2  # item 3 and item 1 lost words
    with torch.no_grad():
        found = model(HISTORIES, labels=last_only(TARGETS), augmented_ids=augmented, augmented_content=other).loss
        items_task = model(HISTORIES, labels=last_only(TARGETS)).loss
        states = model.model(HISTORIES).last_hidden_state[:, -1]
        table = torch.cat([model.item_vectors(), model.model.embeddings.items.of_rows(other)])
        poorer = model.model(augmented, item_vectors=table).last_hidden_state[:, -1]
    expected = contrastive_by_loops(states, poorer, TARGETS)
    assert (found - items_task).item() == pytest.approx(expected, rel=1e-5)


def test_every_weight_of_the_pre_training_gets_a_gradient():
    model = make_model(UniSRecForPreTraining, hidden_dropout=0.0, attention_dropout=0.0).train()
    model(HISTORIES, labels=last_only(TARGETS), augmented_ids=HISTORIES[:, 1:]).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key


def test_rows_of_pre_training_have_one_target():
    model = make_model(UniSRecForPreTraining)
    labels = last_only(TARGETS)
    labels[1, 0] = 4
    with pytest.raises(ValueError, match="rows of one target"):
        model(HISTORIES, labels=labels)


def test_fine_tuning_leaves_encoder_and_positions_as_they_are():
    model = make_model().train()
    model.freeze_encoder()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(HISTORIES, labels=last_only(TARGETS)).loss.backward()
        optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    experts = {f"model.embeddings.items.experts.{each}" for each in ("weight", "shift", "gate", "noise")}
    assert changed == experts | {"model.embeddings.norm.weight", "model.embeddings.norm.bias"}


def test_a_pre_trained_model_ranks_a_catalogue_it_never_saw(tmp_path):
    pretrained = make_model(UniSRecForPreTraining, items_fingerprint="of its catalogue")
    pretrained.without_items().save_pretrained(tmp_path)
    stored = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert stored.config.items_fingerprint is None
    assert stored.config.num_items == 0 and not any("content" in key for key in stored.state_dict())
    config = UniSRecConfig(**TINY | {"num_items": 9})
    model, _ = UniSRecForNextItem.from_pretrained(tmp_path, config=config, output_loading_info=True)
    model.set_items(content=torch.randn(9, WIDTH))
    scores = model.user_states(torch.tensor([[0, 1, 2]])) @ model.item_embeddings.T
    assert scores.shape == (1, 9) and scores.isfinite().all() and scores.std() > 0.1
    for key, weight in pretrained.named_parameters():
        assert torch.equal(model.get_parameter(key), weight), key


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "The items need content, got nothing"),
        ({"content": torch.zeros(20, 12), "codes": torch.zeros(20, 12)}, "got content, codes"),
        ({"content": torch.zeros(20, 11)}, r"reads \(20, 12\), items and width, and got \(20, 11\)"),
        ({"content": torch.zeros(19, 12)}, r"got \(19, 12\)"),
        ({"content": torch.zeros(20, 12).index_fill(0, torch.tensor([5, 8]), math.nan)}, "2 items .* in row 5"),
        ({"content": torch.zeros(20, 12).index_fill(0, torch.tensor([19]), math.inf)}, "1 items .* in row 19"),
    ],
)
def test_items_that_do_not_fit(tables, said):
    with pytest.raises(ValueError, match=said):
        make_model().set_items(**tables)


def test_a_model_without_items_takes_none():
    with pytest.raises(ValueError, match="has no items"):
        make_model().without_items().set_items(content=torch.zeros(0, WIDTH))


def test_tokens_of_a_batch_are_numbered():
    tokens, (first, second) = batch_items(torch.tensor([[0, 9, 4], [4, 4, 7]]), torch.tensor([[2], [9]]))
    assert tokens.tolist() == [2, 4, 7, 9]
    assert first.tolist() == [[0, 4, 2], [2, 2, 3]] and second.tolist() == [[1], [4]]


@pytest.mark.parametrize(
    "values",
    [
        {"num_experts": 0},
        {"content_dropout": 1.0},
        {"item_drop_share": 1.5},
        {"drop_ratio": -0.1},
        {"augmentation_weight": -1.0},
        {"temperature": 0.0},
        {"content_size": 0},
        {"inner_size": 0},
        {"layer_norm_eps": 0.0},
        {"num_items": -1},
    ],
)
def test_contradictions_are_named(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        UniSRecConfig(**values)


def test_sampled_items_are_all_that_is_made_from_content():
    """And the loss with negatives of the whole catalogue, corrected, comes to that over all items."""
    model = make_model(loss="sampled", num_negatives=5)
    rows = []
    model.model.embeddings.items.experts.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    model(HISTORIES, labels=last_only(TARGETS))
    assert len(rows) == 1 and rows[0] <= len({*HISTORIES.flatten().tolist(), *TARGETS.tolist()}) - 1 + 5
    torch.manual_seed(0)
    model.config.num_negatives = 100_000
    sampled = model(HISTORIES, labels=last_only(TARGETS)).loss.item()
    model.config.loss = "ce"
    assert sampled == pytest.approx(model(HISTORIES, labels=last_only(TARGETS)).loss.item(), rel=0.05)
