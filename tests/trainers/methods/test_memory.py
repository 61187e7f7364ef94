"""Item memories: built as the linear ranker's, updated to the last bit, extended to new items."""

import numpy as np
import pytest
import torch

from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items import ItemIndex
from tokenization_items.item_memory import StoredMemory
from trainers.data.interactions import Interactions
from trainers.methods.log_counts import recent_counts
from trainers.methods.memory import (
    add_interactions,
    build_memory,
    content_memory,
    follow_index,
    for_index,
    rebuild_memory,
)
from trainers.methods.pair_counts import PairCounts
from trainers.rankers.item_memory import MemoryRanker
from trainers.rankers.linear import LinearRanker, LinearSettings, decayed_counts, transition_matrix

from .walks import IDS, LEVELS, N, make_content, make_interactions, make_ranker


@pytest.mark.parametrize("way", ["inverse", "counts"])
@pytest.mark.parametrize(("evidence", "repeats"), [(0.0, 0.0), (10.0, 0.3), (10.0, -10.0)])
def test_with_weight_1_the_search_ranks_as_the_linear_ranker(way, evidence, repeats):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(transitions=way, content_weight=0.1, evidence=evidence, repeat_weight=repeats)
    training = interactions.training_part()
    stored = build_memory(training, content, linear, row_items=N)
    transitions = transition_matrix(training, linear)
    transitions = transitions if isinstance(transitions, np.ndarray) else transitions.toarray()
    ranker = make_ranker(num_beams=N)
    ranker.memory = stored.memory.with_settings(mixing_weight=1.0)
    expected = LinearRanker(training, content, linear, transitions)
    histories = interactions.cases("test").histories()
    scores = torch.zeros(len(histories), N, dtype=torch.float64)
    users = expected.scorer.encode(histories)
    scores[:] = expected.scorer.scores(users, slice(0, N))
    ranked = torch.from_numpy(ranker.rank(histories, 10))
    # both round: float32 products there, float16 rows here
    torch.testing.assert_close(scores.gather(1, ranked), scores.topk(10, dim=1).values, atol=2e-3, rtol=0)
    assert (ranked[:, 0].numpy() == expected.rank(histories, 1)[:, 0]).mean() > 0.95


def test_rows_are_of_the_largest_magnitude():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, N)).astype(np.float32)
    stored = build_memory(make_interactions(), linear=LinearSettings(), row_items=4, transitions=matrix)
    items, weights = stored.memory.transition_items, stored.memory.transition_weights
    for row in range(N):
        assert sorted(items[row].tolist()) == sorted(np.argsort(-np.abs(matrix[row]))[:4].tolist())
        np.testing.assert_allclose(weights[row], matrix[row, items[row]], rtol=1e-3)
    assert stored.facts["row_items"] == 4
    # cut once, by the memory: what a linear ranker would keep of a row plays no part
    training = make_interactions().training_part()
    cut, whole = (build_memory(training, linear=LinearSettings(row_items=each), row_items=5) for each in (2, None))
    assert torch.equal(cut.memory.transition_items, whole.memory.transition_items)


def test_a_memory_of_no_interactions_ranks_by_content_alone():
    content, mixed = make_content(), MemorySettings(content_weight=0.3, evidence=4.0, mixing_weight=1.0)
    ranker = MemoryRanker(content_memory(content, mixed))
    histories = make_interactions().cases("test").histories(0, 20)
    unit = content - content.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = ranker.rank(histories, 10)
    for history, rows in zip(histories, found, strict=True):
        recent = history[::-1][:20]
        cosines = (1 / np.arange(1, len(recent) + 1)) @ (unit[recent] @ unit.T)
        expected = np.argsort(-cosines)[:10]
        positive = cosines[expected] > 1e-6  # what is like nothing of the history is not remembered
        np.testing.assert_allclose(cosines[rows][positive], cosines[expected][positive], atol=5e-3)


def test_counts_are_those_of_the_linear_ranker():
    training = make_interactions().training_part()
    settings = LinearSettings(transitions="counts", dtype="float64")
    found = PairCounts.of(training, settings.horizon).transitions().toarray()
    np.testing.assert_allclose(found, decayed_counts(training, settings).toarray(), atol=1e-7)


def test_updates_of_counts_are_a_rebuild_to_the_last_bit():
    whole = make_interactions().training_part()
    linear = LinearSettings(transitions="counts", content_weight=0.1)
    content = make_content()
    brands = np.arange(N) % 4 - 1
    expected = build_memory(whole, content, linear, brands=brands)
    rng = np.random.default_rng(1)
    known = (whole.lengths * rng.random(whole.num_users)).astype(np.int64)
    known[:5] = 0
    sequences = [[IDS[row] for row in whole.sequence(user)] for user in range(whole.num_users)]
    first = Interactions.from_sequences([each[:cut] for each, cut in zip(sequences, known, strict=True)], IDS)
    grown = add_interactions(build_memory(first, content, linear, brands=brands), whole, known)
    for mine, theirs in ((grown.memory.tensors(), expected.memory.tensors()), (grown.pairs, expected.pairs)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert grown.facts["interactions"] == expected.facts["interactions"]
    # sequences of their own
    half = whole.select_users(np.arange(20)), whole.select_users(np.arange(20, whole.num_users))
    grown = add_interactions(build_memory(half[0], content, linear, brands=brands), half[1])
    assert grown.memory.tensors().keys() == expected.memory.tensors().keys()
    assert all(torch.equal(tensor, expected.memory.tensors()[name]) for name, tensor in grown.memory.tensors().items())
    assert grown.facts == expected.facts


def test_exact_counts_have_a_horizon_that_their_unit_fits():
    training = make_interactions().training_part()
    assert PairCounts.of(training, 20).matrix.nnz
    with pytest.raises(ValueError, match="horizon of at most 20 items, got 21"):
        PairCounts.of(training, 21)


def test_latest_interactions_are_counted_from_the_end():
    training = Interactions.from_sequences([["i0", "i1", "i2", "i3"], ["i2"], ["i3", "i3"]], IDS)
    found = recent_counts(training, training.lengths)
    assert found[:5].tolist() == [0, 2, 3 + 6, 6 + 3 + 6, 0]
    assert recent_counts(training, np.array([2, 0, 1]))[:5].tolist() == [3, 6, 0, 6, 0]


def test_counted_memories_have_no_periods():
    interactions = make_interactions()
    assert build_memory(interactions, None, LinearSettings(transitions="counts")).memory.periods is None
    assert build_memory(interactions).memory.periods is not None


def test_updates_that_cannot_be_are_refused():
    interactions = make_interactions()
    counted = build_memory(interactions, None, LinearSettings(transitions="counts"))
    with pytest.raises(ValueError, match="closed form"):
        add_interactions(build_memory(interactions), interactions)
    with pytest.raises(ValueError, match="known must be a number for each user"):
        add_interactions(counted, interactions, np.zeros(3, int))
    with pytest.raises(ValueError, match="known must be"):
        add_interactions(counted, interactions, interactions.lengths + 1)
    with pytest.raises(ValueError, match="known must be"):
        add_interactions(counted, interactions, np.full(interactions.num_users, -1))
    with pytest.raises(ValueError, match="of 30 items, the interactions of 31"):
        add_interactions(counted, Interactions.from_sequences([IDS], [*IDS, "new"]))


def test_what_cannot_be_built_is_refused():
    nothing = Interactions.from_sequences([["i0", "i1"]], IDS).training_part()
    with pytest.raises(ValueError, match="no interactions"):
        build_memory(nothing)
    with pytest.raises(ValueError, match="there is no content"):
        build_memory(make_interactions(), settings=MemorySettings(content_weight=0.1))
    with pytest.raises(ValueError, match="content embeddings of 30 items"):
        build_memory(make_interactions(), make_content()[:-1])
    with pytest.raises(ValueError, match="not finite"):
        build_memory(make_interactions(), np.full((N, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="row_items"):
        build_memory(make_interactions(), row_items=0)


def test_a_long_search_for_similar_items_is_announced(caplog, monkeypatch):
    training = make_interactions().training_part()
    build_memory(training, make_content())
    assert not caplog.records
    monkeypatch.setattr("trainers.methods.similar_items.MANY_COSINES", 1)
    build_memory(training, make_content())
    assert "similar items: 0.0 billion cosines" in caplog.text


def test_more_pairs_than_are_kept_make_the_same_memory_that_is_not_added_to(caplog, monkeypatch):
    training, linear = make_interactions().training_part(), LinearSettings(transitions="counts")
    usual = build_memory(training, make_content(), linear, row_items=3)
    monkeypatch.setattr("trainers.methods.memory.MOST_PAIRS", 1)
    stored = build_memory(training, make_content(), linear, row_items=3)
    assert "an update counts all interactions anew" in caplog.text
    assert stored.pairs is None and stored.facts == usual.facts
    found, expected = stored.memory.tensors(), usual.memory.tensors()
    weights = found.pop("transition_weights"), expected.pop("transition_weights")
    torch.testing.assert_close(*weights, rtol=1e-3, atol=0)  # of sums in another order, rounded to half
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(ValueError, match="counts of more pairs than are kept"):
        add_interactions(stored, training)


def test_order_of_an_index():
    interactions = make_interactions()
    stored = build_memory(interactions, make_content(), LinearSettings(transitions="counts"))
    index = ItemIndex([4, 5, 6], [2, 6, 11])
    codes = np.stack(np.unravel_index(np.arange(N + 1), LEVELS), axis=1)
    index.assign(["unknown", *reversed(IDS)], codes)
    moved = for_index(stored, IDS, index)
    assert moved.memory.num_items == N + 1
    assert (moved.memory.transition_items[0] == -1).all() and moved.memory.counts[0] == 0
    rows = torch.from_numpy(index.rows(IDS))
    back = moved.memory.select(rows)
    assert all(torch.equal(tensor, stored.memory.tensors()[name]) for name, tensor in back.tensors().items())
    matrix = PairCounts.of_tensors(moved.pairs).matrix.toarray()
    assert (matrix[np.ix_(rows, rows)] == PairCounts.of_tensors(stored.pairs).matrix.toarray()).all()
    assert matrix[0].sum() == 0
    assert for_index(stored, IDS, _index(IDS)) is stored


def _index(ids: list[str]) -> ItemIndex:
    index = ItemIndex(LEVELS, [2, 6, 11])
    index.assign(ids, np.stack(np.unravel_index(np.arange(len(ids)), LEVELS), axis=1))
    return index


@pytest.mark.parametrize("way", ["inverse", "counts"])
def test_a_memory_built_anew_is_made_and_read_as_the_one_before(way):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(way, regularization=3.0, horizon=2, content_weight=0.05, evidence=4.0)
    before = build_memory(interactions.training_part(), content, linear, None, 5, 4)
    before.memory = before.memory.with_settings(temperature=0.5)
    before.facts |= {"selection": "told before", "part": "training"}
    expected = build_memory(interactions, content, linear, before.memory.settings, 5, 4)
    found = rebuild_memory(before, interactions, content, "all")
    given = rebuild_memory(before, interactions, content, "all", before.memory.content)
    for each in (found, given):
        assert each.facts == expected.facts | {"selection": "told before", "part": "all"}
        assert each.memory.settings == before.memory.settings
        for name, tensor in expected.memory.tensors().items():
            assert torch.equal(each.memory.tensors()[name], tensor), name
    assert given.memory.content.vectors is before.memory.content.vectors


@pytest.mark.parametrize("way", ["inverse", "counts"])
def test_a_memory_follows_its_index(way, tmp_path):
    interactions, content = make_interactions(), make_content()
    linear = LinearSettings(transitions=way, content_weight=0.1)
    stored = build_memory(interactions, content, linear, row_items=N, similar_items=N)
    index = ItemIndex(LEVELS, [2, 6, 11])
    codes = np.stack(np.unravel_index(np.arange(N), LEVELS), axis=1)
    index.assign(IDS, codes)
    index.remove(["i3", "i10"])
    index.assign(["new", "newer"], np.stack(np.unravel_index(np.arange(N, N + 2), LEVELS), axis=1))
    kept = [row for row in range(N) if row not in (3, 10)]
    new_content = np.random.default_rng(5).normal(size=(2, 8)).astype(np.float32)
    for vectors in (new_content, None):
        followed = follow_index(stored, IDS, index, vectors).memory
        assert followed.num_items == N and not followed.counts[-2:].any()

        def rows(memory, ids):
            """What follows what, by the items' ids."""
            return {
                (ids[row], ids[item]): weight
                for row, (items, weights) in enumerate(
                    zip(memory.transition_items.tolist(), memory.transition_weights.tolist(), strict=True)
                )
                for item, weight in zip(items, weights, strict=True)
                if item >= 0
            }

        before = {pair: value for pair, value in rows(stored.memory, IDS).items() if not {*pair} & {"i3", "i10"}}
        assert rows(followed, index.item_ids) == before
        assert torch.equal(followed.content.vectors[:-2], stored.memory.content.vectors[kept])
        assert bool(followed.content.vectors[-2:].any()) == (vectors is not None)
        # a restart changes nothing
        StoredMemory(followed).save(tmp_path, index)
        read = StoredMemory.load(tmp_path, index).memory
        assert torch.equal(read.trend, followed.trend) and read.brands is None
        assert read.usual_count == pytest.approx(followed.usual_count, rel=1e-14)
    makers = np.arange(N) % 4 - 1
    known = build_memory(interactions, content, linear, brands=makers)
    for given, added in ((np.array([2, 7]), [2, 7]), (None, [-1, -1])):
        found = follow_index(known, IDS, index, new_content, given).memory
        assert found.brands.tolist() == [*makers[kept].tolist(), *added]
    # what became another, beside what was added and what went; i0 has the content of i5 now, and the brand of i1
    both = np.concatenate([new_content, content[[5]]])
    found = follow_index(known, IDS, index, both, np.array([2, 7, makers[1]]), ["i0"]).memory
    assert found.brands.tolist() == [makers[1], *makers[kept][1:].tolist(), 2, 7]
    places = dict(zip(index.item_ids, range(N), strict=True))
    torch.testing.assert_close(found.content.vectors[places["i0"]], found.content.vectors[places["i5"]])
    assert {places["i0"], places["i5"]} <= {*found.content.similar_items[places["i0"]].tolist()}
    plain = follow_index(known, IDS, index, new_content, np.array([2, 7])).memory
    assert torch.equal(found.content.vectors[1:], plain.content.vectors[1:])
    assert torch.equal(found.transition_items, plain.transition_items)
    untold = follow_index(known, IDS, index, None, None, ["i0"]).memory  # nothing is known of it but what was
    assert torch.equal(untold.content.vectors[0], known.memory.content.vectors[0]) and untold.brands[0] == makers[0]
    pairs = follow_index(stored, IDS, index, new_content).pairs
    if way == "counts":
        expected = np.zeros((N, N), np.int64)
        expected[: N - 2, : N - 2] = PairCounts.of_tensors(stored.pairs).matrix.toarray()[np.ix_(kept, kept)]
        np.testing.assert_array_equal(PairCounts.of_tensors(pairs).matrix.toarray(), expected)
    else:
        assert pairs is None
    bare = build_memory(interactions, None, LinearSettings(transitions=way), row_items=N)
    assert (follow_index(bare, IDS, index).memory.periods is None) == (way == "counts")
    if way == "inverse":  # what is new is of the last period, whether there is content or not
        periods, rates = follow_index(bare, IDS, index).memory.periods
        assert periods[-2:].tolist() == [len(rates) - 1] * 2
