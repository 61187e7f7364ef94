"""Item memory: what it takes, parts and further items of a catalogue."""

import numpy as np
import pytest
import torch

from modeling_utgrec.item_memory import ItemMemory, MemoryPeriods
from modeling_utgrec.memory_content import (
    MemoryContent,
    most_alike,
    nearest_items,
    principal_directions,
    unit_content,
)
from modeling_utgrec.memory_settings import MemorySettings

N, K, E = 12, 4, 5


def embeddings(n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, E, generator=torch.Generator().manual_seed(seed)) + 1


def arguments(n: int = N, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    content = embeddings(n, seed)
    mean = content.mean(0)
    unit = unit_content(content, n, mean)
    projection = principal_directions(unit)
    return {
        "transition_items": torch.from_numpy(np.stack([rng.choice(n, K, replace=False) for _ in range(n)])),
        "transition_weights": torch.from_numpy(rng.random((n, K))),
        "counts": torch.from_numpy(rng.integers(0, 9, n)),
        "settings": MemorySettings(content_weight=0.1, trend_weight=0.02, period_weight=0.01, brand_weight=0.03),
        "content": MemoryContent(nearest_items(unit, unit, K)[0], unit @ projection, mean, projection),
        "recent": torch.from_numpy(rng.integers(0, 30, n)),
        "periods": MemoryPeriods(torch.from_numpy(rng.integers(-1, 3, n)), torch.from_numpy(rng.normal(size=(3, 3)))),
        "brands": torch.from_numpy(rng.integers(-1, 4, n)),
    }


def dense(items: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(len(items), len(items) + 1)
    return matrix.scatter_(1, items.long() % (len(items) + 1), weights.float())[:, :-1]


def test_tensors_are_small():
    memory = ItemMemory(**arguments())
    assert memory.nbytes == N * (K * (4 + 2) + K * 4 + E * 2 + 2 * 4 + 1 + 8) + 4 * E * (1 + E) + 4 * 3 * 3
    assert {name: tensor.dtype for name, tensor in memory.tensors().items()} == {
        "transition_items": torch.int32,
        "transition_weights": torch.float16,
        "counts": torch.int32,
        "similar_items": torch.int32,
        "content": torch.float16,
        "content_mean": torch.float32,
        "content_projection": torch.float32,
        "recent": torch.int32,
        "periods": torch.int8,
        "period_rates": torch.float32,
        "brands": torch.int64,
    }
    assert memory.to("cpu") is memory


def test_a_copy_on_another_device_has_its_trend_there():
    memory = ItemMemory(**arguments())
    moved = memory.to("meta")
    assert {each.device.type for each in (*moved.tensors().values(), moved.trend, moved.brand_sizes)} == {"meta"}
    assert memory.trend.device.type == "cpu"


def test_weights_of_no_item_are_nothing():
    values = arguments()
    values["transition_items"][3, 1] = -1
    weights = ItemMemory(**values).transition_weights
    assert weights[3, 1] == 0 and (weights[3, [0, 2, 3]] > 0).all()


def test_a_memory_is_silent_only_if_no_user_gets_any():
    memory = ItemMemory(**arguments())
    assert memory.with_settings(mixing_weight=0).is_silent
    assert not memory.with_settings(mixing_weight=0.1).is_silent
    assert not memory.with_settings(mixing_weight=0, gate=(1.0, 0.0, 0.0, 0.0)).is_silent


def test_the_trend_is_the_share_among_the_latest_to_that_among_all():
    counts, recent = torch.zeros(N).int(), torch.zeros(N).int()
    counts[:3], recent[:3] = torch.tensor([10, 0, 30]), torch.tensor([12, 0, 12])
    trend = ItemMemory(**arguments() | {"counts": counts, "recent": recent}).trend
    expected = [np.log((20 + 5) / (10 + 5)), 0.0, np.log((20 + 5) / (30 + 5))]  # half of the latest each, of 40
    np.testing.assert_allclose(trend[:3], expected, rtol=1e-6)
    assert not trend[3:].any()
    assert not ItemMemory(**arguments() | {"counts": counts * 0, "recent": recent * 0}).trend.any()


def test_selected_items_keep_what_is_among_them():
    memory = ItemMemory(**arguments())
    rows = torch.tensor([7, 2, -1, 11, 0])
    selected = memory.select(rows)
    assert selected.num_items == 5 and selected.settings == memory.settings
    known = torch.tensor([0, 1, 3, 4])
    rows_of = [
        lambda each: (each.transition_items, each.transition_weights),
        lambda each: (each.content.similar_items, (each.content.similar_items >= 0).float()),
    ]
    for items_and_weights in rows_of:
        whole, part = (dense(*items_and_weights(each)) for each in (memory, selected))
        expected = torch.zeros(5, 5)
        expected[known[:, None], known] = whole[rows[known]][:, rows[known]]
        assert torch.equal(part, expected)
    assert (selected.transition_weights[selected.transition_items < 0] == 0).all()
    assert torch.equal(selected.content.vectors[known], memory.content.vectors[rows[known]])
    assert not selected.content.vectors[2].any()
    assert selected.counts.tolist() == [int(memory.counts[row]) if row >= 0 else 0 for row in rows.tolist()]
    assert selected.recent.tolist() == [int(memory.recent[row]) if row >= 0 else 0 for row in rows.tolist()]
    # trend and discount are of the items that are there, as when they are read from a file
    read = ItemMemory(selected.transition_items, selected.transition_weights, selected.counts, recent=selected.recent)
    assert torch.equal(selected.trend, read.trend) and selected.usual_count == read.usual_count
    assert (selected.trend[known] != memory.trend[rows[known]]).all() and not selected.trend[2].any()
    counts = memory.counts.double().numpy()
    assert memory.usual_count == pytest.approx(np.exp((counts * np.log(counts + 1)).sum() / counts.sum()))
    grown = selected.extend(1, torch.cat((embeddings()[rows], embeddings(1, seed=1))))
    assert grown.trend.tolist() == [*selected.trend.tolist(), 0.0] and grown.recent.tolist()[-1] == 0
    periods = [int(memory.periods.periods[row]) if row >= 0 else -1 for row in rows.tolist()]
    assert selected.periods.periods.tolist() == periods
    assert grown.periods.periods.tolist() == [*periods, 2], "what is added is of the last period"
    assert torch.equal(grown.periods.period_rates, memory.periods.period_rates)
    brands = [int(memory.brands[row]) if row >= 0 else -1 for row in rows.tolist()]
    assert selected.brands.tolist() == brands and grown.brands.tolist() == [*brands, -1]
    both = selected.extend(2, torch.cat((embeddings()[rows], embeddings(2, seed=1))), torch.tensor([7, brands[0]]))
    assert both.brands.tolist() == [*brands, 7, brands[0]]
    for each in (memory, selected, grown, both):  # how rare a brand is, is of the items that are there
        listed = each.brands.tolist()
        assert each.brand_sizes.tolist() == [listed.count(brand) * (brand >= 0) for brand in listed]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    back = memory.select(order).select(order.argsort())
    assert all(torch.equal(tensor, back.tensors()[name]) for name, tensor in memory.tensors().items())


def test_added_items_are_neighbours_both_ways(monkeypatch):
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 20)
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 20)
    memory, content = ItemMemory(**arguments()), torch.cat((embeddings(), embeddings(3, seed=1)))
    grown = memory.extend(3, content)
    unit = unit_content(content, N + 3, memory.content.mean)
    cosines = unit @ unit.T
    nearest = cosines.topk(K, dim=1).indices
    assert torch.equal(grown.content.similar_items.sort(1).values, nearest.sort(1).values.int())
    vectors = grown.content.vectors.float()
    torch.testing.assert_close(vectors @ vectors.T, cosines, atol=2e-3, rtol=0)  # float16
    assert torch.equal(grown.content.vectors[:N], memory.content.vectors)
    assert (grown.content.similar_items[:N] >= N).any(), "some old item has a new neighbour"
    assert torch.equal(grown.transition_items[:N], memory.transition_items)
    assert (grown.transition_items[N:] == -1).all() and (grown.counts[N:] == 0).all()
    assert all(map(torch.equal, memory.content, ItemMemory(**arguments()).content)), "the old one is as it was"
    assert memory.extend(0, content[:N]).num_items == N


def test_rows_that_are_not_full_take_new_items():
    values = arguments()
    values["content"].similar_items[:, 1:] = -1  # each knows itself alone
    content = torch.cat((embeddings(), embeddings(1, seed=1)))
    grown = ItemMemory(**values).extend(1, content)
    assert torch.equal((grown.content.similar_items[:N] >= 0).sum(1), torch.full((N,), 2))
    assert grown.content.vectors.isfinite().all() and len(grown.content.vectors) == N + 1


def test_adding_items_needs_their_content():
    memory = ItemMemory(**arguments())
    with pytest.raises(ValueError, match="content embeddings of all items are needed"):
        memory.extend(1)
    with pytest.raises(ValueError, match="another encoder"):
        memory.extend(1, torch.zeros(N + 1, E + 1))
    with pytest.raises(ValueError, match="of 13 items"):
        memory.extend(1, torch.zeros(N, E))
    with pytest.raises(ValueError, match="not finite, such as row 2"):
        memory.extend(1, embeddings(N + 1).index_fill(0, torch.tensor([2]), torch.nan))
    plain = {name: value for name, value in arguments().items() if name.startswith("transition") or name == "counts"}
    bare = ItemMemory(**plain)
    assert bare.extend(2).num_items == N + 2
    with pytest.raises(ValueError, match="built without content"):
        bare.extend(1, embeddings(N + 1))


def test_content_of_another_encoder_is_told_by_what_is_kept():
    memory, new = ItemMemory(**arguments()), embeddings(1, seed=1)
    with pytest.raises(ValueError, match="they are of another encoder, or of items in another order"):
        memory.extend(1, torch.cat((embeddings(seed=2), new)))
    with pytest.raises(ValueError, match="another encoder"):
        memory.extend(1, torch.cat((embeddings().roll(1, 0), new)))
    few = embeddings().index_copy(0, torch.tensor([3]), new)  # one text was changed since
    assert memory.extend(1, torch.cat((few, new))).num_items == N + 1
    partly = memory.select(torch.tensor([0, 1, 2, 3, 4, *[-1] * (N - 5)]))  # nothing is kept of most items
    with pytest.raises(ValueError, match="another encoder"):
        partly.extend(1, torch.cat((embeddings(seed=2), new)))
    assert partly.extend(1, torch.cat((embeddings(), new))).num_items == N + 1
    assert memory.extend(1, torch.cat((embeddings() + 1e-3, new))).num_items == N + 1, "as rounding moves them"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.tensor([0, N]), rf"rows must be those of the {N} items or -1, got \[{N}\]"),
        (torch.tensor([-2, 1]), r"or -1, got \[-2\]"),
        (torch.tensor([3, 1, 3]), r"each item once, got \[3\] more often"),
        (torch.tensor([0.0, 1.0]), "whole numbers of shape"),
        (torch.tensor([[0, 1]]), r"shape \(num_selected,\), got torch.int64 \(1, 2\)"),
        (torch.tensor([], dtype=torch.long), "whole numbers of shape"),
    ],
)
def test_rows_that_are_no_items_are_not_selected(rows, said):
    memory = ItemMemory(**arguments())
    with pytest.raises(ValueError, match=said):
        memory.select(rows)
    assert memory.select(torch.tensor([-1, 0, -1])).num_items == 3, "what is unknown may be many times"


@pytest.mark.parametrize("kept", [K, N])
@pytest.mark.parametrize("rows", [[7], [2, 11, 0], list(range(N))])
def test_items_that_became_others_are_where_they_belong(kept, rows, monkeypatch):
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", 20)
    values = arguments()
    unit = unit_content(embeddings(), N, values["content"].mean)
    before = nearest_items(unit, unit, kept)[0]
    memory = ItemMemory(**values | {"content": values["content"]._replace(similar_items=before)})
    at, others = torch.tensor(rows), embeddings(len(rows), seed=3)
    renewed = memory.renew(at, others, torch.arange(len(rows)) - 1)
    now = unit.clone()
    now[at] = unit_content(others, len(rows), memory.content.mean)
    cosines = now @ now.T
    for row in range(N):
        # the exact neighbours of those that changed; of the others among what they had and what changed
        candidates = range(N) if row in rows else {*before[row].tolist(), *rows}
        nearest = sorted(candidates, key=lambda item: -cosines[row, item].item())[:kept]  # noqa: B023
        assert {*renewed.content.similar_items[row].tolist()} - {-1} == {*nearest}
    torch.testing.assert_close(renewed.content.vectors.float(), now @ memory.content.projection, atol=1e-3, rtol=0)
    stays = [row for row in range(N) if row not in rows]
    assert torch.equal(renewed.content.vectors[stays], memory.content.vectors[stays])
    expected = memory.brands.clone()
    expected[at] = torch.arange(len(rows)) - 1
    listed = expected.tolist()
    assert renewed.brands.tolist() == listed
    assert renewed.brand_sizes.tolist() == [listed.count(brand) * (brand >= 0) for brand in listed]
    for name, tensor in memory.tensors().items():  # what followed what is as it was, and so is the memory before
        if name not in ("similar_items", "content", "brands"):
            assert torch.equal(renewed.tensors()[name], tensor), name
    assert torch.equal(memory.content.similar_items, before.int()) and not torch.equal(memory.brands, expected)
    alone = memory.renew(at, brands=torch.arange(len(rows)) - 1)
    assert alone.content is memory.content and torch.equal(alone.brands, expected)
    assert torch.equal(memory.renew(at, others).brands, memory.brands)


@pytest.mark.parametrize("kept", [1, 4, N + 2])
@pytest.mark.parametrize("entries", [1, 12, 2**20])
def test_most_alike_are_those_of_the_largest_cosine(kept, entries, monkeypatch):
    monkeypatch.setattr("modeling_utgrec.memory_content.BLOCK_ENTRIES", entries)  # one item at a time, some, all
    content = ItemMemory(**arguments()).content
    given = torch.cat((embeddings(3, seed=4), content.mean[None]))
    items, cosines = most_alike(content, given, kept)
    unit = unit_content(given, 4, content.mean)
    wanted = (unit @ content.projection @ content.vectors.float().T).sort(dim=1, descending=True)
    assert items.shape == cosines.shape == (4, min(kept, N))
    assert torch.equal(items[:3].long(), wanted.indices[:3, :kept])
    torch.testing.assert_close(cosines[:3], wanted.values[:3, :kept])
    assert (items[3] == -1).all() and not cosines[3].any()  # of the mean nothing is known
    with pytest.raises(ValueError, match="those given 3"):
        most_alike(content, torch.ones(1, 3), 1)


def test_items_do_not_become_what_the_memory_cannot_read():
    memory = ItemMemory(**arguments())
    with pytest.raises(ValueError, match="have 5 numbers, those given 3"):
        memory.renew(torch.tensor([1]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="not finite"):
        memory.renew(torch.tensor([1]), torch.full((1, E), torch.nan))
    bare = ItemMemory(**arguments() | {"content": None, "settings": MemorySettings()})
    with pytest.raises(ValueError, match="built without content"):
        bare.renew(torch.tensor([1]), torch.ones(1, E))


def test_items_are_not_taken_away_by_adding():
    with pytest.raises(ValueError, match="num_new must be at least 0, got -1"):
        ItemMemory(**arguments()).extend(-1, embeddings(N - 1))


def test_the_rows_that_are_outside_are_named_alone():
    items = torch.zeros(N, K).int()
    items[5, 1] = N + 3
    with pytest.raises(ValueError, match=rf"found \[{N + 3}\] of item 5"):
        ItemMemory(**arguments() | {"transition_items": items})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transition_items": torch.full((N, K), N)}, "must be rows of its 12 items"),
        ({"transition_items": torch.full((N, K), -2)}, "must be rows of its 12 items"),
        ({"transition_items": torch.zeros(N, K + 1).int()}, "of one shape"),
        ({"transition_weights": torch.full((N, K), torch.nan)}, "finite in float16; those of 12 items"),
        ({"transition_weights": torch.full((N, K), 1e6)}, "finite in float16"),
        ({"vectors": torch.full((N, E), torch.inf)}, "content of an item memory must be finite"),
        ({"vectors": torch.zeros(N, E + 1)}, r"content_projection of an item memory must have shape \(5, 6\)"),
        ({"vectors": torch.zeros(N - 1, E)}, "12 items have transitions, 12 similar items, 11 content vectors"),
        ({"projection": torch.zeros(E)}, "are matrices"),
        ({"projection": torch.full((E, E), torch.nan)}, "content_projection of an item memory must be finite"),
        ({"similar_items": torch.full((N, K), N)}, "similar items of an item memory must be rows"),
        ({"mean": torch.full((E,), torch.nan)}, "content_mean"),
        ({"counts": torch.zeros(N - 1).int()}, "12 whole numbers"),
        ({"counts": torch.full((N,), -1)}, "12 whole numbers"),
        ({"recent": torch.full((N,), 0.5)}, "recent of an item memory must be 12 whole numbers"),
        ({"recent": None}, "does not know the latest interactions"),
        ({"content": None}, "build it with content embeddings"),
        ({"periods": None}, "does not know the items' periods"),
        ({"brands": None}, "does not know the items' brands"),
        ({"brands": torch.zeros(N - 1).int()}, "12 whole numbers of at least -1"),
        ({"brands": torch.full((N,), -2)}, "12 whole numbers of at least -1"),
        ({"brands": torch.zeros(N)}, "got torch.float32"),
        ({"periods": MemoryPeriods(torch.full((N,), 3), torch.zeros(3, 3))}, "whole numbers from -1 to 2"),
        ({"periods": MemoryPeriods(torch.zeros(N - 1).int(), torch.zeros(3, 3))}, "12 whole numbers"),
        ({"periods": MemoryPeriods(torch.zeros(N), torch.zeros(3, 3))}, "got torch.float32"),
        ({"periods": MemoryPeriods(torch.zeros(N).int(), torch.full((3, 3), torch.nan))}, "finite numbers"),
        ({"periods": MemoryPeriods(torch.zeros(N).int(), torch.zeros(3, 2))}, r"\(3, 2\)"),
    ],
)
def test_what_is_no_memory_is_refused(changes, said):
    values = arguments()
    of_content = {name: value for name, value in changes.items() if name in MemoryContent._fields}
    values["content"] = values["content"]._replace(**of_content)
    with pytest.raises(ValueError, match=said):
        ItemMemory(**values | {name: value for name, value in changes.items() if name not in of_content})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"content_weight": -0.1}, "at least 0"),
        ({"evidence": -1.0}, "at least 0"),
        ({"brand_weight": -1.0}, "at least 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "finite number"),
        ({"repeat_weight": float("-inf")}, "repeat_weight of an item memory must be a finite number"),
        ({"mixing_weight": 1.2}, "from 0 to 1"),
        ({"mixing_weight": -0.2}, "from 0 to 1"),
        ({"mixing_weight": "much"}, "finite number"),
        ({"max_history": 0}, "max_history"),
        ({"gate": (1.0, 2.0)}, "4 finite numbers"),
        ({"gate": (1.0, 2.0, 3.0, float("inf"))}, "4 finite numbers"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        MemorySettings(**changes)
    with pytest.raises(ValueError, match=said):
        ItemMemory(**arguments()).with_settings(**changes)


def test_settings_change_and_tensors_are_shared():
    memory = ItemMemory(**arguments())
    other = memory.with_settings(temperature=0.5)
    assert other.settings.temperature == 0.5 and memory.settings.temperature == 0.03
    assert other.transition_items is memory.transition_items
    assert MemorySettings() == MemorySettings(0.0, 0.0, 0.0, 0.03, 0.7, None, 20, 0.0, 0.0, 0.0, 0.0), (
        "what files without them mean"
    )
    bare = {"settings": None, "content": None, "recent": None, "periods": None, "brands": None}
    without = ItemMemory(**arguments() | bare)
    said_of = {"content_weight": "no similar items", "trend_weight": "latest interactions", "period_weight": "periods"}
    said_of["brand_weight"] = "brands"
    for name, said in said_of.items():
        with pytest.raises(ValueError, match=said):
            without.with_settings(**{name: 0.1})
    assert MemorySettings.from_dict({"temperature": 0.5, "of a later release": 1}) == MemorySettings(temperature=0.5)


def test_the_content_of_new_items_alone_is_enough():
    """With all principal directions kept, the neighbours are those of all items' content, but for float16."""
    memory, content = ItemMemory(**arguments()), torch.cat((embeddings(), embeddings(3, seed=1)))
    both, alone = memory.extend(3, content), memory.extend(3, content[N:])
    assert torch.equal(both.content.vectors, alone.content.vectors)
    for one, other in zip(both.content.similar_items, alone.content.similar_items, strict=True):
        assert {*one.tolist()} == {*other.tolist()}
    assert torch.equal(alone.transition_items[:N], memory.transition_items) and not alone.counts[N:].any()
    with pytest.raises(ValueError, match="another encoder"):
        memory.extend(2, torch.zeros(2, E + 1))
