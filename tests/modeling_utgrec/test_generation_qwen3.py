"""Steps of the written-out decoder against the model's own forward, and its search against `generate`."""

import numpy as np
import peft
import pytest
import torch
from transformers import LogitsProcessorList

import modeling_utgrec.generation_mixin as item_recommendation
from modeling_utgrec import ItemTrie, RecBaseConfig, RecBaseForCausalLM
from modeling_utgrec.generation_items import ItemLogitsProcessor, generate_items
from modeling_utgrec.generation_qwen3 import DecoderBeamStep, FusedDecoder
from modeling_utgrec.generation_rules import ItemRules

SIZES = [6, 8, 8, 5]
WIDTHS = [4, 7, 5]


def make_model(seed: int = 0, **config) -> RecBaseForCausalLM:
    """A tiny model whose scores spread: initialised as usual, all codes would be nearly as likely."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "initializer_range": 0.3}
    return RecBaseForCausalLM(RecBaseConfig.tiny(**{**sizes, "level_sizes": SIZES, **config})).eval()


def make_trie(config: RecBaseConfig, num_items: int, seed: int = 0, **kwargs) -> ItemTrie:
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(config.level_sizes)), size=num_items, replace=False)
    codes = np.stack(np.unravel_index(flat, config.level_sizes), axis=1)
    return ItemTrie(torch.from_numpy(codes), config.level_sizes, config.level_offsets, **kwargs)


def make_batch(model, lengths: list[int], seed: int = 0, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Histories of the given numbers of items and their mask. Padding is a real token: nothing may read it."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(size, (len(lengths), max(lengths)), generator=generator) for size in config.level_sizes]
    tokens = torch.stack(codes, dim=-1).add(torch.tensor(config.level_offsets)).flatten(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).repeat_interleave(config.num_levels, dim=1)
    if side == "left":
        order = mask.to(torch.uint8).argsort(dim=1, stable=True)
        tokens, mask = tokens.gather(1, order), mask.gather(1, order)
    return tokens.masked_fill(~mask, 5), mask.long()


@torch.no_grad()
def walk(step: DecoderBeamStep, vocab_size: int, users: int, seed: int = 0):
    """Random beams: yields the logits of the step and the prefixes they belong to, `[users, W, T]`."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = torch.zeros(users, 1, 0, dtype=torch.long)
    yield step.start(), prefixes
    for width in WIDTHS:
        parents = torch.randint(0, prefixes.shape[1], (users, width), generator=generator)
        tokens = torch.randint(0, vocab_size, (users, width), generator=generator)
        kept = prefixes.gather(1, parents[..., None].expand(-1, -1, prefixes.shape[2]))
        prefixes = torch.cat((kept, tokens[..., None]), dim=2)
        yield step.advance(tokens, parents), prefixes


@torch.no_grad()
def check(model, step: DecoderBeamStep, input_ids, attention_mask, tolerance):
    """`tolerance` is one, or what makes one from the number of layers and the logits."""
    users = len(input_ids)
    depth = 2 * model.config.num_hidden_layers + 1  # attention and feed-forward of each layer; the head
    for logits, prefixes in walk(step, model.config.vocab_size, users):
        for user in range(users):
            history = input_ids[user, attention_mask[user] != 0].expand(prefixes.shape[1], -1)
            expected = model(torch.cat((history, prefixes[user]), dim=1)).logits[:, -1]
            allowed = tolerance(depth, expected) if callable(tolerance) else tolerance
            torch.testing.assert_close(logits[user], expected.float(), **allowed)  # logits of every type are float32


CONFIGS = {
    "one key head for each": {},
    "key heads shared": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1, "num_hidden_layers": 3},
    "biases": {"attention_bias": True},
    "gelu": {"hidden_act": "gelu"},
    "tied": {"tie_word_embeddings": True},
    "scaled positions": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("lengths", "side"), [([3, 3], "right"), ([4, 1, 2], "right"), ([4, 1, 2], "left")])
def test_logits_equal_the_models_own(config, lengths, side, float32_tolerance):
    model = make_model(**config)
    with torch.no_grad():  # norms and biases that do something
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape) / 4)
    batch = make_batch(model, lengths, side=side)
    check(model, DecoderBeamStep(model, *batch), *batch, float32_tolerance)


def test_with_the_fused_product(monkeypatch, float32_tolerance):
    monkeypatch.setenv("UTGREC_FAST_CPU", "1")
    model = make_model()
    batch = make_batch(model, [3, 2])
    check(model, DecoderBeamStep(model, *batch), *batch, float32_tolerance)


def test_on_another_device():
    """Shapes; nothing waits for a value."""
    model = make_model()
    batch = [tensor.to("meta") for tensor in make_batch(model, [3, 2])]
    model.to("meta")
    step = DecoderBeamStep(model, *batch)
    assert step.start().shape == (2, 1, model.config.vocab_size)
    beams = torch.zeros(2, 5, dtype=torch.long, device="meta")
    for _ in range(3):
        assert step.advance(beams, beams).shape == (2, 5, model.config.vocab_size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = make_model(initializer_range=0.1).to(dtype)
    batch = make_batch(model, [3, 2])
    check(model, DecoderBeamStep(model, *batch), *batch, dict(atol=0.1, rtol=0.05))


def test_adapters_are_not_left_out(float32_tolerance):
    model = make_model()
    batch = make_batch(model, [3, 2])
    plain = DecoderBeamStep(model, *batch).start()
    targets = ["q_proj", "v_proj", "gate_proj", "down_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, init_lora_weights=False)).eval()
    step = DecoderBeamStep(adapted.base_model.model, *batch)
    assert not torch.allclose(plain, step.start(), atol=0.1)
    check(adapted, DecoderBeamStep(adapted.base_model.model, *batch), *batch, float32_tolerance)


def test_hooked_modules_are_called(float32_tolerance):
    """Such as those of sharded or offloaded weights."""
    model = make_model()
    calls = []
    model.model.layers[0].self_attn.k_proj.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = make_batch(model, [3, 2])
    check(model, DecoderBeamStep(model, *batch), *batch, float32_tolerance)
    assert calls


def test_what_is_kept_for_each_user_and_beam():
    """Keys of the history once per user, keys of a depth once per beam of that depth, and no copies of them."""
    model = make_model(num_key_value_heads=2)
    step = DecoderBeamStep(model, *make_batch(model, [3, 2]))
    for _ in walk(step, model.config.vocab_size, 2):
        kept = [[id(tensor) for tensor in layers] for layers in step.prefixes.keys_values]
    assert [tuple(key.shape) for key, _ in step.history] == [(2 * 2, 12, 8)] * 2
    assert [tuple(layers[0].shape) for layers in step.prefixes.keys_values] == [(2, w, 2, 2, 8) for w in WIDTHS]
    step.advance(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert [[id(tensor) for tensor in layers] for layers in step.prefixes.keys_values[:-1]] == kept


def test_the_history_is_read_once(monkeypatch):
    model = make_model()
    read, embed = [], model.model.embed_tokens.forward
    monkeypatch.setattr(model.model.embed_tokens, "forward", lambda ids: read.append(tuple(ids.shape)) or embed(ids))
    trie = make_trie(model.config, 100)
    model.recommend(*make_batch(model, [3, 3]), trie, num_items=7, num_beams=7)
    assert read == [(2, 12), (2, 6), (2, 7), (2, 7)]


def test_no_weight_is_copied_and_changes_are_seen():
    model = make_model()
    fused = FusedDecoder(model)
    assert fused.blocks[0].query.weight.data_ptr() == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    batch = make_batch(model, [3, 2])
    before = DecoderBeamStep(model, *batch).start()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(2)
    assert not torch.allclose(before, DecoderBeamStep(model, *batch).start(), atol=0.1)


# recommend and score_items


@torch.no_grad()
def score_every_item(model, input_ids, attention_mask, trie) -> torch.Tensor:
    """Teacher-forced log-probability of each item for each user, `[B, num_items]`."""
    targets = trie.codes + torch.tensor(trie.level_offsets)
    scores = torch.zeros(len(input_ids), trie.num_items)
    for user in range(len(input_ids)):
        history = input_ids[user, attention_mask[user] != 0]
        tokens = torch.cat((history.expand(trie.num_items, -1), targets), dim=1)
        log_probs = model(tokens).logits[:, len(history) - 1 : -1].float().log_softmax(-1)
        scores[user] = log_probs.gather(-1, targets[..., None]).sum((1, 2))
    return scores


def generate(model, input_ids, attention_mask, trie, num_beams, num_items, **more):
    """Item rows and scores of the stock beam search under the constraint, -1 where it found nothing."""
    length = input_ids.shape[1]
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=num_beams,
        num_return_sequences=num_items,
        min_new_tokens=trie.num_levels,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        logits_processor=LogitsProcessorList([ItemLogitsProcessor(trie, prompt_length=length)]),
        **more,
    )
    codes = output.sequences[:, length:] - torch.tensor(trie.level_offsets)
    nodes = torch.zeros(len(codes), dtype=torch.long)
    for level in range(trie.num_levels):
        nodes = trie.step(level, nodes, codes[:, level])
    found = output.sequences_scores > -1e6  # generate marks what it could not fill with -1e9 or -inf
    rows = nodes.masked_fill(~found, -1).view(len(input_ids), -1)
    return rows, output.sequences_scores.masked_fill(~found, -torch.inf).view(len(input_ids), -1)


IDENTIFIERS = [
    {},
    {"level_sizes": [5, 7]},
    {"level_sizes": [6, 5, 4], "num_key_value_heads": 2},
    {"normalize_over": "items"},
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("identifiers", IDENTIFIERS, ids=str)
@pytest.mark.parametrize(("num_items", "num_beams"), [(30, 4), (30, 15), (9, 15), (1, 3)])
def test_equals_generate(identifiers, num_items, num_beams, seed, assert_same_ranking):
    """Of a batch padded on the right, as the item tokenizer makes it."""
    model = make_model(seed, **identifiers)
    trie = make_trie(model.config, num_items, seed)
    batch = make_batch(model, [5, 2, 4], seed)
    renormalize = {"renormalize_logits": True} if model.config.normalize_over == "items" else {}
    expected_rows, expected_scores = generate(model, *batch, trie, num_beams, num_beams, **renormalize)
    output = model.recommend(*batch, trie, num_items=num_beams, num_beams=num_beams)
    # what a beam drops is 5e-4 and more below what it keeps
    assert_same_ranking(output.item_rows, output.scores, expected_rows, expected_scores)
    assert (output.item_rows >= 0).sum() == 3 * min(num_beams, num_items)


@pytest.mark.parametrize("identifiers", IDENTIFIERS[:3], ids=str)
def test_wide_beam_and_scores_equal_teacher_forcing(identifiers, assert_same_ranking, float32_tolerance):
    model = make_model(**identifiers)
    trie = make_trie(model.config, 30)
    batch = make_batch(model, [3, 1])
    every = score_every_item(model, *batch, trie)
    expected, order = every.sort(dim=1, descending=True)
    output = model.recommend(*batch, trie, num_items=30, num_beams=30)
    assert_same_ranking(output.item_rows, output.scores, order, expected)
    assert len({tuple(user) for user in order[:, :5].tolist()}) == 2, "different users get different items"
    candidates = torch.randint(-1, 30, (2, 11), generator=torch.Generator().manual_seed(0))
    scores = model.score_items(*batch, trie, candidates)
    wanted = every.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)
    torch.testing.assert_close(scores, wanted, **float32_tolerance(5, every))


@pytest.mark.parametrize("rows_per_block", [1, 60, 2048])
@pytest.mark.parametrize("side", ["right", "left"])
def test_batching_and_padding_do_not_matter(monkeypatch, rows_per_block, side, assert_same_ranking):
    monkeypatch.setattr(item_recommendation, "ROWS_PER_BLOCK", rows_per_block)
    model = make_model()
    trie = make_trie(model.config, 100)
    input_ids, attention_mask = make_batch(model, [6, 1, 3], side=side)
    together = model.recommend(input_ids, attention_mask, trie, num_items=5, num_beams=8)
    for user in range(3):
        history = input_ids[user, attention_mask[user] != 0][None]
        alone = model.recommend(history, None, trie, num_items=5, num_beams=8)
        mine = together.item_rows[user, None], together.scores[user, None]
        assert_same_ranking(alone.item_rows, alone.scores, *mine)


def test_rules_and_exclusion(assert_same_ranking):
    model = make_model()
    trie = make_trie(model.config, 60)
    batch = make_batch(model, [2, 5, 1])
    allow = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.5
    seen = torch.tensor([[3, 4], [7, -1], [-1, -1]])
    mask = allow.expand(3, -1).clone()
    mask[0, [3, 4]] = mask[1, 7] = False
    expected = score_every_item(model, *batch, trie).masked_fill(~mask, -torch.inf).topk(5, dim=1)
    output = model.recommend(*batch, trie, num_items=5, num_beams=60, exclude=seen, rules=ItemRules(trie, allow=allow))
    assert_same_ranking(output.item_rows, output.scores, expected.indices, expected.values)


def test_autocast():
    model = make_model(initializer_range=0.1)
    trie = make_trie(model.config, 30)
    batch = make_batch(model, [3, 1])
    expected = score_every_item(model, *batch, trie)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.recommend(*batch, trie, num_items=30, num_beams=30)
    assert output.scores.dtype == torch.float32
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), atol=0.5, rtol=0.05)


@pytest.mark.parametrize("num_items", [100, 3])
def test_custom_generate_equals_generate(num_items, float32_tolerance):
    model = make_model()
    trie = make_trie(model.config, num_items)
    input_ids, attention_mask = make_batch(model, [5, 2, 4])
    expected_rows, expected_scores = generate(model, input_ids, attention_mask, trie, 8, 5)
    output = model.generate(
        input_ids,
        attention_mask=attention_mask,
        num_beams=8,
        num_return_sequences=5,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        custom_generate=generate_items,
        trie=trie,
    )
    found = output.sequences_scores > -torch.inf
    assert found.sum() == 3 * min(num_items, 5)
    scores = expected_scores.flatten()[found]
    torch.testing.assert_close(output.sequences_scores[found], scores, **float32_tolerance(5, scores))
    tokens = trie.codes_of(expected_rows.flatten()) + torch.tensor(trie.level_offsets)
    assert torch.equal(output.sequences[found, 20:], tokens[found])
    # before them the history, which a decoder needs at its end
    assert torch.equal(output.sequences[::5][1, 12:20], input_ids[1, :8])


def test_generate_gives_exactly_one_identifier():
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[1] += 100.0  # end-of-sequence must not end a sequence
    input_ids, attention_mask = make_batch(model, [5, 2])
    for num_beams in (1, 3):
        assert model.generate(input_ids, attention_mask=attention_mask, num_beams=num_beams).shape == (2, 24)
