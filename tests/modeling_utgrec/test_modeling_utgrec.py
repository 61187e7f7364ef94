"""The recommender as a transformers model: configuration, loss, training, saving, errors."""

import json
import math
import os

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)
from transformers.models.t5.modeling_t5 import T5Stack

from modeling_utgrec.configuration_utgrec import UTGRecConfig
from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.modeling_utgrec import CausalItemEncoder, UTGRecForConditionalGeneration

TINY = {"d_model": 32, "d_ff": 48, "num_heads": 2, "d_kv": 8, "num_layers": 2}
SMALL_CODES = {"root_codebook_size": 6, "leaf_codebook_size": 8}


@pytest.fixture(autouse=True)
def registered():
    AutoConfig.register("utgrec", UTGRecConfig, exist_ok=True)
    AutoModelForSeq2SeqLM.register(UTGRecConfig, UTGRecForConditionalGeneration, exist_ok=True)


def make_model(**config) -> UTGRecForConditionalGeneration:
    torch.manual_seed(0)
    return UTGRecForConditionalGeneration(UTGRecConfig(**{**TINY, **SMALL_CODES, **config})).eval()


def make_batch(config: UTGRecConfig, batch_size: int = 4, num_items: int = 5) -> dict[str, torch.Tensor]:
    """Random histories of random lengths with random targets."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, num_items + 1)
    codes = [torch.randint(size, shape, generator=generator) for size in config.level_sizes]
    tokens = torch.stack(codes, dim=-1) + torch.tensor(config.level_offsets)
    lengths = torch.randint(1, num_items + 1, (batch_size, 1), generator=generator)
    lengths[0] = num_items
    mask = (torch.arange(num_items) < lengths).repeat_interleave(config.num_levels, dim=1).long()
    return {"input_ids": tokens[:, :-1].flatten(1) * mask, "attention_mask": mask, "labels": tokens[:, -1]}


# configuration


def test_default_config():
    config = UTGRecConfig()
    assert config.level_sizes == [256, 512, 512]
    assert config.level_offsets == [2, 258, 258]
    assert config.vocab_size == 2 + 256 + 512
    assert (config.num_layers, config.num_decoder_layers, config.d_model, config.d_ff) == (4, 4, 128, 1024)
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)
    assert config.share_leaf_codes


def test_own_token_range_per_level():
    config = UTGRecConfig(level_sizes=[4, 7, 5, 6])
    assert (config.num_levels, config.share_leaf_codes) == (4, False)
    assert config.level_offsets == [2, 6, 13, 18]
    assert config.vocab_size == 24
    unshared = UTGRecConfig(**SMALL_CODES, share_leaf_codes=False)
    assert (unshared.level_sizes, unshared.level_offsets, unshared.vocab_size) == ([6, 8, 8], [2, 8, 16], 24)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        SMALL_CODES,
        {"num_levels": 1},
        {"num_levels": 4, **SMALL_CODES},
        {"level_sizes": [4, 7, 5]},
        {"level_sizes": [256, 512, 512]},  # the default sizes, but a range for each level
        {"level_sizes": [256, 512, 512], "share_leaf_codes": True},
        {"share_leaf_codes": False},
        {"item_tokenizer_fingerprint": "abc", "max_history": 7, "num_decoder_layers": 1},
    ],
)
def test_config_round_trip(tmp_path, arguments):
    config = UTGRecConfig(**arguments)
    config.save_pretrained(tmp_path)
    for loaded in (
        AutoConfig.from_pretrained(tmp_path),
        UTGRecConfig(**config.to_dict()),
        UTGRecConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        assert isinstance(loaded, UTGRecConfig)
        for name in ("level_sizes", "level_offsets", "vocab_size", "share_leaf_codes", "num_levels", "max_history"):
            assert getattr(loaded, name) == getattr(config, name), name
        assert loaded.item_tokenizer_fingerprint == config.item_tokenizer_fingerprint
        assert loaded.num_decoder_layers == config.num_decoder_layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 1000}, "make 770"),
        ({"num_levels": 0}, "at least 1"),
        ({"num_levels": 2, "level_sizes": [4, 4, 4]}, "3 levels"),
        ({"level_sizes": [4, 0, 4]}, "at least one code"),
        ({"level_sizes": []}, "at least 1"),
        ({"level_sizes": [4, 4, 4], "share_leaf_codes": True}, "256, 512, 512"),
        ({"leaf_codebook_size": 0}, "at least one code"),
        ({"max_history": 0}, "max_history"),
        ({"loss_temperature": 0}, "loss_temperature"),
        ({"feed_forward_proj": "gelu-gated-x"}, "feed_forward_proj"),
    ],
)
def test_config_contradictions(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        UTGRecConfig(**arguments)


@pytest.mark.parametrize("arguments", [{"num_levels": "3"}, {"root_codebook_size": 2.5}, {"level_sizes": ["a"]}])
def test_config_types(arguments):
    with pytest.raises((StrictDataclassFieldValidationError, TypeError)):
        UTGRecConfig(**arguments)


# model


@pytest.mark.parametrize("arguments", [{}, {"level_sizes": [6, 8, 8]}, {"feed_forward_proj": "gated-gelu"}])
def test_save_and_load_is_bit_equal(tmp_path, arguments):
    model = make_model(**arguments)
    batch = make_batch(model.config)
    model.save_pretrained(tmp_path)
    names = sorted(name for name in os.listdir(tmp_path) if not name.endswith(".py"))  # the code travels along
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, UTGRecForConditionalGeneration)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(model(**batch).logits, loaded(**batch).logits)
    assert loaded.generation_config.eos_token_id is None
    assert loaded.generation_config.max_new_tokens == model.config.num_levels
    again = UTGRecForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert again.shared.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("arguments", [{}, {"num_levels": 4}])
def test_generate_gives_exactly_one_identifier(arguments):
    model = make_model(**arguments)
    batch = make_batch(model.config)
    del batch["labels"]
    with torch.no_grad():
        model.lm_head.weight[1] += 100.0  # end-of-sequence must not end a sequence
    for num_beams in (1, 3):
        assert model.generate(**batch, num_beams=num_beams).shape == (4, 1 + model.config.num_levels)


def test_loss_is_mean_negative_log_likelihood():
    model = make_model()
    batch = make_batch(model.config)
    batch["labels"][1, 2] = -100
    batch["labels"][3, :2] = -100
    output = model(**batch)
    total, count = 0.0, 0
    for user, labels in enumerate(batch["labels"].tolist()):
        for position, label in enumerate(labels):
            if label == -100:
                continue
            # a decoder input of its own for each position, nothing after it
            prefix = torch.tensor([[0] + [max(token, 0) for token in labels[:position]]])
            logits = model(
                input_ids=batch["input_ids"][user : user + 1],
                attention_mask=batch["attention_mask"][user : user + 1],
                decoder_input_ids=prefix,
            ).logits[0, -1]
            total -= logits[label].item() - math.log(logits.double().exp().sum().item())
            count += 1
    assert count == 9
    assert output.loss.item() == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_loss_temperature_divides_the_logits_of_the_loss_and_nothing_else(temperature):
    plain, model = make_model(), make_model(loss_temperature=temperature)
    batch = make_batch(model.config)
    batch["labels"][1, 2] = -100
    output = model(**batch)
    logits = plain(**batch).logits
    assert torch.equal(output.logits, logits)
    log_probabilities = (logits.double() / temperature).log_softmax(-1)
    kept = batch["labels"] != -100
    chosen = log_probabilities.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    assert output.loss.item() == pytest.approx(-chosen[kept].mean().item(), rel=1e-5)
    as_tuple = model(**batch, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], logits)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_a_causal_encoder_is_a_t5s_with_another_mask(feed_forward):
    causal, both_ways = (make_model(feed_forward_proj=feed_forward, causal_encoder=value) for value in (True, False))
    assert type(causal.encoder) is CausalItemEncoder and type(both_ways.encoder) is T5Stack
    found, expected = causal.state_dict(), both_ways.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected), "one seed, one start"
    inner = [name for name in expected if name.endswith("SelfAttention.q.weight") or name.endswith("wo.weight")]
    for name in inner:  # drawn by T5's rules, not torch's
        fan_in = 32 * 8 if name.endswith("q.weight") else 48
        assert expected[name].std().item() == pytest.approx(fan_in**-0.5, rel=0.15), name
    t5 = T5ForConditionalGeneration(
        T5Config(feed_forward_proj=feed_forward, vocab_size=both_ways.config.vocab_size, **TINY)
    )
    for model in (causal, both_ways):  # all that T5 has, and nothing else
        assert list(model.state_dict()) == list(t5.state_dict()) and vars(model).keys() == vars(t5).keys()


def test_loss_temperature_of_all_targets_is_that_of_their_rows():
    model = make_model(causal_encoder=True, loss_temperature=0.6)
    batch = make_batch(model.config, batch_size=1, num_items=4)
    levels = model.config.num_levels
    successors = torch.cat([batch["input_ids"][:, levels:], batch["labels"]], dim=1)
    rows = [
        model(
            input_ids=batch["input_ids"][:, : levels * (item + 1)],
            labels=successors[:, levels * item : levels * (item + 1)],
        ).loss
        for item in range(4)
    ]
    loss = model(batch["input_ids"], batch["attention_mask"], labels=successors).loss
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_labels_need_no_cache_and_inference_may_have_one():
    model = make_model()
    batch = make_batch(model.config)
    assert model(**batch).past_key_values is None
    labels = batch.pop("labels")
    assert model(**batch, decoder_input_ids=labels).past_key_values is not None
    assert isinstance(model(**batch, labels=labels, return_dict=False), tuple)


def test_embeddings_and_outputs_may_leave_t5s_scales(tmp_path):
    plain = make_model()
    model = make_model(embedding_std=0.05, scale_decoder_outputs=False)
    assert plain.shared.weight.std().item() == pytest.approx(1, rel=0.05)
    assert model.shared.weight.std().item() == pytest.approx(0.05, rel=0.05)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert (again.config.embedding_std, again.config.scale_decoder_outputs) == (0.05, False)
    assert torch.equal(again.shared.weight, model.shared.weight)  # loaded, not drawn anew
    batch = make_batch(model.config)
    with torch.no_grad():
        logits = again(**batch).logits
        again.config.scale_decoder_outputs = True
        assert torch.allclose(again(**batch).logits * again.config.d_model**0.5, logits, atol=1e-5)


def test_every_parameter_gets_a_gradient(ordered_sums):
    model = make_model().train()
    loss = model(**make_batch(model.config)).loss
    with ordered_sums():
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = make_model(dropout_rate=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**make_batch(model.config)).loss.backward()
        gradients.append(model.shared.weight.grad)
    torch.testing.assert_close(*gradients)


def test_eval_mode_is_deterministic_and_training_mode_is_not():
    model = make_model()
    batch = make_batch(model.config)
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


def test_batching_equivalence():
    model = make_model()
    batch = make_batch(model.config)
    together = model(**batch).logits
    for user in range(4):
        length = int(batch["attention_mask"][user].sum())
        alone = model(
            input_ids=batch["input_ids"][user : user + 1, :length], labels=batch["labels"][user : user + 1]
        ).logits
        torch.testing.assert_close(alone[0], together[user], atol=1e-5, rtol=1e-4)


def test_trainer_runs_and_does_not_scale_gradients_twice(tmp_path):
    """Accumulating two half batches must give the gradient of the whole batch."""
    norms = []
    for batch_size, steps in ((4, 1), (2, 2)):
        model = make_model(dropout_rate=0.0)
        batch = make_batch(model.config)
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
    model = make_model(dropout_rate=0.0).train()
    batch = make_batch(model.config, batch_size=6)
    every = torch.cartesian_prod(*(torch.arange(size) for size in model.config.level_sizes))
    trie = ItemTrie(every, model.config.level_sizes, model.config.level_offsets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    output = model.eval().recommend(batch["input_ids"], batch["attention_mask"], trie, num_items=3)
    targets = batch["labels"] - torch.tensor(model.config.level_offsets)
    assert torch.equal(trie.codes[output.item_rows[:, 0]], targets)
    assert (output.scores.diff(dim=1) <= 0).all()


# recommend


@pytest.fixture
def trie() -> ItemTrie:
    return ItemTrie(torch.tensor([[0, 1, 2], [0, 1, 3], [5, 7, 7]]), [6, 8, 8], [2, 8, 8], item_ids=["a", "b", "c"])


def test_recommend_ignores_dropout_and_restores_modes(trie):
    model = make_model()
    batch = make_batch(model.config)
    expected = model.recommend(batch["input_ids"], batch["attention_mask"], trie, num_items=3)
    model.train()
    model.encoder.eval()
    output = model.recommend(batch["input_ids"], None, trie, num_items=3)
    assert torch.equal(output.scores, expected.scores)
    assert output.item_ids == expected.item_ids
    assert model.training and model.decoder.block[0].training and not model.encoder.block[0].training
    assert not output.scores.requires_grad


def test_recommend_raises_beams_to_items(trie):
    model = make_model()
    output = model.recommend(torch.tensor([[3, 9, 10]]), None, trie, num_items=3, num_beams=1)
    assert sorted(output.item_rows[0].tolist()) == [0, 1, 2]


def test_recommend_names_a_foreign_trie(trie):
    model = make_model(level_sizes=[6, 8, 8])
    with pytest.raises(ValueError, match=r"expected .*\[2, 8, 16\].* found .*\[2, 8, 8\]"):
        model.recommend(torch.tensor([[3, 9, 10]]), None, trie)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.tensor([[3, 9, 10], [3, 16, 2]])}, r"input_ids\[1, 1\] is 16"),
        ({"input_ids": torch.tensor([[3, -100, 10]])}, r"input_ids\[0, 1\] is -100"),
        ({"input_ids": torch.tensor([3, 9, 10])}, "shape"),
        ({"attention_mask": torch.ones(1, 4)}, "attention_mask has shape"),
        ({"num_items": 0}, "at least 1"),
        ({"num_beams": 0}, "at least 1"),
        ({"exclude": torch.tensor([[0, 3]])}, r"exclude\[0, 1\] is 3"),
        ({"exclude": torch.tensor([[-2]])}, r"exclude\[0, 0\] is -2"),
        ({"exclude": torch.tensor([[0], [1]])}, r"exclude must have shape \(1"),
        ({"exclude": torch.tensor([0])}, "exclude must have shape"),
    ],
)
def test_recommend_names_bad_input(trie, arguments, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.recommend(**{"input_ids": torch.tensor([[3, 9, 10]]), "attention_mask": None, "trie": trie, **arguments})


def test_recommend_accepts_an_empty_exclusion(trie):
    model = make_model()
    history = torch.tensor([[3, 9, 10]])
    expected = model.recommend(history, None, trie, num_items=3)
    for exclude in (torch.empty(1, 0, dtype=torch.long), torch.tensor([[-1, -1]])):
        assert torch.equal(model.recommend(history, None, trie, num_items=3, exclude=exclude).scores, expected.scores)


def test_labels_of_another_length_are_an_error():
    model = make_model()
    with pytest.raises(ValueError, match="3 codes"):
        model(input_ids=torch.tensor([[3, 9, 10]]), labels=torch.tensor([[3, 9, 10, 1]]))
