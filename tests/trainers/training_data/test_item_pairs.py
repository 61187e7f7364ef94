"""Training pairs: positives from the graph alone, and batches in which every row belongs to the right item."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenization_items.catalogue import Catalogue, CatalogueError
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.interactions import Interactions
from trainers.training_data import item_pairs as module
from trainers.training_data.image_latents import ImageLatents
from trainers.training_data.item_pairs import ItemPairs

# Neighbours: 0-1, 1-2, 2-3, 3-4, 1-5, 0-6; items 7 to 11 have none.
SEQUENCES = [[0, 1, 2, 3, 4], [5, 1, 0, 6]]
NEIGHBOURS = {0: {1, 6}, 1: {0, 2, 5}, 2: {1, 3}, 3: {2, 4}, 4: {3}, 5: {1}, 6: {0}}


@pytest.fixture(scope="module")
def catalogue(tiny_items):
    return Catalogue.from_records(
        [{"item_id": i["item_id"], "description": i["text"], "image": i["image"]} for i in tiny_items]
    )


@pytest.fixture(scope="module")
def graph(catalogue):
    ids = catalogue.item_ids
    return CoOccurrenceGraph.from_interactions(
        Interactions.from_sequences([[ids[row] for row in sequence] for sequence in SEQUENCES], ids)
    )


@pytest.fixture
def make_pairs(catalogue, graph, tiny_network):
    def make(latents=None, seed=0, processor=tiny_network[1], items=catalogue):
        return ItemPairs(items, graph, processor, latents, seed)

    return make


@pytest.fixture(scope="module")
def latents(catalogue):
    """Latents whose values tell the item: `10 * row` in the first channel."""
    rows = np.full(len(catalogue), -1)
    with_image = [row for row in range(len(catalogue)) if catalogue.has_image(row)]
    rows[with_image] = np.arange(len(with_image))
    values = np.zeros((len(with_image), 4, 2, 2), np.float16)
    values[:, 0] = 10 * np.array(with_image)[:, None, None]
    return ImageLatents(values, rows)


def test_a_picture_alone_is_nothing_to_learn_for_a_network_that_reads_texts(make_pairs, make_network, tiny_bert):
    _, processor = make_network(tiny_bert, lora=False)
    with pytest.raises(CatalogueError, match="reads texts alone, and 1 of 12 items have no text.*\n  item 'item-4'"):
        make_pairs(processor=processor)


def test_positives_are_neighbours_and_all_of_them_come_up(make_pairs):
    pairs, seen = make_pairs(), {row: set() for row in range(12)}
    for epoch in range(60):
        pairs.set_epoch(epoch)
        for row in range(len(pairs)):
            anchor, positive = pairs[row]
            assert anchor == row
            seen[row].add(positive)
    assert seen == {row: NEIGHBOURS.get(row, {row}) for row in range(12)}


def test_positives_depend_on_seed_and_epoch_alone(make_pairs):
    def drawn(pairs, epoch):
        pairs.set_epoch(epoch)
        return pairs.positives.tolist()

    one, other = make_pairs(seed=3), make_pairs(seed=3)
    assert one.positives.tolist() == drawn(other, 0), "a new data set stands at epoch 0"
    later = [drawn(one, epoch) for epoch in range(8)]
    np.random.seed(5)
    torch.manual_seed(5)
    assert [drawn(other, epoch) for epoch in reversed(range(8))] == later[::-1]
    assert len(set(map(tuple, later))) > 1, "epochs differ"
    assert [drawn(make_pairs(seed=4), epoch) for epoch in range(8)] != later, "seeds differ"


def test_collate_holds_every_item_once_and_rows_point_to_it(make_pairs, latents, tiny_network, catalogue):
    pairs, processor = make_pairs(latents), tiny_network[1]
    # Item 1 is an anchor and a positive, item 9 its own positive, item 0 twice a positive.
    given = [(1, 0), (2, 1), (9, 9), (6, 0)]
    batch = pairs.collate(given)
    items = [0, 1, 2, 6, 9]
    assert batch["input_ids"].shape[0] == len(items)
    assert batch["anchor_items"].tolist() == [1, 2, 9, 6] and batch["positive_items"].tolist() == [0, 1, 9, 0]
    assert [items[row] for row in batch["anchor_rows"]] == [1, 2, 9, 6]
    assert [items[row] for row in batch["positive_rows"]] == [0, 1, 9, 0]
    for row, item in enumerate(items):
        alone = processor.collate(
            processor.encode_texts([catalogue.texts[item]]),
            [catalogue.image(item) and processor.encode_image(catalogue.image(item))],
        )
        kept = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][kept].tolist() == alone["input_ids"][0].tolist()
        labels = batch["text_labels"][row]
        assert labels[labels != -100].tolist() == processor.encode_texts([catalogue.texts[item]])[0]
    # One image after the other, in the order of the items; kept in half precision.
    grids = [processor.encode_image(catalogue.image(i)) for i in items if catalogue.has_image(i)]
    assert batch["image_grid_thw"].tolist() == [grid.tolist() for _, grid in grids]
    torch.testing.assert_close(batch["pixel_values"], torch.cat([p for p, _ in grids]), atol=2e-3, rtol=0)
    assert batch["pixel_values"].dtype == torch.float32


def test_latents_belong_to_their_items(make_pairs, latents, catalogue):
    batch = make_pairs(latents).collate([(4, 3), (2, 1), (8, 8)])
    items = [1, 2, 3, 4, 8]
    assert (
        batch["has_image"].tolist() == [catalogue.has_image(row) for row in items] == [True, False, True, True, False]
    )
    expected = [[10.0, 0.0, 0.0, 0.0][channel] * row for row in (1, 0, 3, 4, 0) for channel in range(4)]
    assert batch["image_latents"].mean((2, 3)).flatten().tolist() == expected
    assert batch["image_latents"].dtype == torch.float32 and batch["has_image"].dtype == torch.bool


def test_batch_without_any_image(make_pairs, latents, tiny_network):
    network, _ = tiny_network
    batch = make_pairs(latents).collate([(2, 2), (5, 5), (8, 11)])
    assert not batch["has_image"].any() and not batch["image_latents"].any()
    assert not {"pixel_values", "image_grid_thw", "mm_token_type_ids"} & batch.keys()
    del batch["anchor_items"], batch["positive_items"]
    output = network(**batch)
    assert output.image_loss == 0 and output.co_image_loss == 0 and torch.isfinite(output.loss)


def test_without_latents_the_network_gets_none(make_pairs, make_network, tiny_qwen2_vl):
    network, processor = make_network(tiny_qwen2_vl, latent_channels=None)
    batch = make_pairs(processor=processor).collate([(0, 1), (1, 2)])
    assert "pixel_values" in batch and not {"image_latents", "has_image"} & batch.keys()
    del batch["anchor_items"], batch["positive_items"]
    assert torch.isfinite(network(**batch).loss)


def test_a_text_encoder_never_opens_images(make_pairs, catalogue, make_network, tiny_bert, monkeypatch):
    _, processor = make_network(tiny_bert)
    catalogue = replace(catalogue, texts=[text or "a picture" for text in catalogue.texts])
    pairs = make_pairs(processor=processor, items=catalogue)
    monkeypatch.setattr(Catalogue, "image", lambda *_: pytest.fail("opens an image"))
    assert "pixel_values" not in pairs.collate([(0, 1), (1, 2)])


def test_images_are_kept_up_to_the_limit(make_pairs, catalogue, monkeypatch):
    opened = []
    original = Catalogue.image
    monkeypatch.setattr(Catalogue, "image", lambda self, row: opened.append(row) or original(self, row))
    pairs = make_pairs()
    first = pairs.encoder_inputs(np.array([0, 1, 2]))
    again = pairs.encoder_inputs(np.array([0, 1, 2]))
    assert opened.count(0) == opened.count(1) == 1
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    opened.clear()
    monkeypatch.setattr(module, "IMAGE_CACHE_BYTES", 0)
    pairs = make_pairs()
    for _ in range(2):
        assert torch.equal(pairs.encoder_inputs(np.array([0, 1, 2]))["pixel_values"], first["pixel_values"])
    assert opened.count(0) == 2


def test_catalogue_and_graph_of_different_sizes(make_pairs, catalogue):
    with pytest.raises(ValueError, match="catalogue has 11 items, the co-occurrence graph 12"):
        make_pairs(items=catalogue.select(range(11)))


def test_drawn_latents_follow_seed_epoch_and_items(make_pairs, latents):
    random = replace(latents, deviations=np.ones_like(latents.latents))

    def batch(seed=0, epoch=0, rows=(0, 1, 3), of=random):
        pairs = make_pairs(of, seed=seed)
        pairs.set_epoch(epoch)
        return pairs.collate([(row, row) for row in rows])["image_latents"]

    assert torch.equal(batch(), batch()) and not torch.equal(batch(), batch(of=latents))
    for other in (batch(seed=1), batch(epoch=1), batch(rows=(0, 1, 4))):
        assert not torch.equal(batch()[0], other[0])
