"""Checks that all sequential recommenders share, and the shared losses."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, set_seed

import modeling_utgrec
from modeling_utgrec import SequentialForNextItem, encoding_parts
from modeling_utgrec.modeling_sequential import sample_negatives

NAMES = ["BERT4Rec", "BSARec", "FDSA", "FMLPRec", "GRU4Rec", "HSTU", "S3Rec", "SASRec", "UniSRec", "VQRec"]
WITH_BCE = [name for name in NAMES if name != "BERT4Rec"]
NUM_ITEMS, MAX_HISTORY = 20, 6
SIZES = {"num_items": NUM_ITEMS, "hidden_size": 8, "num_heads": 2, "num_layers": 2, "max_history": MAX_HISTORY}
CONTENT_SIZE = 12  # of models whose items are made from content
HISTORIES = [[3], [1, 2, 3, 4, 5, 20], [7, 7, 9], [5, 4, 3, 2]]


# Items that are made from something else than ids, and no dropout of it: tests of gradients have none.
OF_CONTENT = {"content_size": CONTENT_SIZE, "content_dropout": 0.0, "num_groups": 4, "codebook_size": 3}
MADE = {
    "FDSA": lambda generator: {"content": torch.randn(NUM_ITEMS, CONTENT_SIZE, generator=generator)},
    "VQRec": lambda generator: {"codes": torch.randint(3, (NUM_ITEMS, 4), generator=generator)},
    "UniSRec": lambda generator: {"content": torch.randn(NUM_ITEMS, CONTENT_SIZE, generator=generator)},
}


def make_model(name: str, seed: int = 0, **config) -> SequentialForNextItem:
    set_seed(seed)
    # weights of the default size would let a small model's states hardly differ
    config_class = getattr(modeling_utgrec, f"{name}Config")
    known = {each.name for each in fields(config_class)}
    own = {key: value for key, value in OF_CONTENT.items() if key in known}
    model = getattr(modeling_utgrec, f"{name}ForNextItem")(
        config_class(**{**SIZES, "initializer_range": 0.3, **own, **config})
    )
    if name in MADE:
        model.set_items(**MADE[name](torch.Generator().manual_seed(seed)))
    return model.eval()


def make_inputs(histories=HISTORIES, width: int | None = None) -> dict[str, torch.Tensor]:
    width = width or max(map(len, histories))
    rows = [[0] * (width - len(history)) + history for history in histories]
    input_ids = torch.tensor(rows)
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long()}


def make_batch(model: SequentialForNextItem) -> dict[str, torch.Tensor]:
    """A training batch as the model's `training_targets` asks for."""
    batch = make_inputs()
    labels = torch.full_like(batch["input_ids"], -100)
    following = torch.tensor([6, 17, 1, 8])
    if model.training_targets == "all":
        labels[:, :-1] = batch["input_ids"][:, 1:]
        labels[:, :-1][batch["input_ids"][:, :-1] == 0] = -100
        labels[:, -1] = following
    elif model.training_targets == "last":
        labels[:, -1] = following
    else:
        hidden = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0]]).bool()
        labels[hidden] = batch["input_ids"][hidden]
        batch["input_ids"][hidden] = model.config.mask_token_id
    return {**batch, "labels": labels}


def state_at(output, batch: dict[str, torch.Tensor], row: int, column: int) -> torch.Tensor:
    """Of an encoder that makes the last state alone, that one."""
    return output.last_hidden_state[row, column - batch["labels"].shape[1]]


@pytest.mark.parametrize("name", NAMES)
def test_configuration_round_trip(tmp_path, name):
    config = make_model(name, hidden_dropout=0.25).config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert type(config)().num_items == 1  # transformers builds every configuration without arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_items": 0}, "num_items"),
        ({"max_history": 0}, "max_history"),
        ({"hidden_size": 6, "num_heads": 4}, "num_heads"),
        ({"hidden_dropout": 1.0}, "hidden_dropout"),
        ({"pad_token_id": 1}, "pad_token_id"),
        ({"num_negatives": 0}, "num_negatives"),
    ],
)
def test_contradictions_are_named(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        modeling_utgrec.SASRecConfig(**arguments)


@pytest.mark.parametrize("arguments", [{"num_items": "3"}, {"loss": "hinge"}, {"hidden_size": 2.5}])
def test_wrong_types_are_errors(arguments):
    with pytest.raises(StrictDataclassFieldValidationError):
        modeling_utgrec.SASRecConfig(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load_is_bit_equal(tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    head, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(head) is type(model) and type(encoder) is type(model.model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    stored = load_file(tmp_path / "model.safetensors")
    for key, weight in model.state_dict().items():
        assert torch.equal(head.state_dict()[key], weight) and torch.equal(stored[key], weight), key
    batch = make_batch(model)
    # the same weights at other addresses may be summed in another order
    torch.testing.assert_close(head.eval()(**batch).loss, model(**batch).loss)
    del batch["labels"]
    states = model(**batch).last_hidden_state
    torch.testing.assert_close(encoder.eval()(**batch).last_hidden_state, states)

    encoder.save_pretrained(tmp_path / "encoder")  # an encoder alone loads too
    again = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    torch.testing.assert_close(again(**batch).last_hidden_state, states)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", ["ce", "bce", "sampled"])
def test_gradients_reach_every_parameter(name, loss, ordered_sums):
    if loss != "ce" and name not in WITH_BCE:
        with pytest.raises(StrictDataclassFieldValidationError):
            make_model(name, loss=loss)
        return
    model = make_model(name, loss=loss, hidden_dropout=0.0, attention_dropout=0.0).train()
    loss = model(**make_batch(model)).loss
    with ordered_sums():
        loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith("key.bias"), key  # a softmax ignores the keys' bias
    embeddings = model.get_input_embeddings()
    if embeddings is not None:  # padding stays zero
        assert embeddings.weight.grad[0].eq(0).all() and embeddings.weight[0].eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_states_do_not_depend_on_the_batch_or_its_padding(name, float32_tolerance):
    model = make_model(name)
    together = model.user_states(**make_inputs())
    for row, history in enumerate(HISTORIES):
        for width in {len(history), MAX_HISTORY}:
            alone = model.user_states(**make_inputs([history], width))
            torch.testing.assert_close(alone[0], together[row], **float32_tolerance(5, together))
    assert torch.equal(model.user_states(make_inputs()["input_ids"]), together)  # the mask is known from the padding
    assert together.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_training_is_not(name):
    model = make_model(name)
    batch = make_batch(model)
    assert torch.equal(model(**batch).loss, model(**batch).loss)
    model.train()
    assert not torch.equal(model(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_history_matters(name):
    model = make_model(name)
    states = model.user_states(**make_inputs([[4, 5, 6], [5, 4, 6]]))
    assert (states[0] - states[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_where_every_position_predicts_none_sees_later_items(name, float32_tolerance):
    model = make_model(name)
    first = model(**make_inputs([[1, 2, 3, 4, 5]])).last_hidden_state[0]
    second = model(**make_inputs([[1, 2, 3, 14, 15]])).last_hidden_state[0]
    assert not torch.allclose(first[3:], second[3:], atol=1e-4)
    if model.training_targets == "all":
        torch.testing.assert_close(first[:3], second[:3], **float32_tolerance(5, first))


@pytest.mark.parametrize("name", NAMES)
def test_cross_entropy_equals_a_loop_over_labels(name):
    model = make_model(name).double()
    batch = make_batch(model)
    output = model(**batch)
    items, bias = model.item_embeddings, model.item_bias
    losses = []
    for row, column in (batch["labels"] != -100).nonzero().tolist():
        state = model.scoring_states(state_at(output, batch, row, column))
        scores = torch.stack([state @ items[item] for item in range(NUM_ITEMS)])
        scores = scores if bias is None else scores + bias
        losses.append(scores.exp().sum().log() - scores[batch["labels"][row, column] - 1])
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    summed = model(**batch, num_items_in_batch=100).loss
    torch.testing.assert_close(summed, torch.stack(losses).sum() / 100)
    assert torch.equal(model(**batch, return_dict=False)[0], output.loss)


@pytest.mark.parametrize("name", WITH_BCE)
def test_binary_cross_entropy_equals_a_loop_over_labels(name):
    model = make_model(name, loss="bce").double()
    batch = make_batch(model)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    negatives = sample_negatives(batch["input_ids"], batch["labels"], NUM_ITEMS).tolist()
    losses = []
    for number, (row, column) in enumerate((batch["labels"] != -100).nonzero().tolist()):
        state = model.scoring_states(state_at(output, batch, row, column))
        positive, negative = batch["labels"][row, column], negatives[number]
        scores = [state @ model.item_embeddings[token - 1] for token in (positive, negative)]
        losses.append(-F.logsigmoid(scores[0]) - F.logsigmoid(-scores[1]))
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("name", WITH_BCE)
def test_sampled_softmax_equals_a_loop_over_labels(name, corrected):
    model = make_model(name, loss="sampled", num_negatives=7, log_q_correction=corrected).double()
    batch = make_batch(model)
    torch.manual_seed(5)
    output = model(**batch)
    torch.manual_seed(5)
    negatives = torch.randint(NUM_ITEMS, (7,)).tolist()
    weight = NUM_ITEMS / 7 if corrected else 1
    losses = []
    for row, column in (batch["labels"] != -100).nonzero().tolist():
        state, target = model.scoring_states(state_at(output, batch, row, column)), batch["labels"][row, column] - 1
        own = (state @ model.item_embeddings[target]).exp()
        others = [weight * (state @ model.item_embeddings[each]).exp() for each in negatives if each != target]
        losses.append((own + sum(others)).log() - own.log())
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name", WITH_BCE)
def test_sampled_softmax_of_many_negatives_is_that_over_all_items(name):
    """Negatives, corrected, stand for all other items: the losses agree as their number grows."""
    model = make_model(name)
    batch = make_batch(model)
    expected = model(**batch).loss
    torch.manual_seed(0)
    model.config.loss, model.config.num_negatives = "sampled", 200_000
    torch.testing.assert_close(model(**batch).loss, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_trains_under_autocast(name):
    model = make_model(name, hidden_dropout=0.0, attention_dropout=0.0).train()
    batch = make_batch(model)
    torch.manual_seed(0)  # of noise that training adds
    expected = model(**batch).loss
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_user_states_are_what_training_makes_of_the_last_position(name):
    """The score that ranks is the one that was trained: position and padding agree."""
    model = make_model(name)
    inputs = make_inputs()
    if model.training_targets == "cloze":
        inputs = make_inputs([[*history, model.config.mask_token_id] for history in HISTORIES])
        batch = {**inputs, "labels": torch.full_like(inputs["input_ids"], -100)}
    else:
        batch = {**inputs, "labels": torch.full_like(inputs["input_ids"], -100)}
    batch["labels"][:, -1] = torch.tensor([6, 17, 1, 8])
    scores = model.user_states(**make_inputs()) @ model.item_embeddings.T
    scores = scores if model.item_bias is None else scores + model.item_bias
    torch.testing.assert_close(model(**batch).loss, F.cross_entropy(scores, batch["labels"][:, -1] - 1))


ENDING = [name for name in NAMES if getattr(modeling_utgrec, f"{name}ForNextItem").reads_padding]


TAKING_LAST = [name for name in NAMES if getattr(modeling_utgrec, f"{name}ForNextItem").takes_last_only]


@pytest.mark.parametrize("padding", ["positions", "zeros"])
@pytest.mark.parametrize("name", TAKING_LAST)
def test_the_last_state_alone_is_that_of_all_of_them(name, padding):
    """With its gradients, whatever the window holds."""
    encoder = make_model(name, **({"padding": padding} if name in ENDING else {})).double().model
    found = []
    for last_only in (False, True):
        encoder.zero_grad()
        states = encoder(**make_inputs(), last_only=last_only).last_hidden_state
        states[:, -1].square().cumsum(dim=1).sum().backward()
        gradients = [each.grad.clone() for each in encoder.parameters() if each.grad is not None]
        found.append([states[:, -1], *gradients])
    assert states.shape[1] == 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", ["ce", "sampled"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ENDING])
def test_rows_in_parts_of_like_length_learn_what_they_learn_at_once(name, loss, monkeypatch, ordered_sums):
    """Loss, states of items and every gradient; and the encoder does read less padding."""
    if loss != "ce" and name not in WITH_BCE:
        return
    model = make_model(name, loss=loss, hidden_dropout=0.0, attention_dropout=0.0).double().train()
    batch = make_batch(model)
    shapes, found = [], []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes[-1].append(tuple(kwargs.get("input_ids", (*args, None)[0]).shape)),
        with_kwargs=True,
    )
    for most in (100, 7):
        monkeypatch.setattr(encoding_parts, "MOST_PLACES", most)
        shapes.append([])
        model.zero_grad()
        set_seed(0)
        output = model(**batch)
        with ordered_sums():
            output.loss.backward()
        states = output.last_hidden_state[batch["attention_mask"].bool()]
        found.append([output.loss, states, *(each.grad.clone() for each in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    assert shapes == [[(4, 6)], [(1, 6), (1, 4), (2, 3)]]


@pytest.mark.parametrize("name", ENDING)
def test_a_label_where_later_items_are_known_is_an_error(name):
    model = make_model(name)
    batch = make_batch(model)
    assert model(**batch).last_hidden_state.shape[1] == 1, "no other state is made"
    batch["labels"][1, -2] = 3
    with pytest.raises(ValueError, match="only the last one can have a label"):
        model(**batch)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_another_shape_are_an_error(name):
    with pytest.raises(ValueError, match="labels have shape"):
        make_model(name)(**make_inputs(), labels=torch.tensor([1, 2, 3, 4]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99))
def test_negatives_are_never_in_the_row(rows, seed):
    torch.manual_seed(seed)
    num_items = 6  # token 7 is no item: a mask
    input_ids = torch.tensor(rows)
    labels = torch.where(input_ids.roll(1, 1).clamp(max=6) == 0, -100, input_ids.roll(1, 1).clamp(max=6))
    negatives = sample_negatives(input_ids, labels, num_items).tolist()
    owners = (labels != -100).nonzero()[:, 0].tolist()
    assert len(negatives) == len(owners)
    for negative, row in zip(negatives, owners, strict=True):
        taken = {*input_ids[row].tolist(), *labels[row].tolist()}
        assert 1 <= negative <= num_items
        assert negative not in taken


def test_negatives_are_uniform_among_free_items():
    torch.manual_seed(0)
    input_ids = torch.tensor([[0, 2, 5], [1, 2, 3]]).repeat(4000, 1)
    labels = torch.tensor([[-100, -100, 3], [2, 6, 4]]).repeat(4000, 1)
    negatives = sample_negatives(input_ids, labels, 7).view(4000, 4)
    for column, free in ((0, [1, 4, 6, 7]), (1, [5, 7]), (3, [5, 7])):
        counts = torch.bincount(negatives[:, column], minlength=8)
        assert counts.nonzero().flatten().tolist() == free
        assert (counts[free] / 4000 - 1 / len(free)).abs().max() < 0.03


def test_a_row_with_the_whole_catalogue_gets_any_item():
    torch.manual_seed(0)
    input_ids = torch.tensor([[1, 2, 3]]).repeat(100, 1)
    negatives = sample_negatives(input_ids, torch.tensor([[-100, -100, 1]]).repeat(100, 1), 3)
    assert negatives.unique().tolist() == [1, 2, 3]
