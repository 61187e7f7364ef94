"""RecBase as a transformers model: configuration, sizes, loss, packed rows, saving, errors."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

import modeling_utgrec.modeling_recbase as modeling_recbase
from modeling_utgrec import ItemTrie, RecBaseConfig, RecBaseForCausalLM
from modeling_utgrec.generation_items import level_log_probs

SIZES = [6, 8, 5]


def make_model(seed: int = 0, **config) -> RecBaseForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "level_sizes": SIZES}
    return RecBaseForCausalLM(RecBaseConfig.tiny(**{**sizes, **config})).eval()


def make_tokens(config: RecBaseConfig, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random identifiers, `(*shape, num_levels)`."""
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(size, shape, generator=generator) for size in config.level_sizes]
    return torch.stack(codes, dim=-1) + torch.tensor(config.level_offsets)


def make_batch(config: RecBaseConfig, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Sequences of those numbers of items, padded on the right; every item but the first is a target."""
    tokens = make_tokens(config, len(lengths), max(lengths), seed=seed).flatten(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).repeat_interleave(config.num_levels, dim=1)
    labels = tokens.masked_fill(~mask, -100)
    labels[:, : config.num_levels] = -100
    return {"input_ids": tokens * mask, "attention_mask": mask.long(), "labels": labels}


def pack(batch: dict[str, torch.Tensor], rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """The sequences of a batch, several to a row."""
    longest = max(sum(int(batch["attention_mask"][user].sum()) for user in users) for users in rows)
    packed = {name: torch.full((len(rows), longest), fill) for name, fill in zip(batch, (0, 0, -100), strict=True)}
    for row, users in enumerate(rows):
        end = 0
        for number, user in enumerate(users, start=1):
            length = int(batch["attention_mask"][user].sum())
            place = slice(end, end + length)
            packed["input_ids"][row, place] = batch["input_ids"][user, :length]
            packed["attention_mask"][row, place] = number
            packed["labels"][row, place] = batch["labels"][user, :length]
            end += length
    return packed


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# configuration


def test_default_config_is_the_papers_base():
    config = RecBaseConfig()
    assert config.level_sizes == [1024] * 4
    assert config.level_offsets == [2, 1026, 2050, 3074]
    assert config.vocab_size == 2 + 4 * 1024
    assert (config.pad_token_id, config.eos_token_id, config.max_history) == (0, 1, 20)
    assert config.to_dict() == RecBaseConfig.base().to_dict()


@pytest.mark.parametrize(
    ("size", "architecture", "billions"),
    [("base", (1024, 1024, 16, 24), 0.285), ("large", (1536, 8960, 12, 28), 1.433)],
)
def test_published_sizes(size, architecture, billions):
    """Hidden and intermediate size, heads and layers are the paper's; it speaks of 0.3 and 1.5 billion parameters."""
    config = getattr(RecBaseConfig, size)()
    found = config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_hidden_layers
    assert found == architecture
    with torch.device("meta"):
        count = RecBaseForCausalLM(config).num_parameters()
    assert count / 1e9 == pytest.approx(billions, abs=5e-4)


def test_tiny_is_tiny():
    assert RecBaseForCausalLM(RecBaseConfig.tiny(codebook_size=16)).num_parameters() < 10**5
    assert RecBaseConfig.tiny(hidden_size=32, normalize_over="items").hidden_size == 32


@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_levels": 2}, {"codebook_size": 7}, {"level_sizes": [4, 7, 5]}, {"item_tokenizer_fingerprint": "abc"}],
)
def test_config_round_trip(tmp_path, arguments):
    config = RecBaseConfig.tiny(max_history=7, **arguments)
    config.save_pretrained(tmp_path)
    for loaded in (
        AutoConfig.from_pretrained(tmp_path),
        RecBaseConfig(**config.to_dict()),
        RecBaseConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        assert isinstance(loaded, RecBaseConfig)
        names = ("level_sizes", "level_offsets", "vocab_size", "num_levels", "max_history", "hidden_size", "head_dim")
        for name in (*names, "num_key_value_heads", "normalize_over", "item_tokenizer_fingerprint"):
            assert getattr(loaded, name) == getattr(config, name), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 1000}, "make 4098"),
        ({"num_levels": 0}, "at least 1"),
        ({"num_levels": 2, "level_sizes": [4, 4, 4]}, "3 levels"),
        ({"level_sizes": [4, 0, 4]}, "at least one code"),
        ({"level_sizes": []}, "at least 1"),
        ({"max_history": 0}, "max_history"),
        ({"max_history": 512}, "2052 tokens"),
        ({"normalize_over": "codes"}, "normalize_over"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "layer_types"),
    ],
)
def test_config_contradictions(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        RecBaseConfig(**arguments)


@pytest.mark.parametrize("arguments", [{"num_levels": "3"}, {"codebook_size": 2.5}, {"level_sizes": ["a"]}])
def test_config_types(arguments):
    with pytest.raises((StrictDataclassFieldValidationError, TypeError)):
        RecBaseConfig(**arguments)


def test_config_of_another_model():
    with pytest.raises(ValueError, match="'recbase', found 'utgrec'"):
        RecBaseConfig.from_dict({"model_type": "utgrec"})


# model


@pytest.mark.parametrize("arguments", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 2}])
def test_save_and_load_is_bit_equal(tmp_path, arguments):
    model = make_model(**arguments)
    batch = make_batch(model.config, [3, 2])
    model.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py")  # the code travels along
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, RecBaseForCausalLM) and not loaded.training
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(model(**batch).loss, loaded(**batch).loss)
    assert loaded.generation_config.eos_token_id is None
    assert loaded.generation_config.max_new_tokens == 3
    assert RecBaseForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


def test_loss_is_mean_negative_log_likelihood():
    model = make_model()
    batch = make_batch(model.config, [4, 1, 2])
    batch["labels"][0, 7] = -100
    total, count = 0.0, 0
    for user, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            if label != -100:
                # an input of its own for each position, nothing after it
                logits = model(batch["input_ids"][user : user + 1, :position]).logits[0, -1].double()
                total -= logits[label].item() - math.log(logits.exp().sum().item())
                count += 1
    assert count == 9 + 3 - 1
    output = model(**batch)
    assert output.loss.item() == pytest.approx(total / count, abs=1e-5)
    assert output.logits is None, "a long batch has no room for logits that are not used"
    assert torch.equal(model(**batch, return_dict=False)[0], output.loss)


def test_labels_are_those_of_any_causal_language_model():
    """With all tokens as labels: the loss that transformers computes, of the second token on."""
    model = make_model()
    batch = make_batch(model.config, [4, 3])
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    expected = model.loss_function(logits, batch["labels"], model.config.vocab_size)
    torch.testing.assert_close(model(**batch).loss, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "one row"])
def test_packed_rows_are_as_a_row_for_each_user(monkeypatch, attention, float32_tolerance):
    """The loss and every gradient; nothing leaks between the users of a row, whose positions start anew."""
    model = make_model(attn_implementation=attention.replace("one row", "sdpa")).double()
    if attention == "one row":  # as flash attention gets it, whose kernels are not for a CPU
        monkeypatch.setattr(modeling_recbase, "ONE_ROW_ATTENTION", "sdpa")
    batch = make_batch(model.config, [4, 1, 2, 5, 3, 2])
    packed = pack(batch, [[3, 1], [0, 2], [5, 4]])
    loss, wanted = model(**packed).loss, model(**batch).loss
    # transformers' norms and its eager softmax are in float32 whatever the model is in
    torch.testing.assert_close(loss, wanted, **float32_tolerance())
    found, expected = gradients(model, loss), gradients(model, wanted)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **float32_tolerance(4, expected[name]), msg=name)


def test_the_first_token_of_a_packed_sequence_is_no_target():
    """Whatever its label says: nothing of its own sequence precedes it."""
    model = make_model()
    packed = pack(make_batch(model.config, [4, 2]), [[0, 1]])
    expected = model(**packed).loss
    packed["labels"][0, [0, 12]] = packed["input_ids"][0, [0, 12]]
    assert torch.equal(model(**packed).loss, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_loss_normalised_over_items(packed):
    model = make_model(normalize_over="items")
    config = model.config
    codes = torch.cartesian_prod(*map(torch.arange, SIZES))[::3]
    trie = ItemTrie(codes, config.level_sizes, config.level_offsets)
    rows = torch.randint(len(codes), (3, 4), generator=torch.Generator().manual_seed(0))
    batch = make_batch(config, [4, 2, 3])
    tokens = (codes[rows] + torch.tensor(config.level_offsets)).flatten(1)
    batch["input_ids"] = tokens * batch["attention_mask"]
    batch["labels"] = torch.where(batch["labels"] == -100, -100, tokens)
    scores = []
    for user, length in enumerate((4, 2, 3)):
        for item in range(1, length):
            history = tokens[user : user + 1, : 3 * item]
            scores.append(model.score_items(history, None, trie, rows[user : user + 1, item : item + 1]).item())
    valid = torch.zeros(3, 12, 8, dtype=torch.bool)
    for user in range(3):
        for position in range(12):
            code = codes[rows[user, position // 3]]
            level = position % 3
            same = (codes[:, :level] == code[:level]).all(1)
            valid[user, position, codes[same, level]] = True
    if packed:
        lengths = batch["attention_mask"].sum(1)
        valid = torch.cat([valid[user, :length] for user, length in enumerate(lengths)])[None]
        batch = pack(batch, [[0, 1, 2]])
    assert model(**batch, valid_codes=valid).loss.item() == pytest.approx(-np.mean(scores) / 3, abs=1e-5)
    with pytest.raises(ValueError, match=r"needs valid_codes of shape .* got None"):
        model(**batch)


@pytest.mark.parametrize("normalize_over", ["items", "vocabulary"])
def test_a_batch_without_labels_changes_nothing(normalize_over):
    model = make_model(normalize_over=normalize_over)
    batch = make_batch(model.config, [4, 2])
    batch["labels"].fill_(-100)
    loss = model(**batch, valid_codes=torch.zeros(2, 12, 8, dtype=torch.bool)).loss
    assert loss.item() == 0
    found = gradients(model, loss)
    assert len(found) == len([*model.parameters()]) and not any(gradient.any() for gradient in found.values())


def test_every_parameter_gets_a_gradient(ordered_sums):
    model = make_model().train()
    loss = model(**make_batch(model.config, [4, 2])).loss
    with ordered_sums():
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        found.append(gradients(model, model(**make_batch(model.config, [4, 2])).loss))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], msg=name)


def test_eval_mode_is_deterministic_and_training_mode_is_not():
    model = make_model(attention_dropout=0.3)
    batch = make_batch(model.config, [4, 2])
    assert torch.equal(model(**batch).loss, model(**batch).loss)
    model.train()
    assert not torch.equal(model(**batch).loss, model(**batch).loss)


def test_batching_equivalence(float32_tolerance):
    model = make_model()
    batch = make_batch(model.config, [4, 2, 1])
    together = model(batch["input_ids"], batch["attention_mask"]).logits
    for user, length in enumerate((12, 6, 3)):
        alone = model(batch["input_ids"][user : user + 1, :length]).logits
        torch.testing.assert_close(alone[0], together[user, :length], **float32_tolerance(5, together))


def test_trainer_runs_and_does_not_scale_gradients_twice(tmp_path):
    """Accumulating two half batches must give the gradient of the whole batch."""
    norms = []
    for batch_size, steps in ((4, 1), (2, 2)):
        model = make_model()
        batch = make_batch(model.config, [4, 4, 4, 4])
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        dataset = [{name: tensor[user] for name, tensor in batch.items()} for user in range(4)]
        trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_overfits_and_recommends_the_targets():
    model = make_model().train()
    batch = make_batch(model.config, [4, 4, 4, 4, 4, 4])
    every = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    trie = ItemTrie(every, model.config.level_sizes, model.config.level_offsets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    output = model.eval().recommend(batch["input_ids"][:, :9], None, trie, num_items=3)
    targets = batch["input_ids"][:, 9:] - torch.tensor(model.config.level_offsets)
    assert torch.equal(trie.codes[output.item_rows[:, 0]], targets)


# warm start


def test_warm_start_keeps_the_geometry_of_the_codes():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    codebooks = [torch.randn(size, 16, generator=generator) / 2**level for level, size in enumerate(SIZES)]
    before = model.lm_head.weight.clone()
    model.warm_start(codebooks)
    weight = model.get_input_embeddings().weight.detach()
    assert weight[2:].std().item() == pytest.approx(model.config.initializer_range, rel=1e-4)
    assert torch.equal(model.lm_head.weight, before) and not weight[0].any()
    given = torch.cat(codebooks)
    distances, wanted = torch.cdist(weight[2:], weight[2:]), torch.cdist(given, given)
    torch.testing.assert_close(distances / distances.max(), wanted / wanted.max(), atol=1e-4, rtol=1e-3)
    # sums over the levels too, so items lie as their reconstructions do
    item = [weight[first + 1] for first in model.config.level_offsets]
    other = [weight[first + 2] for first in model.config.level_offsets]
    found = (sum(item) - sum(other)).norm() / distances.max()
    expected = (sum(codes[1] for codes in codebooks) - sum(codes[2] for codes in codebooks)).norm() / wanted.max()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_warm_start_of_wider_and_of_half_precision_codebooks():
    model = make_model().to(torch.bfloat16)
    model.warm_start([torch.randn(size, 50, dtype=torch.float16) for size in SIZES])
    assert torch.isfinite(model.get_input_embeddings().weight).all()


def test_frozen_codes_stay_while_the_rest_learns():
    model = make_model(tie_word_embeddings=True)
    model.warm_start([torch.randn(size, 16) for size in SIZES], freeze=True)
    codes = model.get_input_embeddings().weight
    assert model.lm_head.weight is codes
    assert codes[2:].square().sum(1).mean().item() == pytest.approx(1, rel=0.05)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()(**make_batch(model.config, [4, 3])).loss.backward()
    optimizer.step()
    same = {name for name, tensor in model.named_parameters() if torch.equal(before[name], tensor)}
    assert same == {"model.embed_tokens.weight"}
    # starting anew without freezing trains them again
    model.warm_start([torch.randn(size, 16) for size in SIZES])
    assert codes.requires_grad and codes[2:].std().item() == pytest.approx(model.config.initializer_range, rel=1e-4)
    with pytest.raises(ValueError, match="must be tied"):
        make_model().warm_start([torch.randn(size, 16) for size in SIZES], freeze=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda books: books[:2], r"\[6, 8\] codes"),
        (lambda books: [*books[:2], torch.randn(5, 9)], "widths \\[4, 9\\]"),
        (lambda books: [*books[:2], torch.full((5, 4), torch.nan)], "NaN"),
        (lambda books: [torch.zeros_like(book) for book in books], "one value"),
    ],
)
def test_warm_start_names_bad_codebooks(change, message):
    books = [torch.randn(size, 4) for size in SIZES]
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.warm_start(change(books))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# errors


@pytest.fixture
def trie() -> ItemTrie:
    return ItemTrie(torch.tensor([[0, 1, 2], [0, 1, 3], [5, 7, 4]]), SIZES, [2, 8, 16], item_ids=["a", "b", "c"])


HISTORY = torch.tensor([[2, 9, 18]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.tensor([[2, 9, 18], [2, 21, 18]])}, r"input_ids\[1, 1\] is 21"),
        (
            {"input_ids": torch.tensor([[2, 9, 18], [2, 18, 9]])},
            r"input_ids\[1, 1\] is 18, which is no code of level 1",
        ),
        ({"input_ids": torch.tensor([[2, 9, 18, 3]])}, "has 4 tokens, which is no multiple of 3"),
        ({"input_ids": torch.tensor([[2, 9, 18], [0, 0, 0]])}, "history of user 1 of the batch is empty"),
        ({"input_ids": HISTORY.repeat(1, 21)}, "has 63 tokens, the recommender reads 20 items of 3"),
        ({"input_ids": torch.tensor([2, 9, 18])}, "shape"),
        ({"attention_mask": torch.ones(1, 4)}, "attention_mask has shape"),
        ({"num_items": 0}, "at least 1"),
        ({"exclude": torch.tensor([[0, 3]])}, r"exclude\[0, 1\] is 3"),
        (
            {"trie": ItemTrie(torch.tensor([[0, 1, 2]]), SIZES, [2, 8, 8])},
            r"expected .*\[2, 8, 16\].* found .*\[2, 8, 8",
        ),
    ],
)
def test_recommend_names_bad_input(trie, arguments, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.recommend(**{"input_ids": HISTORY, "attention_mask": None, "trie": trie, **arguments})


def test_scoring_names_candidates_that_are_not_in_the_index(trie):
    with pytest.raises(ValueError, match=r"candidates\[0, 1\] is 3, outside of the ids -1..2 of items in the trie"):
        make_model().score_items(HISTORY, None, trie, torch.tensor([[0, 3]]))


def test_labels_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"the shape of input_ids \(1, 3\).* got \(1, 2\)"):
        make_model()(HISTORY, labels=HISTORY[:, :2])


def test_recommend_ignores_dropout_and_restores_modes(trie):
    model = make_model(attention_dropout=0.5)
    expected = model.recommend(HISTORY, None, trie, num_items=3)
    model.train()
    model.model.layers[0].eval()
    output = model.recommend(HISTORY, None, trie, num_items=3)
    assert torch.equal(output.scores, expected.scores) and output.item_ids == expected.item_ids
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training


def test_level_log_probs_of_the_decoder_are_normalised_over_the_vocabulary(trie):
    model = make_model()
    logits = model(HISTORY).logits[:, -1:].detach()
    found = level_log_probs(logits, trie, 0, torch.zeros(1, 1, dtype=torch.long), "vocabulary")
    torch.testing.assert_close(found, logits.log_softmax(-1)[..., 2:8])


def test_embedding_dropout_is_on_the_input_and_on_what_is_compared_with_the_codes(monkeypatch):
    model, dropped, states = make_model(embedding_dropout=0.5).train(), [], []
    batch = make_batch(model.config, [3, 5])
    model.model.register_forward_hook(lambda module, inputs, output: states.append(output.last_hidden_state))
    monkeypatch.setattr(modeling_recbase.F, "dropout", lambda x, p, training: dropped.append((x, p, training)) or x)
    model(**batch)
    inputs, outputs = (x for x, _, _ in dropped)
    assert torch.equal(inputs, model.get_input_embeddings()(batch["input_ids"])) and torch.equal(outputs, states[0])
    assert [setting for _, *setting in dropped] == [[0.5, True]] * 2


def test_embedding_dropout_acts_in_training_alone():
    plain, model = make_model(), make_model(embedding_dropout=0.5)
    batch = make_batch(model.config, [3, 5])
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    expected = plain.eval()(**batch).loss
    assert torch.equal(model.eval()(**batch).loss, expected)
    torch.manual_seed(0)
    first, second = model.train()(**batch).loss, model(**batch).loss
    assert not torch.equal(first, expected) and not torch.equal(first, second)
    with pytest.raises(StrictDataclassClassValidationError, match="embedding_dropout"):
        RecBaseConfig.tiny(embedding_dropout=1.0)
