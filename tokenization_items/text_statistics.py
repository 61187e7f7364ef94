"""Embeddings of a catalogue's texts without any encoder: TF-IDF of their words, and its truncated SVD.

Latent semantic analysis (Deerwester et al., Indexing by Latent Semantic Analysis, JASIS 1990). It is fitted on the
catalogue that it embeds: vectors of two fits are not comparable. Items that are added later are folded in by
[`FittedTextStatistics`], if it was kept, or need the catalogue to be embedded anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy import sparse
from scipy.sparse.linalg import svds

from modeling_utgrec.checkpoint_fingerprint import check_file
from tokenization_items.files import write_tensors

logger = logging.getLogger(__name__)

TF_IDF = "tf-idf"  # the name that stands for an encoder's
STATISTICS_NAME = "text_statistics.safetensors"
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
    counted = _words_of(texts)
    return _weighted(counted, *_vocabulary(counted, most_words))


def _words_of(texts: Sequence[str]) -> list[Counter[str]]:
    return [Counter(WORD.findall(text.lower())) for text in texts]


def _vocabulary(counted: Sequence[Counter[str]], most_words: int) -> tuple[list[str], np.ndarray]:
    """The words, in alphabetical order, and float64 `[words]` their idf."""
    in_texts = Counter(word for words in counted for word in words)
    known = sorted((word for word, count in in_texts.items() if count >= MIN_TEXTS), key=lambda w: (-in_texts[w], w))
    words = sorted(known[:most_words])
    document_counts = np.array([in_texts[word] for word in words], np.float64)
    return words, 1 + np.log((1 + len(counted)) / (1 + document_counts))


def _weighted(counted: Sequence[Counter[str]], words: Sequence[str], idf: np.ndarray) -> sparse.csr_array:
    """TF-IDF of texts by a vocabulary, rows of unit length."""
    column_of = {word: column for column, word in enumerate(words)}
    found = [[(column_of[word], count) for word, count in each.items() if word in column_of] for each in counted]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in found], dtype=np.int64)])
    columns = np.array([column for row in found for column, _ in row], np.int64)
    counts = np.array([count for row in found for _, count in row], np.float64)
    weights = (1 + np.log(counts)) * idf[columns]
    matrix = sparse.csr_array((weights, columns, indptr), shape=(len(counted), len(words)))
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
    return FittedTextStatistics.fit(texts, width, most_words)[0]


def _directions(matrix: sparse.csr_array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors U·Σ of the truncated SVD of a matrix `[n, words]`, float64 `[n, width]`, and V `[words, width]`."""
    if matrix.shape[0] >= MANY_TEXTS:
        logger.warning(
            f"tf-idf: the SVD of {matrix.shape[0]:,} texts takes about {matrix.shape[0] / 3e3:.0f} s on one core and "
            f"{matrix.shape[0] * 8 * 4 * width / 1e9:.1f} GB"
        )
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
    return left * (values * signs), (right * signs[:, None]).T


@dataclass(frozen=True, eq=False)
class FittedTextStatistics:
    """
    [`tf_idf_embeddings`] as it was fitted on a catalogue, for the texts of items that are added later: in the place of
    a [`~tokenization_items.text_encoders.TextEncoder`].

    Args:
        words (`list[str]`): the vocabulary.
        idf (`np.ndarray`): float64 `[words]`.
        directions (`np.ndarray`): float16 `[words, width]`, the right singular vectors.
        mean (`np.ndarray`): float32 `[width]`, the vector of a text without any known word.
    """

    words: list[str]
    idf: np.ndarray
    directions: np.ndarray
    mean: np.ndarray
    name = TF_IDF

    @classmethod
    def fit(
        cls, texts: Sequence[str], width: int = WIDTH, most_words: int = MOST_WORDS
    ) -> tuple[np.ndarray, FittedTextStatistics]:
        """Vectors of texts, see [`tf_idf_embeddings`], and what they were fitted by."""
        counted = _words_of(texts)
        words, idf = _vocabulary(counted, most_words)
        matrix = _weighted(counted, words, idf)
        vectors, directions = _directions(matrix, width)
        without, mean = np.diff(matrix.indptr) == 0, np.zeros(vectors.shape[1])
        if not without.all():
            mean = vectors[~without].mean(axis=0)
            vectors[without] = mean
        return vectors.astype(np.float32), cls(words, idf, directions.astype(np.float16), mean.astype(np.float32))

    def embed(self, texts: Sequence[str], batch_tokens: int = 0, progress: bool | None = None) -> np.ndarray:
        """float32 `[n, width]`; of a text of the fit what it had there, but for the rounding of the directions. The
        arguments of a text encoder's method make no difference."""
        matrix = _weighted(_words_of(texts), self.words, self.idf)
        vectors = np.asarray(matrix @ self.directions.astype(np.float64), np.float32)
        vectors[np.diff(matrix.indptr) == 0] = self.mean
        return vectors

    @property
    def fingerprint(self) -> str:
        """Digest of all that vectors depend on."""
        digest = hashlib.sha256(json.dumps(self.words).encode())
        for values in (self.idf, self.directions, self.mean):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes `text_statistics.safetensors`, the words as one text in UTF-8 with a line each."""
        words = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        tensors = {"words": words, "idf": self.idf, "directions": self.directions, "mean": self.mean}
        return write_tensors(Path(folder) / STATISTICS_NAME, tensors)

    @classmethod
    def load(cls, file: str | os.PathLike) -> FittedTextStatistics:
        """
        Reads what `save` wrote.

        Raises:
            ValueError: it is truncated or another file.
        """
        check_file(file)
        try:
            with safe_open(file, framework="numpy") as opened:
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            words = found["words"].tobytes().decode().split("\n") if found["words"].size else []
            fitted = cls(words, found["idf"], found["directions"], found["mean"])
        except (SafetensorError, OSError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is truncated or holds no statistics of texts: {error!r}") from error
        if fitted.directions.shape != (len(words), len(fitted.mean)) or fitted.idf.shape != (len(words),):
            raise ValueError(
                f"{file}: {len(words)} words do not go with directions {fitted.directions.shape} and idf "
                f"{fitted.idf.shape}."
            )
        return fitted


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
