"""TF-IDF and its singular vectors, written out."""

import math

import numpy as np
import pytest

from tokenization_items.catalogue import Catalogue
from tokenization_items.item_embeddings import EmbeddingError, embed_items, load_content, load_embeddings
from tokenization_items.text_statistics import (
    STATISTICS_NAME,
    FittedTextStatistics,
    TextStatistics,
    tf_idf,
    tf_idf_embeddings,
)
from tokenization_items.text_template import TextTemplate

TEXTS = ["A red, red Bow", "the red amp", "blue bow & amp amp amp", "x unknown", "", "The BOW"]


def random_texts(count=400, words=300, seed=0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"word{word}" for word in rng.zipf(1.5, 12) % words) for _ in range(count)]


def test_tf_idf_by_the_definition():
    matrix = tf_idf(TEXTS).toarray()
    vocabulary = ["amp", "bow", "red", "the"]  # in two texts or more; one letter is no word
    counts = np.array([[0, 1, 2, 0], [1, 0, 1, 1], [3, 1, 0, 0], [0] * 4, [0] * 4, [0, 1, 0, 1]])
    idf = np.array([1 + math.log(7 / (1 + (counts[:, column] > 0).sum())) for column in range(4)])
    expected = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert matrix.shape == (6, len(vocabulary))
    assert np.allclose(matrix, expected / np.where(lengths, lengths, 1))


def test_the_words_of_most_texts_stay():
    assert tf_idf(TEXTS, most_words=1).toarray().tolist() == [[1], [0], [1], [0], [0], [1]]  # bow


def test_it_is_scikit_learns():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = random_texts()
    theirs = text.TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts).toarray()
    assert np.allclose(tf_idf(texts).toarray(), theirs)


@pytest.mark.parametrize("width", [7, 128], ids=["Lanczos", "dense"])
def test_inner_products_are_those_of_the_best_approximation(width):
    texts = random_texts()
    matrix = tf_idf(texts).toarray()
    found = tf_idf_embeddings(texts, width)
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    best = (left[:, :width] * values[:width] ** 2) @ left[:, :width].T
    assert found.dtype == np.float32 and found.shape == (400, width)
    assert np.allclose(found @ found.T, best, atol=1e-5)
    assert np.array_equal(found, tf_idf_embeddings(texts, width)), "another start"
    right = np.linalg.lstsq(found.astype(np.float64), matrix, rcond=None)[0]  # Σ⁻¹Uᵀ·matrix up to rounding
    assert (right[np.arange(width), np.abs(right).argmax(axis=1)] > 0).all(), "signs"


def test_a_text_without_known_words_gets_the_mean():
    vectors = tf_idf_embeddings(TEXTS)
    assert vectors.shape == (6, 4)
    assert np.allclose(vectors[3], vectors[[0, 1, 2, 5]].mean(axis=0)) and np.array_equal(vectors[3], vectors[4])


@pytest.mark.parametrize("texts", [[], ["", ""], ["one", "two"]])
def test_nothing_shared_nothing_told(texts):
    assert tf_idf_embeddings(texts).shape == (len(texts), 0)
    with pytest.raises(ValueError, match=f"none of the {len(texts)} texts|two of the {len(texts)} texts"):
        TextStatistics().embed(texts)


def test_a_folder_of_them_is_like_any_other(tmp_path):
    texts = random_texts(30)
    records = [{"item_id": str(row), "title": text} for row, text in enumerate(texts)]
    catalogue = Catalogue.from_records(records)
    assert embed_items(catalogue, TextStatistics(), tmp_path)
    assert not embed_items(catalogue, TextStatistics(), tmp_path), "done before"
    assert np.array_equal(load_embeddings(tmp_path, catalogue.item_ids), tf_idf_embeddings(texts))
    assert embed_items(catalogue, TextStatistics(width=5), tmp_path), "another width is another encoder"
    assert embed_items(catalogue.select([*range(29)]), TextStatistics(width=5), tmp_path), "another catalogue"


def test_it_is_none_for_a_tokenizer_of_several_domains(tmp_path):
    records = [{"item_id": str(row), "title": text} for row, text in enumerate(random_texts(30))]
    embed_items(Catalogue.from_records(records, template=TextTemplate()), TextStatistics(), tmp_path)
    with pytest.raises(EmbeddingError, match="fitted on its own catalogue"):
        load_content(tmp_path)


def test_further_texts_are_folded_in(tmp_path):
    """X·V of the texts of the fit is U·Σ; of others the same weights in the same directions."""
    for texts, width in ((random_texts(60, 40), 128), (random_texts(), 16)):  # all directions, and some of them
        vectors, fitted = FittedTextStatistics.fit(texts, width)
        np.testing.assert_array_equal(vectors, tf_idf_embeddings(texts, width))
        scale = np.linalg.norm(vectors, axis=1).max()
        assert np.abs(fitted.embed(texts) - vectors).max() < 3e-3 * scale  # directions are kept in float16
    new = ["word1 word2 word2 never", "never", ""]
    found = fitted.embed(new)
    assert (found[1] == fitted.mean).all() and (found[2] == fitted.mean).all()
    counts = np.array([[word in text.split() for word in fitted.words] for text in texts])
    idf = 1 + np.log((1 + len(texts)) / (1 + counts.sum(0)))
    weights = np.array([{"word1": 1.0, "word2": 1 + math.log(2)}.get(word, 0.0) for word in fitted.words]) * idf
    expected = weights / np.linalg.norm(weights) @ fitted.directions.astype(np.float64)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    fitted.save(tmp_path)
    loaded = FittedTextStatistics.load(tmp_path / STATISTICS_NAME)
    np.testing.assert_array_equal(loaded.embed(new), found)
    assert loaded.fingerprint == fitted.fingerprint != FittedTextStatistics.fit(texts[1:], 16)[1].fingerprint


def test_statistics_that_are_broken(tmp_path):
    FittedTextStatistics.fit(TEXTS)[1].save(tmp_path)
    file = tmp_path / STATISTICS_NAME
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ValueError, match="text_statistics.safetensors"):
        FittedTextStatistics.load(file)


def test_texts_that_share_no_word_have_no_directions(tmp_path):
    vectors, fitted = FittedTextStatistics.fit(["red", "blue"])
    assert vectors.shape == (2, 0) == fitted.embed(["red", "x y"]).shape
    fitted.save(tmp_path)
    assert FittedTextStatistics.load(tmp_path / STATISTICS_NAME).words == []
