"""Embeddings of a catalogue's texts without any encoder: TF-IDF of their words, and its truncated SVD.

Latent semantic analysis (Deerwester et al., Indexing by Latent Semantic Analysis, JASIS 1990). It is fitted on the
catalogue that it embeds: vectors of two catalogues, or of one with further items, are not comparable, so items that
are added later need the catalogue to be embedded anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

logger = logging.getLogger(__name__)

TF_IDF = "tf-idf"  # the name that stands for an encoder's
WIDTH = 128
MIN_TEXTS = 2  # a word of a single text makes it like no other
MOST_WORDS = 50_000
MANY_TEXTS = 50_000  # from which on the work is announced
WORD = re.compile(r"\w\w+")


def tf_idf(texts: Sequence[str], most_words: int = MOST_WORDS) -> sparse.csr_array:
    """
    TF-IDF of the words of each text.

    Words are lower-cased runs of two or more letters, digits or underscores. A word that occurs c times in a text and
    in d of n texts weighs (1 + ln c)·(1 + ln((1 + n)/(1 + d))); rows have unit length (Salton & Buckley 1988; the
    smoothed idf is scikit-learn's).

    Args:
        texts (`Sequence[str]`): n texts.
        most_words (`int`, *optional*, defaults to 50,000): the words that the most texts have; of equal ones the first
            in the alphabet.

    Returns:
        `scipy.sparse.csr_array`: float64 `[n, words]`, words in alphabetical order; without a word that two texts
        share it has no columns.
    """
    counted = [Counter(WORD.findall(text.lower())) for text in texts]
    in_texts = Counter(word for words in counted for word in words)
    known = sorted((word for word, count in in_texts.items() if count >= MIN_TEXTS), key=lambda w: (-in_texts[w], w))
    column_of = {word: column for column, word in enumerate(sorted(known[:most_words]))}
    found = [[(column_of[word], count) for word, count in words.items() if word in column_of] for words in counted]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in found], dtype=np.int64)])
    columns = np.array([column for row in found for column, _ in row], np.int64)
    counts = np.array([count for row in found for _, count in row], np.float64)
    document_counts = np.array([in_texts[word] for word in column_of], np.float64)
    weights = (1 + np.log(counts)) * (1 + np.log((1 + len(texts)) / (1 + document_counts)))[columns]
    matrix = sparse.csr_array((weights, columns, indptr), shape=(len(texts), len(column_of)))
    matrix.sort_indices()
    lengths = np.sqrt(np.asarray((matrix * matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(lengths, np.diff(indptr))
    return matrix


def tf_idf_embeddings(texts: Sequence[str], width: int = WIDTH, most_words: int = MOST_WORDS) -> np.ndarray:
    """
    Vectors U·Σ of the truncated singular value decomposition of [`tf_idf`].

    Args:
        texts (`Sequence[str]`): n texts, all that the vectors are fitted on.
        width (`int`, *optional*, defaults to 128): singular vectors; fewer if there are no more.
        most_words (`int`, *optional*, defaults to 50,000): see [`tf_idf`].

    Returns:
        `np.ndarray`: float32 `[n, width]`, the largest singular value first, each right vector's largest entry
        positive. A text without any known word gets the mean of the others. `[n, 0]` if no word is in two texts.
    """
    if len(texts) >= MANY_TEXTS:
        logger.warning(
            f"tf-idf: the SVD of {len(texts):,} texts takes about {len(texts) / 3e3:.0f} s on one core and "
            f"{len(texts) * 8 * 4 * width / 1e9:.1f} GB"
        )
    matrix = tf_idf(texts, most_words)
    least = min(matrix.shape)
    if least <= 2 * width:  # Lanczos wants fewer vectors than there are
        left, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        some = values > 1e-10 * values.max(initial=0)
        left, values, right = (left[:, some][:, :width], values[some][:width], right[some][:width])
    else:
        start = np.random.default_rng(0).normal(size=least)  # fixed: the same texts give the same vectors
        left, values, right = svds(matrix, k=width, v0=start)
        order = np.argsort(-values, kind="stable")
        left, values, right = left[:, order], values[order], right[order]
    largest = np.abs(right).argmax(axis=1) if right.size else np.empty(0, np.int64)
    signs = np.where(right[np.arange(len(right)), largest] < 0, -1.0, 1.0)
    vectors = left * (values * signs)
    without = np.diff(matrix.indptr) == 0
    if not without.all():
        vectors[without] = vectors[~without].mean(axis=0)
    return vectors.astype(np.float32)


def content_of_texts(texts: Sequence[str]) -> np.ndarray | None:
    """[`tf_idf_embeddings`] as the content of items for which there is no encoder; None where no two texts share a
    word, so that there is none."""
    vectors = tf_idf_embeddings(texts)
    return vectors if vectors.shape[1] else None


class TextStatistics:
    """
    [`tf_idf_embeddings`] in the place of a [`~tokenization_items.text_encoders.TextEncoder`] in
    [`~tokenization_items.item_embeddings.embed_items`].

    Args:
        width (`int`, *optional*, defaults to 128): of the vectors.
        most_words (`int`, *optional*, defaults to 50,000): words of the vocabulary.
    """

    name = TF_IDF

    def __init__(self, width: int = WIDTH, most_words: int = MOST_WORDS):
        self.width, self.most_words = width, most_words

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "most_words": self.most_words, "min_texts": MIN_TEXTS}

    @property
    def fingerprint(self) -> str:
        """Digest of the settings: there are no weights."""
        return hashlib.sha256(json.dumps([self.name, 1, self.settings]).encode()).hexdigest()

    def embed(self, texts: Sequence[str], batch_tokens: int = 0, progress: bool | None = None) -> np.ndarray:
        """float32 `[n, width]`. The arguments of a text encoder's method make no difference.

        Raises:
            ValueError: no word is in two texts.
        """
        vectors = tf_idf_embeddings(texts, self.width, self.most_words)
        if not vectors.shape[1]:
            raise ValueError(
                f"No word is in two of the {len(texts)} texts, so TF-IDF has nothing to tell items apart by: take a "
                "text encoder instead."
            )
        return vectors
