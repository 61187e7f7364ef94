"""Constrained beam search against `generate` and against scoring every item of the catalogue one by one."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList

import modeling_utgrec.generation_mixin as item_recommendation
from modeling_utgrec.configuration_utgrec import UTGRecConfig
from modeling_utgrec.generation_items import ItemLogitsProcessor, constrained_beam_search, generate_items
from modeling_utgrec.generation_rules import ItemRules
from modeling_utgrec.item_trie import ItemTrie
from modeling_utgrec.modeling_utgrec import UTGRecForConditionalGeneration

TINY = {"d_model": 32, "d_ff": 48, "num_heads": 2, "d_kv": 8, "num_layers": 2}


def make_model(seed: int = 0, **config) -> UTGRecForConditionalGeneration:
    """A tiny model whose scores spread: initialised as T5 is, all codes would be nearly as likely."""
    torch.manual_seed(seed)
    model = UTGRecForConditionalGeneration(UTGRecConfig(**{**TINY, "initializer_factor": 1.5, **config}))
    return model.eval()


def make_trie(config: UTGRecConfig, num_items: int, seed: int = 0, **kwargs) -> ItemTrie:
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(config.level_sizes)), size=num_items, replace=False)
    codes = np.stack(np.unravel_index(flat, config.level_sizes), axis=1)
    return ItemTrie(torch.from_numpy(codes), config.level_sizes, config.level_offsets, **kwargs)


def make_batch(trie: ItemTrie, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories of the given numbers of items, padded on the right with 0."""
    rng = np.random.default_rng(seed)
    offsets = torch.tensor(trie.level_offsets)
    input_ids = torch.zeros(len(lengths), max(lengths) * trie.num_levels, dtype=torch.long)
    for user, length in enumerate(lengths):
        items = torch.from_numpy(rng.integers(0, trie.num_items, size=length))
        input_ids[user, : length * trie.num_levels] = (trie.codes[items] + offsets).flatten()
    return input_ids, (input_ids != 0).long()


@torch.no_grad()
def score_every_item(model, input_ids, attention_mask, trie) -> torch.Tensor:
    """Teacher-forced log-probability of each item for each user, `[B, num_items]`."""
    targets = trie.codes + torch.tensor(trie.level_offsets)
    scores = torch.zeros(len(input_ids), trie.num_items)
    for user in range(len(input_ids)):
        history = input_ids[user : user + 1].expand(trie.num_items, -1)
        mask = attention_mask[user : user + 1].expand(trie.num_items, -1)
        log_probs = model(input_ids=history, attention_mask=mask, labels=targets).logits.float().log_softmax(-1)
        scores[user] = log_probs.gather(-1, targets[..., None]).sum((1, 2))
    return scores


def generate(model, input_ids, attention_mask, trie, num_beams, num_return_sequences, **constraint):
    """Item rows and scores of the stock beam search under a constraint, -1 where it found nothing."""
    levels = trie.num_levels
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        max_new_tokens=levels,
        min_new_tokens=levels,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **constraint,
    )
    scores = output.sequences_scores
    codes = output.sequences[:, 1:] - torch.tensor(trie.level_offsets)
    nodes = torch.zeros(len(codes), dtype=torch.long)
    for level in range(levels):
        nodes = trie.step(level, nodes, codes[:, level])
    found = scores > -1e6  # generate marks what it could not fill with -1e9 or -inf
    rows = nodes.masked_fill(~found, -1).view(len(input_ids), -1)
    return rows, scores.masked_fill(~found, -torch.inf).view(len(input_ids), -1)


IDENTIFIERS = [
    {"num_levels": 2, "root_codebook_size": 12, "leaf_codebook_size": 20},
    {"root_codebook_size": 6, "leaf_codebook_size": 8},
    {"level_sizes": [5, 7, 4]},
    {"num_levels": 4, "root_codebook_size": 4, "leaf_codebook_size": 5, "feed_forward_proj": "gated-gelu"},
    {"root_codebook_size": 6, "leaf_codebook_size": 8, "tie_word_embeddings": False, "initializer_factor": 0.7},
]


def allowed_tokens_function(trie: ItemTrie, prompt_length: int = 1):
    """`prefix_allowed_tokens_fn` of the usual kind: a dictionary of sets."""
    following = {}
    for row in (trie.codes + torch.tensor(trie.level_offsets)).tolist():
        for level, token in enumerate(row):
            following.setdefault(tuple(row[:level]), set()).add(token)
    return lambda batch_id, tokens: sorted(following.get(tuple(tokens[prompt_length:].tolist()), {0}))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("identifiers", IDENTIFIERS)
@pytest.mark.parametrize(("num_items", "num_beams"), [(100, 4), (100, 15), (9, 15), (60, 2), (1, 3)])
def test_equals_generate(identifiers, num_items, num_beams, seed, assert_same_ranking):
    model = make_model(seed, **identifiers)
    trie = make_trie(model.config, num_items, seed)
    input_ids, attention_mask = make_batch(trie, [5, 2, 4], seed)
    constraint = {"prefix_allowed_tokens_fn": allowed_tokens_function(trie)}
    if seed == 1:
        constraint = {"logits_processor": LogitsProcessorList([ItemLogitsProcessor(trie)])}
    expected_rows, expected_scores = generate(
        model, input_ids, attention_mask, trie, num_beams, num_beams, **constraint
    )
    output = model.recommend(input_ids, attention_mask, trie, num_items=num_beams, num_beams=num_beams)
    # what a beam drops is 5e-4 and more below what it keeps
    assert_same_ranking(output.item_rows, output.scores, expected_rows, expected_scores)
    assert (output.item_rows >= 0).sum() == 3 * min(num_beams, num_items)


def test_spread_of_the_test_models_is_not_trivial():
    """The comparisons of this file would say little if different users got the same items."""
    model = make_model(**IDENTIFIERS[1])
    trie = make_trie(model.config, 100)
    rows = model.recommend(*make_batch(trie, [5, 2, 4]), trie, num_items=5).item_rows
    assert len({tuple(user) for user in rows.tolist()}) == 3


@pytest.mark.parametrize("identifiers", IDENTIFIERS)
def test_wide_beam_equals_scoring_every_item(identifiers, assert_same_ranking):
    model = make_model(**identifiers)
    trie = make_trie(model.config, 40)
    batch = make_batch(trie, [3, 1])
    expected, order = score_every_item(model, *batch, trie).sort(dim=1, descending=True)
    output = model.recommend(*batch, trie, num_items=40, num_beams=40)
    assert_same_ranking(output.item_rows, output.scores, order, expected)


@pytest.mark.parametrize("dense_limit", [0, 10**6])
def test_sparse_and_dense_tries_agree_with_scoring(dense_limit, float32_tolerance):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 30, dense_limit=dense_limit)
    batch = make_batch(trie, [3, 1])
    expected = score_every_item(model, *batch, trie)
    output = model.recommend(*batch, trie, num_items=30, num_beams=30)
    allowed = float32_tolerance(12, expected)
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), **allowed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batching_and_padding_do_not_matter(seed, assert_same_ranking):
    model = make_model(seed, root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 100)
    lengths = [6, 1, 3]
    input_ids, attention_mask = make_batch(trie, lengths)
    seen = [list(range(0, 60, 2)), [], [5, 7]]
    exclude = torch.full((3, 30), -1)
    for user, rows in enumerate(seen):
        exclude[user, : len(rows)] = torch.tensor(rows)
    exclude[2, 2:20] = 5  # an item seen often is excluded once
    together = model.recommend(input_ids, attention_mask, trie, num_items=4, num_beams=4, exclude=exclude)
    for user, length in enumerate(lengths):
        history = input_ids[user : user + 1, : 3 * length]
        rows = torch.tensor([seen[user]], dtype=torch.long)
        alone = model.recommend(history, torch.ones_like(history), trie, num_items=4, num_beams=4, exclude=rows)
        mine = together.item_rows[user, None], together.scores[user, None]
        assert_same_ranking(alone.item_rows, alone.scores, *mine)
    wide = model.recommend(input_ids, attention_mask, trie, num_items=4, num_beams=34, exclude=exclude)
    assert not torch.equal(wide.item_rows[1:], together.item_rows[1:])  # a beam of 4 does miss items here


def test_left_padding_is_masked(assert_same_ranking):
    """Padding tokens are never read; T5's relative positions are the same on either side."""
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 50)
    history, _ = make_batch(trie, [4])
    padded = torch.cat((torch.full((1, 3), 5), history), dim=1)
    mask = torch.cat((torch.zeros(1, 3), torch.ones_like(history)), dim=1)
    expected = model.recommend(history, None, trie)
    output = model.recommend(padded, mask, trie)
    assert_same_ranking(output.item_rows, output.scores, expected.item_rows, expected.scores)


def test_excluded_items_are_removed_exactly(assert_same_ranking):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 60)
    batch = make_batch(trie, [5, 2, 4])
    scores = score_every_item(model, *batch, trie)
    best = scores.argsort(dim=1, descending=True)
    exclude = torch.full((3, 9), -1)
    exclude[0] = best[0, :9]  # all of the best
    exclude[1, :2] = best[1, [1, 4]]
    allowed = scores.scatter(1, exclude.clamp(min=0), -torch.inf)
    allowed[1, 0] = scores[1, 0] if 0 not in exclude[1] else -torch.inf  # the padding of the scatter above
    allowed[2] = scores[2]
    output = model.recommend(*batch, trie, num_items=10, num_beams=60, exclude=exclude)
    expected_scores, expected_rows = allowed.topk(10, dim=1)
    assert_same_ranking(output.item_rows, output.scores, expected_rows, expected_scores)


@pytest.mark.parametrize("seed", range(5))
def test_exclusion_leaves_enough_items_with_a_narrow_beam(seed, assert_same_ranking):
    """Prefixes of one item each: every excluded item costs a beam."""
    model = make_model(seed, root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 50, seed)
    batch = make_batch(trie, [5, 2, 4], seed)
    exclude = model.recommend(*batch, trie, num_items=42, num_beams=50).item_rows
    exclude = exclude[:, torch.randperm(42, generator=torch.Generator().manual_seed(seed))]
    output = model.recommend(*batch, trie, num_items=8, num_beams=2, exclude=exclude)
    assert (output.item_rows >= 0).all()
    for user in range(3):
        assert set(output.item_rows[user].tolist()) == set(range(50)) - set(exclude[user].tolist())
    more = model.recommend(*batch, trie, num_items=10, exclude=exclude)
    assert (more.item_rows[:, 8:] == -1).all() and (more.scores[:, 8:] == -torch.inf).all()
    assert_same_ranking(more.item_rows[:, :8], more.scores[:, :8], output.item_rows, output.scores)


def test_catalogue_smaller_than_asked():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 3, item_ids=["a", "b", "c"])
    output = model.recommend(*make_batch(trie, [2, 1]), trie, num_items=5)
    assert output.item_rows.shape == output.scores.shape == (2, 5)
    assert output.item_rows[:, :3].sort().values.tolist() == [[0, 1, 2]] * 2
    assert (output.item_rows[:, 3:] == -1).all() and (output.scores[:, 3:] == -torch.inf).all()
    assert [sorted(ids) for ids in output.item_ids] == [["a", "b", "c"]] * 2
    assert [trie.item_ids[row] for row in output.item_rows[0, :3]] == output.item_ids[0]


def test_one_item_and_many_levels_of_candidates(assert_same_ranking):
    """Wider than a whole level: num_beams above the number of root codes."""
    model = make_model(root_codebook_size=2, leaf_codebook_size=3)
    trie = make_trie(model.config, 18)
    batch = make_batch(trie, [2, 1])
    expected = score_every_item(model, *batch, trie).sort(dim=1, descending=True)
    output = model.recommend(*batch, trie, num_items=20, num_beams=30)
    assert_same_ranking(output.item_rows[:, :18], output.scores[:, :18], expected.indices, expected.values)
    assert (output.item_rows[:, 18:] == -1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 40)
    batch = make_batch(trie, [3, 1])
    expected = score_every_item(model, *batch, trie)
    output = model.to(dtype).recommend(*batch, trie, num_items=40, num_beams=40)
    assert output.scores.dtype == torch.float32
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), atol=1.5, rtol=0.1)
    reference = score_every_item(model, *batch, trie)  # the same rounding, in the model's own forward
    torch.testing.assert_close(output.scores, reference.gather(1, output.item_rows), atol=0.5, rtol=0.05)


def test_autocast():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 40)
    batch = make_batch(trie, [3, 1])
    expected = score_every_item(model, *batch, trie)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.recommend(*batch, trie, num_items=40, num_beams=40)
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), atol=1.5, rtol=0.1)


@pytest.mark.parametrize("score", [False, True])
def test_histories_that_are_no_items_are_refused(score):
    """Each of them would give recommendations without a word; the user and the position are named."""
    model = make_model(root_codebook_size=6, leaf_codebook_size=8, max_history=3)
    trie = make_trie(model.config, 20)
    input_ids, attention_mask = make_batch(trie, [3, 2])
    ask = partial(model.score_items, candidates=torch.zeros(2, 1, dtype=torch.long)) if score else model.recommend
    ask(input_ids, attention_mask, trie)
    nobody = attention_mask.clone()
    nobody[1] = 0
    cut = attention_mask.clone()
    cut[1, 5] = 0
    swapped = input_ids.clone()
    swapped[0, 3] = trie.level_offsets[1]
    longer = torch.cat((input_ids, input_ids[:, :3]), dim=1)
    for ids, mask, message in (
        (input_ids, nobody, "history of user 1 of the batch is empty"),
        (torch.zeros_like(input_ids), None, "history of user 0 of the batch is empty"),
        (input_ids, cut, "history of user 1 of the batch has 5 tokens, which is no multiple of 3"),
        (swapped, attention_mask, r"input_ids\[0, 3\] is 8, which is no code of level 0"),
        (
            longer,
            torch.ones_like(longer),
            "history of user 0 of the batch has 12 tokens, the recommender reads 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ask(ids, mask, trie)


@pytest.mark.parametrize("padding", [(1, 0), (1, 2), (2, 1), (4, 0), (0, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_that_is_no_whole_items_changes_nothing(causal, padding, float32_tolerance):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8, causal_encoder=causal)
    trie = make_trie(model.config, 20)
    batch = make_batch(trie, [3, 2, 1])
    candidates = torch.arange(20).expand(3, -1)
    wanted = model.score_items(*batch, trie, candidates)
    input_ids, mask = (torch.nn.functional.pad(each, padding) for each in batch)
    input_ids[mask == 0] = 9  # never read
    scores = model.score_items(input_ids, mask, trie, candidates)
    torch.testing.assert_close(scores, wanted, **float32_tolerance(12, wanted))
    best = model.recommend(input_ids, mask, trie, num_items=20, num_beams=48).scores
    torch.testing.assert_close(best, wanted.sort(descending=True).values, **float32_tolerance(12, wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beam_search_accepts_any_step(prefix_step, dtype, assert_same_ranking):
    """The search knows nothing of T5, and sums in float32 whatever the logits."""

    class Step(prefix_step):
        def logits(self, prefixes):
            return super().logits(prefixes).to(dtype)

    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(3))[::2]
    trie = ItemTrie(codes, [3, 3, 3], [2, 5, 5])
    step = Step(2, 8)
    expected = torch.zeros(2, len(codes))
    tokens = (codes + torch.tensor([2, 5, 5])).expand(2, -1, -1)
    for level in range(3):
        log_probs = step.logits(tokens[..., :level]).float().log_softmax(-1)
        expected += log_probs.gather(2, tokens[..., level : level + 1]).squeeze(2)
    expected = expected.sort(dim=1, descending=True)
    rows, scores = constrained_beam_search(step, trie, num_items=len(codes), num_beams=len(codes))
    assert_same_ranking(rows, scores, expected.indices, expected.values, depth=3)


class CausalStep:
    """A decoder-only model of transformers as a step, its cache re-ordered as `generate` does."""

    def __init__(self, model, prompts):
        self.model, self.prompts = model, prompts

    def start(self):
        output = self.model(input_ids=self.prompts, use_cache=True)
        self.cache, self.width = output.past_key_values, 1
        return output.logits[:, -1:]

    def advance(self, tokens, parents):
        self.cache.reorder_cache((torch.arange(len(parents))[:, None] * self.width + parents).flatten())
        self.width = parents.shape[1]
        output = self.model(input_ids=tokens.reshape(-1, 1), past_key_values=self.cache, use_cache=True)
        return output.logits.view(*tokens.shape, -1)


@pytest.mark.parametrize(("num_items", "num_beams"), [(40, 6), (4, 6)])
def test_decoder_only_models_equal_generate(num_items, num_beams, float32_tolerance):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=20, num_key_value_heads=1, initializer_range=0.5, pad_token_id=0, **sizes)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    trie = make_trie(UTGRecConfig(level_sizes=[5, 6, 7]), num_items)
    prompts = torch.randint(2, 20, (3, 9))
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        prefix_allowed_tokens_fn=allowed_tokens_function(trie, prompt_length=9),
        max_new_tokens=3,
        min_new_tokens=3,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows, scores = constrained_beam_search(CausalStep(model, prompts), trie, num_beams, num_beams)
    tokens = (trie.codes_of(rows) + torch.tensor(trie.level_offsets)).flatten(0, 1)
    found = rows.flatten() >= 0
    assert found.sum() == 3 * min(num_items, num_beams)
    assert torch.equal(tokens[found], expected.sequences[found, 9:])
    torch.testing.assert_close(
        scores.flatten()[found], expected.sequences_scores[found], **float32_tolerance(5, scores[scores.isfinite()])
    )


# rules and scores through the model (the search itself: test_generation_rules.py, test_generation_mixin.py)


@pytest.mark.parametrize("rows_per_block", [1, 30, 2048])
def test_rules_go_with_their_users_into_blocks(monkeypatch, rows_per_block, assert_same_ranking):
    monkeypatch.setattr(item_recommendation, "ROWS_PER_BLOCK", rows_per_block)
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 60)
    batch = make_batch(trie, [2, 5, 1, 4])
    generator = torch.Generator().manual_seed(0)
    markets = torch.rand(2, 60, generator=generator) < 0.5
    market_of_user = torch.tensor([1, 0, 0, 1])
    seen = torch.randint(-1, 60, (4, 7), generator=generator)
    mask = markets[market_of_user]
    mask[torch.arange(4).repeat_interleave(7)[seen.flatten() >= 0], seen[seen >= 0]] = False
    scores = score_every_item(model, *batch, trie).masked_fill(~mask, -torch.inf)
    expected = scores.topk(5, dim=1)
    rules = ItemRules(trie, allow=markets).select(market_of_user)
    output = model.recommend(*batch, trie, num_items=5, num_beams=60, exclude=seen, rules=rules)
    assert_same_ranking(output.item_rows, output.scores, expected.indices, expected.values)


def test_rules_of_another_trie_or_batch_are_an_error():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 10)
    batch = make_batch(trie, [2, 1])
    grown = trie.add_items([[5, 7, 7]])
    with pytest.raises(ValueError, match="another trie .*num_items=10.*num_items=11"):
        model.recommend(*batch, grown, rules=ItemRules(trie))
    with pytest.raises(ValueError, match="for 3 users, the batch has 2"):
        model.recommend(*batch, trie, rules=ItemRules(trie, deny=torch.tensor([[0], [1], [2]])))
    with pytest.raises(ValueError, match="for 2 users, the batch has 4"):
        twice = [each.repeat(2, 1) for each in batch]
        model.recommend(*twice, trie, rules=ItemRules(trie, deny=torch.tensor([[0], [1]])))


@pytest.mark.parametrize("rows_per_block", [1, 2048])
def test_scores_of_candidates(monkeypatch, rows_per_block, float32_tolerance):
    monkeypatch.setattr(item_recommendation, "ROWS_PER_BLOCK", rows_per_block)
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 40)
    batch = make_batch(trie, [3, 1, 5])
    every = score_every_item(model, *batch, trie)
    candidates = torch.randint(-1, 40, (3, 15), generator=torch.Generator().manual_seed(0))
    expected = every.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)
    scores = model.train().score_items(*batch, trie, candidates)
    torch.testing.assert_close(scores, expected, **float32_tolerance(12, every))
    levels = model.score_items(*batch, trie, candidates, per_level=True)
    assert levels.shape == (3, 15, model.config.num_levels)
    torch.testing.assert_close(levels.sum(2), scores, **float32_tolerance(12, every))
    assert model.training and model.score_items(*batch, trie, candidates[:, :0]).shape == (3, 0)
    assert model.score_items(*batch, trie, candidates[:, :0], per_level=True).shape == (3, 0, 3)
    with pytest.raises(ValueError, match=r"candidates\[0, 1\] is 40"):
        model.score_items(*batch, trie, torch.tensor([[0, 40]]).expand(3, -1))
    with pytest.raises(ValueError, match=r"candidates must have shape \(3, num_candidates\), got \(2, 15\)"):
        model.score_items(*batch, trie, candidates[:2])


# adapters for `generate`


@pytest.mark.parametrize("num_items", [100, 3])
def test_custom_generate_equals_generate(num_items, float32_tolerance):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, num_items)
    input_ids, attention_mask = make_batch(trie, [5, 2, 4])
    arguments = {"input_ids": input_ids, "attention_mask": attention_mask, "num_beams": 8, "num_return_sequences": 5}
    arguments |= {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.5}
    expected = model.generate(
        **arguments, logits_processor=LogitsProcessorList([ItemLogitsProcessor(trie)]), min_new_tokens=3
    )
    output = model.generate(**arguments, custom_generate=generate_items, trie=trie)
    found = output.sequences_scores > -torch.inf
    assert found.sum() == 3 * min(num_items, 5)
    assert torch.equal(output.sequences[found], expected.sequences[found])
    assert (output.sequences[~found, 1:] == 0).all()
    scores = expected.sequences_scores[found]
    torch.testing.assert_close(output.sequences_scores[found], scores, **float32_tolerance(12, scores))


def test_custom_generate_takes_rules_and_refuses_what_it_would_ignore():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 50)
    batch = make_batch(trie, [4, 2])
    exclude = model.recommend(*batch, trie, num_items=3).item_rows
    arguments = {"input_ids": batch[0], "num_beams": 50, "num_return_sequences": 4, "trie": trie}
    sequences = model.generate(**arguments, attention_mask=batch[1], custom_generate=generate_items, exclude=exclude)
    expected = model.recommend(*batch, trie, num_items=4, exclude=exclude).item_rows
    tokens = trie.codes_of(expected) + torch.tensor(trie.level_offsets)
    assert torch.equal(sequences.view(2, 4, 4)[..., 1:], tokens)
    with pytest.raises(ValueError, match="neither do_sample nor .*RepetitionPenalty"):
        model.generate(**arguments, custom_generate=generate_items, repetition_penalty=1.2)


def test_logits_processor_masks():
    trie = ItemTrie(torch.tensor([[0, 1], [0, 2], [2, 0]]), [3, 4], [2, 5])
    processor = ItemLogitsProcessor(trie)
    scores = torch.arange(9.0)[None]

    def left(*tokens):
        masked = processor(torch.tensor([[0, *tokens]]), scores)
        assert torch.equal(masked[masked > -torch.inf], scores[masked > -torch.inf])
        return (masked[0] > -torch.inf).nonzero().flatten().tolist()

    assert left() == [2, 4]
    assert left(2) == [6, 7]
    assert left(4) == [5]
    assert left(3) == [0, 1]  # no item starts with this code
    assert left(7) == [0, 1]  # not even a code of this level
    assert left(2, 6) == [0, 1]  # a whole identifier
    assert left(2, 6, 0) == [0, 1]
    batch = processor(torch.tensor([[0, 2], [0, 3]]), scores.expand(2, -1))
    assert (batch > -torch.inf).nonzero().tolist() == [[0, 6], [0, 7], [1, 0], [1, 1]]
    prompted = ItemLogitsProcessor(trie, prompt_length=3)(torch.tensor([[1, 7, 8, 4]]), scores)
    assert (prompted[0] > -torch.inf).nonzero().flatten().tolist() == [5]
