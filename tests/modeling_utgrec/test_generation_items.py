"""Constrained beam search against `generate` and against scoring every item of the catalogue one by one."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from modeling_utgrec.configuration_utgrec import UTGRecConfig
from modeling_utgrec.generation_items import ItemLogitsProcessor, T5BeamStep, constrained_beam_search
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


def generate(model, input_ids, attention_mask, trie, num_beams, num_return_sequences):
    """Item rows and scores of the stock beam search under the logits processor, -1 where it found nothing."""
    levels = trie.num_levels
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        logits_processor=LogitsProcessorList([ItemLogitsProcessor(trie)]),
        max_new_tokens=levels,
        min_new_tokens=levels,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
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


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("identifiers", IDENTIFIERS)
@pytest.mark.parametrize(("num_items", "num_beams"), [(100, 4), (100, 15), (9, 15), (60, 2)])
def test_equals_generate(identifiers, num_items, num_beams, seed):
    model = make_model(seed, **identifiers)
    trie = make_trie(model.config, num_items, seed)
    input_ids, attention_mask = make_batch(trie, [5, 2, 4], seed)
    expected_rows, expected_scores = generate(model, input_ids, attention_mask, trie, num_beams, num_beams)
    output = model.recommend(input_ids, attention_mask, trie, num_items=num_beams, num_beams=num_beams)
    torch.testing.assert_close(output.scores, expected_scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.item_rows, expected_rows)
    assert (output.item_rows >= 0).sum() == 3 * min(num_beams, num_items)


def test_spread_of_the_test_models_is_not_trivial():
    """The comparisons of this file would say little if different users got the same items."""
    model = make_model(**IDENTIFIERS[1])
    trie = make_trie(model.config, 100)
    rows = model.recommend(*make_batch(trie, [5, 2, 4]), trie, num_items=5).item_rows
    assert len({tuple(user) for user in rows.tolist()}) == 3


@pytest.mark.parametrize("identifiers", IDENTIFIERS)
def test_wide_beam_equals_scoring_every_item(identifiers):
    model = make_model(**identifiers)
    trie = make_trie(model.config, 40)
    batch = make_batch(trie, [3, 1])
    expected, order = score_every_item(model, *batch, trie).sort(dim=1, descending=True)
    output = model.recommend(*batch, trie, num_items=40, num_beams=40)
    torch.testing.assert_close(output.scores, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.item_rows, order)


@pytest.mark.parametrize("dense_limit", [0, 10**6])
def test_sparse_and_dense_tries_agree_with_scoring(dense_limit):
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 30, dense_limit=dense_limit)
    batch = make_batch(trie, [3, 1])
    expected = score_every_item(model, *batch, trie)
    output = model.recommend(*batch, trie, num_items=30, num_beams=30)
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batching_and_padding_do_not_matter(seed):
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
        torch.testing.assert_close(alone.item_rows[0], together.item_rows[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-5, rtol=0)
    wide = model.recommend(input_ids, attention_mask, trie, num_items=4, num_beams=34, exclude=exclude)
    assert not torch.equal(wide.item_rows[1:], together.item_rows[1:])  # a beam of 4 does miss items here


def test_left_padding_is_masked():
    """Padding tokens are never read; T5's relative positions are the same on either side."""
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 50)
    history, _ = make_batch(trie, [4])
    padded = torch.cat((torch.full((1, 3), 5), history), dim=1)
    mask = torch.cat((torch.zeros(1, 3), torch.ones_like(history)), dim=1)
    expected = model.recommend(history, None, trie)
    output = model.recommend(padded, mask, trie)
    torch.testing.assert_close(output.item_rows, expected.item_rows)
    torch.testing.assert_close(output.scores, expected.scores, atol=1e-5, rtol=0)


def test_excluded_items_are_removed_exactly():
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
    torch.testing.assert_close(output.item_rows, expected_rows)
    torch.testing.assert_close(output.scores, expected_scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_exclusion_leaves_enough_items_with_a_narrow_beam(seed):
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
    torch.testing.assert_close(more.item_rows[:, :8], output.item_rows)


def test_catalogue_smaller_than_asked():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 3, item_ids=["a", "b", "c"])
    output = model.recommend(*make_batch(trie, [2, 1]), trie, num_items=5)
    assert output.item_rows.shape == output.scores.shape == (2, 5)
    assert output.item_rows[:, :3].sort().values.tolist() == [[0, 1, 2]] * 2
    assert (output.item_rows[:, 3:] == -1).all() and (output.scores[:, 3:] == -torch.inf).all()
    assert [sorted(ids) for ids in output.item_ids] == [["a", "b", "c"]] * 2
    assert [trie.item_ids[row] for row in output.item_rows[0, :3]] == output.item_ids[0]


def test_one_item_and_many_levels_of_candidates():
    """Wider than a whole level: num_beams above the number of root codes."""
    model = make_model(root_codebook_size=2, leaf_codebook_size=3)
    trie = make_trie(model.config, 18)
    batch = make_batch(trie, [2, 1])
    expected = score_every_item(model, *batch, trie).sort(dim=1, descending=True)
    output = model.recommend(*batch, trie, num_items=20, num_beams=30)
    torch.testing.assert_close(output.item_rows[:, :18], expected.indices)
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


def test_empty_history_gives_finite_scores():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 20)
    history = torch.zeros(1, 6, dtype=torch.long)
    expected = score_every_item(model, history, history, trie).sort(dim=1, descending=True)
    output = model.recommend(history, None, trie, num_items=20)
    assert output.scores.isfinite().all()
    torch.testing.assert_close(output.scores, expected.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.item_rows, expected.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beam_search_accepts_any_step(dtype):
    """A table of logits as the network: the search knows nothing of T5, and sums in float32 whatever the logits."""

    class TableStep:
        def __init__(self, tables):
            self.tables, self.prefixes = tables, None  # one [vocab]·(t+1) table per level

        def start(self):
            self.prefixes = torch.zeros(1, 1, 0, dtype=torch.long)
            return self.tables[0][None, None]

        def advance(self, tokens, parents):
            kept = self.prefixes.gather(1, parents[..., None].expand(-1, -1, self.prefixes.shape[2]))
            self.prefixes = torch.cat((kept, tokens[..., None]), dim=2)
            return self.tables[self.prefixes.shape[2]][tuple(self.prefixes.unbind(2))]

    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn([8] * (level + 1), generator=generator).to(dtype) for level in range(3)]
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(3))[::2]
    trie = ItemTrie(codes, [3, 3, 3], [2, 5, 5])
    tokens = codes + torch.tensor([2, 5, 5])
    expected = sum(
        tables[level].float().log_softmax(-1)[tuple(tokens[:, : level + 1].unbind(1))] for level in range(3)
    ).sort(descending=True)
    rows, scores = constrained_beam_search(TableStep(tables), trie, num_items=len(codes), num_beams=len(codes))
    torch.testing.assert_close(rows[0], expected.indices)
    torch.testing.assert_close(scores[0], expected.values)


def test_cross_attention_keys_are_not_repeated_over_beams():
    model = make_model(root_codebook_size=6, leaf_codebook_size=8)
    trie = make_trie(model.config, 40)
    step = T5BeamStep(model, *make_batch(trie, [4, 2]))
    with torch.no_grad():
        constrained_beam_search(step, trie, num_items=5, num_beams=10)
    assert [tuple(key.shape) for key, _ in step.cross_keys_values] == [(2, 2, 12, 8)] * 2


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
