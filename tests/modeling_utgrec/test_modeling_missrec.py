"""MISSRec: the network and the fused score against float64, what is missing, interests, the tasks of pre-training."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModel, AutoModelForCausalLM

from modeling_utgrec import MISSRecConfig, MISSRecForNextItem, MISSRecForPreTraining
from modeling_utgrec.modeling_missrec import Candidates, fused_scores

NUM_ITEMS, INTERESTS = 20, 7
TINY = {"num_items": NUM_ITEMS, "content_size": 6, "image_size": 5, "hidden_size": 8, "inner_size": 10}
TINY |= {"num_heads": 2, "max_history": 6, "num_interests": INTERESTS, "initializer_range": 0.4}
HISTORIES = torch.tensor([[0, 0, 3, 4], [1, 2, 5, 6], [0, 8, 8, 1], [2, 3, 4, 5], [0, 0, 0, 9]])
TARGETS = torch.tensor([7, 9, 7, 9, 20])
LABELS = torch.full_like(HISTORIES, -100).index_copy(1, torch.tensor([3]), TARGETS[:, None])
WITHOUT_IMAGE, WITHOUT_TEXT = [2, 8], [5]


def make_model(kind=MISSRecForNextItem, seed=0, **config):
    torch.manual_seed(seed)
    model = kind(MISSRecConfig(**{**TINY, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter += 0.3 * torch.randn_like(parameter)
    tables = {"text": torch.randn(NUM_ITEMS, 6)}
    if model.config.image_size is not None:
        tables["image"] = torch.randn(NUM_ITEMS, 5)
        tables["image"][WITHOUT_IMAGE] = math.nan
        tables["text"][WITHOUT_TEXT] = math.nan
    model.set_items(**tables)
    model.set_interests(torch.randn(INTERESTS, 8), torch.randint(INTERESTS, (NUM_ITEMS, len(tables))))
    return model.eval()


def linear(x, layer):
    return x @ layer.weight.double().T + layer.bias.double()


def norm(x, layer):
    spread = (x.var(-1, correction=0, keepdim=True) + 1e-12) if layer.eps == 1e-12 else None
    return (x - x.mean(-1, keepdim=True)) / spread.sqrt() * layer.weight.double() + layer.bias.double()


def attend(x, read, layer, heads=2):
    parts = []
    query, key, value = linear(x, layer.query), linear(read, layer.key), linear(read, layer.value)
    for head in query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1):
        parts.append(head)
    results = []
    for q, k, v in zip(*parts, strict=True):
        weights = (q @ k.T / q.shape[1] ** 0.5).exp()
        results.append(weights / weights.sum(1, keepdim=True) @ v)
    return linear(torch.cat(results, 1), layer.output)


def feed(x, block):
    inner = linear(x, block.inner)
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return norm(x + linear(inner, block.outer), block.feed_forward_norm)


def state_by_hand(model, history):
    """The last item's state of one history, in float64, without padding and masks."""
    network, items = model.model, model.content_items
    rows = [token - 1 for token in history]
    found = sorted({each for row in rows for each in items.interests[row].tolist() if each >= 0})
    interests = items.centroids[found].double()
    for block in network.interest_blocks:
        interests = norm(interests + attend(interests, interests, block.attention), block.attention_norm)
        interests = feed(interests, block)
    interests = norm(interests, network.interest_norm)
    stacked, vectors = model.config.history_fusion == "stack", []
    for place, row in zip(range(len(rows))[::-1], rows, strict=True):
        own = 0 if items.ids is None else items.ids.weight[row + 1].double()
        parts = [
            linear(getattr(items, name)[row].double(), adapter)
            for number, (name, adapter) in enumerate(zip(items.modalities, items.adapters, strict=True))
            if items.present[row, number]
        ]
        # a sum is one token; stacked, the text comes last here, so that the last state is that of the text if any
        tokens = [part + own for part in parts[::-1]] if stacked else [sum(parts) + own]
        vectors += [token + network.embeddings.positions.weight[place].double() for token in tokens]
    states = norm(torch.stack(vectors), network.embeddings.norm)
    for block in network.blocks:
        states = norm(states + attend(states, states, block.items.attention), block.items.attention_norm)
        states = norm(states + attend(states, interests, block.reading), block.reading_norm)
        states = feed(states, block.items)
    return norm(states, network.norm)[-1]


@pytest.mark.parametrize("history_fusion", ["add", "stack"])
@pytest.mark.parametrize("transductive", [False, True])
@torch.no_grad()
def test_states_of_padded_batches_against_float64(transductive, history_fusion):
    model = make_model(transductive=transductive, history_fusion=history_fusion)
    found = model.user_states(HISTORIES).double()
    given = model.user_states(HISTORIES, item_vectors=model.item_vectors())
    torch.testing.assert_close(given.double(), found, rtol=1e-4, atol=1e-5)
    for row, history in enumerate(HISTORIES.tolist()):
        expected = F.normalize(state_by_hand(model, [token for token in history if token]), dim=0)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_the_fused_score_against_loops():
    model = make_model(transductive=True)
    states = model.user_states(HISTORIES)
    found = model.scores(states, model.candidates())
    items, sharpness = model.content_items, model.sharpness.item()
    for user in range(5):
        for row in range(NUM_ITEMS):
            cosines = [
                F.cosine_similarity(
                    states[user].double(), linear(getattr(items, name)[row].double(), items.adapters[number]), dim=0
                ).item()
                for number, name in enumerate(items.modalities)
                if items.present[row, number]
            ]
            weights = [math.exp(sharpness * each) for each in cosines]
            fused = sum(weight * each for weight, each in zip(weights, cosines, strict=True)) / sum(weights)
            own = F.cosine_similarity(states[user].double(), items.ids.weight[row + 1].double(), dim=0).item()
            assert found[user, row].item() == pytest.approx((own + 2 * fused) / 3 / 0.07, abs=2e-4)


@torch.no_grad()
def test_items_with_a_sharpness_of_their_own():
    model, common = make_model(fusion="dynamic_by_item"), make_model()
    fresh = MISSRecForNextItem(MISSRecConfig(**TINY, fusion="dynamic_by_item"))
    assert not fresh.sharpness_offsets.any() and common.sharpness_offsets is None
    model.sharpness_offsets.zero_()
    common.load_state_dict({name: each for name, each in model.state_dict().items() if name != "sharpness_offsets"})
    states = model.user_states(HISTORIES)
    assert torch.equal(model.scores(states, model.candidates()), common.scores(states, common.candidates()))
    model.sharpness_offsets.copy_(torch.linspace(-2, 4, NUM_ITEMS))
    found = model.scores(states, model.candidates())
    for row in range(NUM_ITEMS):
        common.sharpness.copy_(model.sharpness + model.sharpness_offsets[row])
        expected = common.scores(states, common.candidates())[:, row]
        torch.testing.assert_close(found[:, row], expected, rtol=1e-5, atol=1e-5)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(model.scores(states, model.candidates(rows)), found[:, rows])
    torch.testing.assert_close(model.scores(states, model.candidates().rows(rows)), found[:, rows])


def test_a_sharpness_of_their_own_is_trained_and_left_behind():
    model = make_model(fusion="dynamic_by_item")
    labels = torch.full_like(HISTORIES, -100)
    labels[:, -1] = torch.arange(1, len(labels) + 1)
    model(input_ids=HISTORIES, labels=labels).loss.backward()
    assert model.sharpness_offsets.grad.abs().max() > 0
    bare = model.without_items()
    assert bare.sharpness_offsets is None and torch.equal(bare.sharpness, model.sharpness)


@torch.no_grad()
def test_a_missing_image_changes_no_score_of_the_text():
    """The authors' program scores a missing image by the adapter's bias, and adds that to what is read."""
    both = make_model()
    rows = torch.tensor(WITHOUT_IMAGE)
    states = both.user_states(HISTORIES)
    alone = Candidates(both.candidates().vectors[:, :1], both.candidates().present[:, :1])
    expected = fused_scores(states, alone, torch.zeros(())) / 0.07
    torch.testing.assert_close(both.scores(states, both.candidates())[:, rows], expected[:, rows])
    before = both.scores(states, both.candidates())
    read = both.item_vectors()
    both.content_items.adapters[1].bias.add_(5.0)
    assert torch.equal(both.scores(states, both.candidates())[:, rows], before[:, rows])
    assert torch.equal(both.item_vectors()[rows], read[rows])
    both.sharpness.fill_(500.0)  # a text of negative cosine weighs more than nothing too
    torch.testing.assert_close(both.scores(states, both.candidates())[:, rows], expected[:, rows])
    assert (both.content_items.interests[rows, 1] == -1).all()


@torch.no_grad()
def test_the_mean_is_where_the_sharpness_starts():
    assert MISSRecForNextItem(MISSRecConfig(**TINY)).sharpness.item() == 0
    model, mean = make_model(), make_model(fusion="mean")
    assert mean.sharpness is None and make_model(image_size=None).sharpness is None
    model.sharpness.zero_()
    mean.load_state_dict({name: value for name, value in model.state_dict().items() if name != "sharpness"})
    states = model.user_states(HISTORIES)
    torch.testing.assert_close(mean.scores(states, mean.candidates()), model.scores(states, model.candidates()))


@torch.no_grad()
def test_a_part_of_the_items_at_a_time_gives_what_the_whole_gives(monkeypatch):
    model = make_model(transductive=True, fusion="dynamic_by_item")
    expected = (model.item_vectors(), *model.candidates(), *model.points())
    monkeypatch.setattr("modeling_utgrec.modeling_content.ITEMS_AT_A_TIME", 7)
    for found, each in zip((model.item_vectors(), *model.candidates(), *model.points()), expected, strict=True):
        torch.testing.assert_close(found, each)
    rows = torch.tensor([4, 19, 8])
    for found, each in zip(model.candidates(rows), model.candidates(), strict=True):
        torch.testing.assert_close(found, each[rows])


@torch.no_grad()
def test_items_of_each_row_score_as_in_the_whole():
    model = make_model(transductive=True)
    states, rows = model.user_states(HISTORIES), torch.randint(NUM_ITEMS, (5, 3))
    expected = model.scores(states, model.candidates()).gather(1, rows)
    torch.testing.assert_close(model.scores(states, model.candidates().rows(rows)), expected, rtol=1e-4, atol=1e-5)


def test_items_that_are_refused_change_nothing():
    model = make_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="image: 1 items"):
        model.set_items(**broken(image=(3, 2)))
    with pytest.raises(ValueError, match="neither"):
        model.set_items(**broken(text=(4, slice(None)), image=(4, slice(None))))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_batch_in_which_no_item_has_an_image():
    """Is that of a model of texts alone, and has a gradient."""
    both, alone = make_model().train(), make_model(image_size=None).train()
    for model in (both, alone):
        model.config.interest_weight = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "num_heads"):
                module.dropout = 0.0
    text, image = torch.randn(NUM_ITEMS, 6), torch.full((NUM_ITEMS, 5), math.nan)
    both.set_items(text=text, image=image)
    alone.set_items(text=text)
    clusters = torch.randint(INTERESTS, (NUM_ITEMS, 1))
    both.set_interests(torch.ones(INTERESTS, 8), clusters.expand(-1, 2))
    alone.set_interests(torch.ones(INTERESTS, 8), clusters)
    own, other = both.state_dict(), alone.state_dict()
    alone.load_state_dict({key: own[key] for key in other if own[key].shape == other[key].shape}, strict=False)
    loss, expected = (model(HISTORIES, labels=LABELS).loss for model in (both, alone))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in both.parameters())
    assert not both.content_items.adapters[1].weight.grad.any() and both.sharpness.grad == 0


def test_interests_of_a_history_are_a_set():
    model = make_model()
    centroids, known = model.content_items.interest_sets(HISTORIES)
    for row, history in enumerate(HISTORIES.tolist()):
        interests = model.content_items.interests
        expected = {each for token in history if token for each in interests[token - 1].tolist() if each >= 0}
        assert known[row].sum() == len(expected)
        found = centroids[row, known[row]]
        assert {int((model.content_items.centroids == each).all(1).nonzero()) for each in found} == expected


@torch.no_grad()
def test_before_interests_are_discovered_the_first_is_read():
    model, states = make_model(), []
    for interest in (-1, 0):
        model.set_interests(torch.full((INTERESTS, 8), 0.5), torch.full((NUM_ITEMS, 2), interest))
        states.append(model.user_states(HISTORIES))
    assert states[0].isfinite().all()
    torch.testing.assert_close(*states)


def test_save_and_load_keep_items_and_interests(tmp_path):
    model = make_model(transductive=True)
    model.save_pretrained(tmp_path)
    head, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(head) is MISSRecForNextItem and not info["missing_keys"] and not info["unexpected_keys"]
    for key, value in model.state_dict().items():
        assert torch.equal(head.state_dict()[key], value), key
    expected = model(HISTORIES).last_hidden_state
    torch.testing.assert_close(head.eval()(HISTORIES).last_hidden_state, expected)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encoder(HISTORIES).last_hidden_state, expected)


def test_evaluation_is_deterministic_and_training_is_not():
    model = make_model()
    assert torch.equal(model(HISTORIES, labels=LABELS).loss, model(HISTORIES, labels=LABELS).loss)
    model.train()
    assert not torch.equal(model(HISTORIES, labels=LABELS).loss, model(HISTORIES, labels=LABELS).loss)


@pytest.mark.parametrize("history_fusion", ["add", "stack"])
@pytest.mark.parametrize("kind", [MISSRecForNextItem, MISSRecForPreTraining])
def test_gradients_reach_every_parameter(kind, history_fusion):
    transductive, none = kind is MISSRecForNextItem, {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    model = make_model(kind, history_fusion=history_fusion, transductive=transductive, **none).train()
    more = {} if transductive else {"augmented_ids": HISTORIES[:, 1:]}
    model(HISTORIES, labels=LABELS, **more).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key


def regularization_by_loops(model, histories):
    total = 0.0
    for history in histories.tolist():
        encoded, _ = model.model.encode_interests(torch.tensor([[token for token in history if token]]))
        encoded = F.normalize(encoded[0].double(), dim=-1)
        pairs = [(a, b) for a in range(len(encoded)) for b in range(len(encoded)) if a != b]
        total += sum(float(encoded[a] @ encoded[b]) ** 2 for a, b in pairs) / max(1, len(pairs))
    return total / len(histories)


@torch.no_grad()
def test_loss_of_fine_tuning_and_parts_of_it_against_loops(in_parts):
    model = make_model(interest_weight=0.5)
    scores = model.scores(model.user_states(HISTORIES), model.candidates()).double()
    expected = -scores.log_softmax(1)[torch.arange(5), TARGETS - 1].mean().item()
    expected += 0.5 * regularization_by_loops(model, HISTORIES)
    assert model(HISTORIES, labels=LABELS).loss.item() == pytest.approx(expected, rel=1e-4)
    halved = model(HISTORIES, labels=LABELS, num_items_in_batch=10).loss.item()
    assert halved == pytest.approx(expected / 2, rel=1e-4)
    nothing = torch.full_like(LABELS, -100)  # of a process that has no rows left
    assert model(HISTORIES, labels=nothing).loss == model(HISTORIES, labels=nothing, num_items_in_batch=10).loss == 0
    with pytest.raises(ValueError, match="one target each"):
        model(HISTORIES, labels=torch.cat([LABELS[:1], nothing[1:]]))


def test_rows_at_a_time_have_the_gradient_of_the_whole(monkeypatch):
    model = make_model()
    gradients = []
    for most in (2**22, 2 * NUM_ITEMS):
        monkeypatch.setitem(__import__("modeling_utgrec.modeling_missrec", fromlist=["x"]).MOST_LOGITS, "cpu", most)
        model.zero_grad()
        model(HISTORIES, labels=LABELS).loss.backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_programs_regularization_against_loops():
    model = make_model(interest_regularization="pooled")
    encoded, known = model.model.encode_interests(HISTORIES)
    expected = 0.0
    for user in range(5):
        pooled = sum(encoded[user, column].double() for column in range(known.shape[1]) if known[user, column])
        expected += float((pooled * known[user].double().mean()).square().sum()) / 8
    assert model.interest_regularization(encoded, known).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("history_fusion", ["add", "stack"])
def test_the_last_state_alone_is_that_of_all_of_them(history_fusion):
    """With its gradients; last items without text, without image and with both."""
    encoder = make_model(history_fusion=history_fusion).double().model
    histories = torch.tensor([[0, 0, 3, 6], [1, 2, 5, 9], [0, 8, 8, 1], [2, 3, 4, 5]])
    found = []
    for last_only in (False, True):
        encoder.zero_grad()
        states = encoder(histories, last_only=last_only).last_hidden_state
        states[:, -1].square().cumsum(dim=1).sum().backward()
        gradients = [each.grad.clone() for each in encoder.parameters() if each.grad is not None]
        found.append([states[:, -1], *gradients])
    assert states.shape[1] == 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("duplicates", ["excluded", "kept"])
@torch.no_grad()
def test_the_tasks_of_pre_training_against_loops(duplicates, in_parts):
    model = make_model(MISSRecForPreTraining, duplicates=duplicates, interest_weight=0.0, augmentation_weight=0.5)
    augmented = torch.tensor([[0, 3], [5, 6], [8, 1], [2, 5], [0, 9]])
    scores = model.scores(model.user_states(HISTORIES), model.candidates()).double()
    states, shorter = (
        F.normalize(model.model(ids).last_hidden_state[:, -1].double(), dim=1) for ids in (HISTORIES, augmented)
    )
    items = pairs = 0.0
    for row, target in enumerate(TARGETS.tolist()):
        others = [
            other
            for other, its in enumerate(TARGETS.tolist())
            if other == row or its != target or duplicates == "kept"
        ]
        items -= math.log(
            scores[row, target - 1].exp() / sum(scores[row, TARGETS[other] - 1].exp() for other in others)
        )
        likeness = {other: math.exp(float(states[row] @ shorter[other]) / 0.07) for other in others}
        pairs -= math.log(likeness[row] / sum(likeness.values()))
    found = model(HISTORIES, labels=LABELS, augmented_ids=augmented).loss.item()
    assert model(HISTORIES, labels=LABELS).loss.item() == pytest.approx(items / 5, rel=1e-4)
    assert found == pytest.approx(items / 5 + 0.5 * pairs / 5, rel=1e-4)


@torch.no_grad()
def test_stacked_texts_alone_are_what_their_sum_is():
    one, other = (make_model(image_size=None, history_fusion=each) for each in ("add", "stack"))
    assert torch.equal(one.user_states(HISTORIES), other.user_states(HISTORIES))


@pytest.mark.parametrize("history_fusion", ["add", "stack"])
@torch.no_grad()
def test_items_that_lost_words_keep_their_images_and_interests(history_fusion):
    model = make_model(MISSRecForPreTraining, history_fusion=history_fusion)
    other = torch.randn(2, 6)
    augmented = HISTORIES.clone()
    augmented[0, 2], augmented[1, 0] = NUM_ITEMS + 1, NUM_ITEMS + 2  # item 3, which has no image, and item 1
    found, _ = model._augmented(HISTORIES, augmented, other)
    model.content_items.text[[2, 0]] = other
    for user, history in ((0, [3, 4]), (1, [1, 2, 5, 6])):
        if user == 1:
            expected = state_by_hand(model, history)
            torch.testing.assert_close(found[user, -1].double(), expected, rtol=1e-4, atol=2e-5)
        else:
            expected = state_by_hand(model, history)
            torch.testing.assert_close(found[user, -1].double(), expected, rtol=1e-4, atol=2e-5)


def test_fine_tuning_leaves_the_transformer_as_it_is():
    model = make_model().train()
    model.freeze_encoder()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(HISTORIES, labels=LABELS).loss.backward()
        optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    adapters = {f"model.embeddings.items.adapters.{n}.{each}" for n in (0, 1) for each in ("weight", "bias")}
    norms = {f"model.embeddings.norm.{each}" for each in ("weight", "bias")}
    assert changed == adapters | norms | {"sharpness"}


def test_a_pre_trained_model_ranks_a_catalogue_it_never_saw(tmp_path):
    pretrained = make_model(MISSRecForPreTraining).without_items()
    assert pretrained.config.num_interests == 1, "of no catalogue"
    pretrained.save_pretrained(tmp_path)
    config = MISSRecConfig(**TINY | {"num_items": 9, "num_interests": 3})
    model, _ = MISSRecForNextItem.from_pretrained(tmp_path, config=config, output_loading_info=True)
    image = torch.full((9, 5), math.nan)
    model.set_items(text=torch.randn(9, 6), image=image)
    model.set_interests(torch.randn(3, 8), torch.randint(3, (9, 2)))
    scores = model.scores(model.user_states(torch.tensor([[0, 1, 2]])), model.candidates())
    assert scores.shape == (1, 9) and scores.isfinite().all() and scores.std() > 0.1
    with pytest.raises(NotImplementedError, match="no dot product"):
        _ = model.item_embeddings


def broken(**changes):
    tables = {"text": torch.zeros(NUM_ITEMS, 6), "image": torch.zeros(NUM_ITEMS, 5)}
    for name, (row, column) in changes.items():
        tables[name][row, column] = math.nan
    return tables


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"text": torch.zeros(20, 6)}, "need text, image, got text"),
        ({"text": torch.zeros(20, 6), "image": torch.zeros(20, 4)}, r"reads \(20, 5\)"),
        (broken(text=(3, 2)), "text: 1 items have NaN or infinity, the first in row 3"),
        (broken(text=(4, slice(None)), image=(4, slice(None))), "1 items have neither of text, image, .* row 4"),
    ],
)
def test_items_that_do_not_fit(tables, said):
    with pytest.raises(ValueError, match=said):
        make_model().set_items(**tables)


@pytest.mark.parametrize(
    "values", [{"num_interests": 0}, {"image_size": 0}, {"num_layers": 1}, {"interest_weight": -1}, {"drop_ratio": 2}]
)
def test_contradictions_are_named(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        MISSRecConfig(**values)
