import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization_items import Catalogue, TextTemplate, UniversalItemTokenizer
from tokenization_items.item_embeddings import EmbeddingError, save_embeddings
from tokenization_items.item_index import ItemIndex
from trainers.methods.content_walks import content_walks, walking_domain


def nearest(embeddings, row, number):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit[row]
    cosines[row] = -2
    return set(np.argsort(-cosines, kind="stable")[:number].tolist())


@given(st.integers(2, 30), st.integers(1, 3), st.integers(1, 8), st.integers(7, 12), st.integers(0, 5))
def test_every_step_goes_to_a_neighbour_of_an_item_of_the_walk(num_items, walks_per_item, length, neighbours, seed):
    embeddings = np.random.default_rng(seed).normal(size=(num_items, 4)).astype(np.float32)
    walks = content_walks(embeddings, walks_per_item, length, neighbours, seed)
    assert walks.shape == (walks_per_item * num_items, min(length, num_items))
    np.testing.assert_array_equal(walks[:, 0], np.tile(np.arange(num_items), walks_per_item))
    near = [nearest(embeddings, row, neighbours) for row in range(num_items)]
    for walk in walks.tolist():
        assert len(set(walk)) == len(walk)
        for step in range(1, len(walk)):
            assert any(walk[step] in near[before] for before in walk[:step])


def test_all_neighbours_are_drawn_and_the_seed_repeats_them():
    embeddings = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    walks = content_walks(embeddings, 200, 2, 4, seed=1)
    for row in range(12):
        seconds, counts = np.unique(walks[walks[:, 0] == row, 1], return_counts=True)
        assert set(seconds.tolist()) == nearest(embeddings, row, 4) and counts.min() > 25  # of 50
    np.testing.assert_array_equal(walks, content_walks(embeddings, 200, 2, 4, seed=1))
    assert (walks != content_walks(embeddings, 200, 2, 4, seed=2)).any()


def test_later_steps_start_from_any_item_of_the_walk():
    """On a line of items, each beside two others, a walk of three goes on from its end or from its start."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    walks = content_walks(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), 50, 3, 2)
    steps = np.abs((walks[:, 2] - walks[:, 0] + 20) % 40 - 20)
    assert set(np.unique(steps).tolist()) == {1, 2} and 0.2 < (steps == 1).mean() < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(embeddings=np.ones((1, 2))), "A walk needs two items, there are 1"),
        (dict(walks_per_item=0), "walks_per_item and length of at least 1"),
        (dict(length=6, neighbours=4), "neighbours of at least length - 1, got 3, 6, 4"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        content_walks(**{"embeddings": np.eye(3), **arguments})


def test_a_domain_of_walks_is_all_for_training(tmp_path):
    ids = [f"i{row}" for row in range(10)]
    catalogue = Catalogue.from_records(
        [{"item_id": item, "title": f"thing {item}"} for item in ids], name="things", template=TextTemplate()
    )
    embeddings = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    # the folder may have them in another order
    save_embeddings(tmp_path / "embeddings", ids[::-1], embeddings[::-1])

    class Centred(UniversalItemTokenizer):
        def centre(self, embeddings, name):
            assert name == "things"
            return embeddings - 5

    tokenizer = Centred(ItemIndex([4], [2]), "print")
    domain = walking_domain(catalogue, tokenizer, tmp_path / "embeddings", 3, walks_per_item=2, length=4, neighbours=3)
    walks = content_walks(embeddings - 5, 2, 4, 3, seed=3)
    interactions = domain.interactions
    assert (domain.name, interactions.num_users, interactions.split) == ("things", 20, "content walks")
    for part in (interactions, interactions.training_part()):
        np.testing.assert_array_equal(part.items.reshape(20, 4), walks)
    assert not len(interactions.cases("test")) and not len(interactions.cases("validation"))
    save_embeddings(tmp_path / "few", ids[:9], embeddings[:9])
    with pytest.raises(EmbeddingError, match="no embeddings of 1 of 10 items: 'i9'; compute"):
        walking_domain(catalogue, tokenizer, tmp_path / "few")
