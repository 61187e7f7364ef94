"""Steps of the written-out T5 against the model's own forward, prefix by prefix."""

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import modeling_utgrec.generation_mixin as item_recommendation
import modeling_utgrec.generation_t5 as t5_beam_step
from modeling_utgrec.configuration_utgrec import UTGRecConfig
from modeling_utgrec.generation_mixin import user_blocks
from modeling_utgrec.generation_t5 import FusedT5, T5BeamStep
from modeling_utgrec.modeling_utgrec import UTGRecForConditionalGeneration

TINY = {"d_model": 32, "d_ff": 48, "num_heads": 3, "d_kv": 8, "num_layers": 2}
WIDTHS = [4, 7, 5]


def make_model(seed: int = 0, **config) -> UTGRecForConditionalGeneration:
    torch.manual_seed(seed)
    config = {"level_sizes": [6, 8, 8, 5], "initializer_factor": 1.5, **TINY, **config}
    return UTGRecForConditionalGeneration(UTGRecConfig(**config)).eval()


def make_batch(model, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, model.config.vocab_size, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return tokens * mask, mask


@torch.no_grad()
def walk(step: T5BeamStep, vocab_size: int, users: int, seed: int = 0):
    """Random beams: yields the logits of the step and the prefixes they belong to, `[users, W, T]` with start."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = torch.zeros(users, 1, 1, dtype=torch.long)
    yield step.start(), prefixes
    for width in WIDTHS:
        parents = torch.randint(0, prefixes.shape[1], (users, width), generator=generator)
        tokens = torch.randint(0, vocab_size, (users, width), generator=generator)
        kept = prefixes.gather(1, parents[..., None].expand(-1, -1, prefixes.shape[2]))
        prefixes = torch.cat((kept, tokens[..., None]), dim=2)
        yield step.advance(tokens, parents), prefixes


def check(model, step: T5BeamStep, input_ids, attention_mask, tolerance):
    """`tolerance` is one, or what makes one from the number of layers and the logits."""
    users = len(input_ids)
    # attention and feed-forward of an encoder's layer; one attention more of a decoder's; the head
    depth = 2 * model.config.num_layers + 3 * model.config.num_decoder_layers + 1
    for logits, prefixes in walk(step, model.config.vocab_size, users):
        for user in range(users):
            width = prefixes.shape[1]
            expected = model(
                input_ids=input_ids[user].expand(width, -1),
                attention_mask=attention_mask[user].expand(width, -1),
                decoder_input_ids=prefixes[user],
            ).logits[:, -1]
            allowed = tolerance(depth, expected) if callable(tolerance) else tolerance
            torch.testing.assert_close(logits[user], expected.float(), **allowed)  # logits of every type are float32


CONFIGS = {
    "relu": {},
    "gated": {"feed_forward_proj": "gated-gelu"},
    "gelu": {"feed_forward_proj": "gelu"},
    "untied": {"tie_word_embeddings": False},
    "three decoder layers": {"num_decoder_layers": 3},
    "causal encoder": {"causal_encoder": True},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("lengths", [[12, 12], [12, 4, 8]])
def test_logits_equal_the_models_own(config, lengths, float32_tolerance):
    model = make_model(**config)
    batch = make_batch(model, lengths)
    check(model, T5BeamStep(model, *batch), *batch, float32_tolerance)


def test_with_the_fused_product(monkeypatch, float32_tolerance):
    monkeypatch.setenv("UTGREC_FAST_CPU", "1")
    model = make_model()
    batch = make_batch(model, [12, 8])
    check(model, T5BeamStep(model, *batch), *batch, float32_tolerance)


def test_on_another_device():
    """Shapes, with the fused attention that other devices than a CPU have."""
    model = make_model()
    input_ids, attention_mask = make_batch(model, [12, 8])
    model.to("meta")
    step = T5BeamStep(model, input_ids.to("meta"), attention_mask.to("meta"))
    assert step.start().shape == (2, 1, model.config.vocab_size)
    beams = torch.zeros(2, 5, dtype=torch.long, device="meta")
    for _ in range(2):
        assert step.advance(beams, beams).shape == (2, 5, model.config.vocab_size)
    assert user_blocks(attention_mask.to("meta"), 50) == [(slice(None), slice(None))]


def test_fused_attention_equals_the_two_products(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 5, 24, generator=generator)
    key, value = (torch.randn(6, 7, 8, generator=generator) for _ in range(2))
    for bias in (None, torch.randn(6, 1, 7, generator=generator)):
        expected = t5_beam_step._attend(query, key, value, bias)
        with monkeypatch.context() as patch:
            patch.setattr(t5_beam_step, "TWO_PRODUCTS", ())
            torch.testing.assert_close(t5_beam_step._attend(query, key, value, bias), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = make_model(initializer_factor=1.0).to(dtype)
    batch = make_batch(model, [12, 8])
    check(model, T5BeamStep(model, *batch), *batch, dict(atol=0.1, rtol=0.05))


def test_float16_with_outer_weights_in_float32():
    """As `from_pretrained(dtype=torch.float16)` loads a T5."""
    model = make_model(initializer_factor=1.0).half()
    for block in [*model.encoder.block, *model.decoder.block]:
        block.layer[-1].DenseReluDense.wo.float()
    batch = make_batch(model, [12, 8])
    check(model, T5BeamStep(model, *batch), *batch, dict(atol=0.02, rtol=0.02))


def test_adapters_are_not_left_out(float32_tolerance):
    model = make_model()
    batch = make_batch(model, [12, 8])
    plain = T5BeamStep(model, *batch).start()
    targets = ["q", "v", "wi", "wo"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, init_lora_weights=False)).eval()
    step = T5BeamStep(adapted.base_model.model, *batch)
    assert not torch.allclose(plain, step.start(), atol=0.1)
    check(adapted, T5BeamStep(adapted.base_model.model, *batch), *batch, float32_tolerance)


def test_hooked_modules_are_called(float32_tolerance):
    """Such as those of sharded or offloaded weights."""
    model = make_model()
    calls = []
    model.decoder.block[0].layer[0].SelfAttention.k.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = make_batch(model, [12, 8])
    check(model, T5BeamStep(model, *batch), *batch, float32_tolerance)
    assert calls


def test_given_encoder_states(float32_tolerance):
    model = make_model()
    input_ids, attention_mask = make_batch(model, [12, 8])
    states = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    step = T5BeamStep(model, None, attention_mask, encoder_states=states)
    expected = T5BeamStep(model, input_ids, attention_mask).start()
    torch.testing.assert_close(step.start(), expected, **float32_tolerance(11, expected))


def test_what_is_kept_for_each_user_and_beam():
    """Keys of the history once per user, keys of a depth once per beam of that depth, and no copies of them."""
    model = make_model()
    step = T5BeamStep(model, *make_batch(model, [12, 8]))
    for _ in walk(step, model.config.vocab_size, 2):
        kept = [[id(tensor) for tensor in layers] for layers in step.prefixes.keys_values]
    assert [tuple(key.shape) for key, _ in step.cross_keys_values] == [(2 * 3, 12, 8)] * 2
    assert [layers[0].shape[:2] for layers in step.prefixes.keys_values] == [(2, width) for width in [1, *WIDTHS]]
    step.advance(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert [[id(tensor) for tensor in layers] for layers in step.prefixes.keys_values[:-1]] == kept


def test_weights_are_read_anew_for_each_search():
    model = make_model()
    batch = make_batch(model, [12, 8])
    before = T5BeamStep(model, *batch).start()
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.v.weight.mul_(2)
    assert not torch.allclose(before, T5BeamStep(model, *batch).start(), atol=0.1)
    shared = FusedT5(model)
    for _ in range(2):
        torch.testing.assert_close(T5BeamStep(shared, *batch).start(), T5BeamStep(model, *batch).start())


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    rows_per_user=st.integers(1, 50),
    rows_per_block=st.sampled_from([1, 60, 2048]),
)
def test_blocks_are_a_partition_of_the_users_that_reads_every_token(lengths, rows_per_user, rows_per_block):
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_recommendation, "ROWS_PER_BLOCK", rows_per_block)
        blocks = user_blocks(mask, rows_per_user)
    assert sorted(torch.cat([users for users, _ in blocks]).tolist()) == list(range(len(lengths)))
    ends = []
    for users, columns in blocks:
        rows = len(users) * max(rows_per_user, 9)
        assert rows <= rows_per_block or len(users) == 1
        assert not mask[users, columns.stop :].any() and columns.stop >= 1
        ends.append(max(1, np.asarray(lengths)[users.numpy()].max()))
    assert ends == sorted(ends)
