"""Embeddings of items from the transitions of the training interactions."""

import numpy as np
import pytest

from trainers.data.interactions import Interactions
from trainers.methods.transition_embeddings import transition_embeddings
from trainers.rankers.linear import LinearSettings, decayed_counts


def make_interactions(num_users=200, num_items=12):
    """Two groups of items that never meet, and an item that nobody has."""
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(num_items + 1)]
    sequences = []
    for user in range(num_users):
        first = (num_items // 2) * (user % 2)
        sequences.append([ids[row] for row in first + rng.integers(0, num_items // 2, 6)])
    return Interactions.from_sequences(sequences, ids)


def test_items_of_a_sequence_are_near_and_others_are_not():
    training = make_interactions()
    vectors = transition_embeddings(training, width=2)
    assert vectors.shape == (13, 2) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:12], axis=1), 1, rtol=1e-5)
    assert not vectors[12].any(), "an item without transitions"
    cosines = vectors[:12] @ vectors[:12].T
    assert cosines[:6, :6].min() > 0.9 and np.abs(cosines[:6, 6:]).max() < 0.1


def test_equals_a_dense_decomposition_and_is_the_same_again():
    training = make_interactions()
    counts = decayed_counts(training, LinearSettings()).toarray().astype(np.float64)
    left, values, _ = np.linalg.svd(counts)
    expected = left[:, :3] * np.sqrt(values[:3])
    expected = expected[:12] / np.linalg.norm(expected[:12], axis=1, keepdims=True)
    found = transition_embeddings(training, width=3)
    # whatever sign and order the vectors have
    np.testing.assert_allclose(found[:12] @ found[:12].T, expected @ expected.T, atol=1e-4)
    np.testing.assert_array_equal(found, transition_embeddings(training, width=3))


def test_no_transitions_are_an_error():
    with pytest.raises(ValueError, match="make no embeddings"):
        transition_embeddings(Interactions.from_sequences([["a"], ["b"], ["c"]], ["a", "b", "c"]))
    with pytest.raises(ValueError, match="three items at least"):
        transition_embeddings(Interactions.from_sequences([["a", "b"]], ["a", "b"]))
