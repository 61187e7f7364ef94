"""Prompts in parts of like length: every item once, with its own image, within the tokens of a part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec.encoding_parts import MOST_PLACES, histories_by_length, length_batches, prompt_parts

ITEM = st.tuples(st.integers(1, 9), st.sampled_from([None, (1, 1, 2), (1, 2, 3), (2, 1, 1)]))


def make_inputs(items):
    """Every token of item `i` is `i`, every patch of its image `100 + i`."""
    longest = max(length for length, _ in items)
    ids = torch.full((len(items), longest), -1)
    types = torch.zeros(len(items), longest, dtype=torch.int32)
    for row, (length, grid) in enumerate(items):
        ids[row, :length] = row
        types[row, :1] = grid is not None
    inputs = {"input_ids": ids, "attention_mask": (ids >= 0).long()}
    grids = [torch.tensor(grid) for _, grid in items if grid is not None]
    if grids:
        patches = [torch.full((int(torch.tensor(g).prod()), 4), 100.0 + i) for i, (_, g) in enumerate(items) if g]
        inputs |= {"image_grid_thw": torch.stack(grids), "pixel_values": torch.cat(patches)}
        inputs["mm_token_type_ids"] = types
    return inputs


@settings(max_examples=150, deadline=None)
@given(st.lists(ITEM, min_size=1, max_size=12), st.integers(1, 40))
def test_every_item_is_in_one_part_with_its_image(items, most):
    inputs = make_inputs(items)
    parts = prompt_parts(inputs, most)
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == list(range(len(items)))
    for rows, part in parts:
        size = len(rows), part["input_ids"].shape[1]
        assert len(parts) == 1 or size[0] * size[1] <= most or size[0] == 1
        images = []
        for row, ids, mask in zip(rows.tolist(), part["input_ids"], part["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == [row] * items[row][0] and mask.sum() == items[row][0]
            images += [row] if items[row][1] is not None else []
        if len(parts) > 1:
            assert size[1] == max(items[row][0] for row in rows.tolist())
        assert ("pixel_values" in part) == ("image_grid_thw" in part) == ("mm_token_type_ids" in part) == bool(images)
        if images:
            assert part["image_grid_thw"].tolist() == [list(items[row][1]) for row in images]
            patches = part["pixel_values"].split(part["image_grid_thw"].prod(1).tolist())
            assert [each.unique().tolist() for each in patches] == [[100.0 + row] for row in images]
            assert [bool(types.any()) for types in part["mm_token_type_ids"]] == [
                items[row][1] is not None for row in rows.tolist()
            ]


def test_a_batch_that_fits_is_left_as_it_is():
    inputs = make_inputs([(3, None), (5, None), (1, None)])
    ((rows, part),) = prompt_parts(inputs, 15)
    assert rows.tolist() == [0, 1, 2] and part is inputs


@pytest.mark.parametrize(("most", "sizes"), [(14, [1, 2]), (4, [1, 1, 1]), (9, [2, 1]), (5, [1, 1, 1])])
def test_shortest_first_as_many_of_the_longest_as_fit(most, sizes):
    parts = prompt_parts(make_inputs([(3, None), (5, None), (2, None)]), most)
    assert [len(rows) for rows, _ in parts] == sizes
    assert parts[0][0][-1] == 2 and parts[-1][0][0] == 1  # the shortest, the longest


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_length_batches_hold_every_row_once_within_the_budget(lengths, most):
    batches = [rows.tolist() for rows in length_batches(torch.tensor(lengths, dtype=torch.long), most)]
    assert sorted(sum(batches, [])) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in rows) for rows in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(rows) * length <= most or len(rows) == 1 for rows, length in zip(batches, longest, strict=True))
    for rows, length in zip(batches[:-1], longest[:-1], strict=True):
        assert (len(rows) + 1) * max(1, length) > most  # one more had not fitted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(0, 5))
def test_every_history_is_read_once_from_its_first_item_on(lengths, more):
    history = max(lengths) + more + 1
    mask = torch.arange(history) >= history - torch.tensor(lengths)[:, None]
    mask[:, -3::2] = False  # an item that is hidden is no padding
    places = torch.arange(mask.numel()).view_as(mask) + 1.0
    sizes = []

    def encode(rows, columns):
        sizes.append((len(places[rows]), columns))
        return places[rows, -columns:, None]

    found = histories_by_length(encode, mask)[..., 0]
    assert found.shape == mask.shape
    assert found[mask].equal(places[mask]) and (found.eq(places) | found.eq(0)).all()
    assert sum(rows for rows, _ in sizes) == len(lengths)
    if mask.numel() <= MOST_PLACES:
        assert sizes == [mask.shape]
    else:
        assert all(rows * columns <= MOST_PLACES or rows == 1 for rows, columns in sizes)
        longest = mask.long().argmax(1).where(mask.any(1), torch.tensor(history - 1))
        assert sizes[0][1] == history - longest.min() and sizes == sorted(sizes, key=lambda size: -size[1])
