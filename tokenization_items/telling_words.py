"""Words that tell groups of texts apart: those that a group has more often than the others do.

The log-odds ratio of a word with an informative Dirichlet prior, over its standard deviation (Monroe, Colaresi and
Quinn, Fightin' Words, Political Analysis 16(4), 2008). A word is counted once in a text. With y of a group's n words,
Y of all N, and all as the prior of both sides:

    δ = ln((y + Y) / (n + N - y - Y)) - ln((Y - y + Y) / (N - n + N - (Y - y) - Y))
    z = δ / √(1/(y + Y) + 1/(Y - y + Y))

Frequent words of all groups get a δ of about 0, and rare ones, which say little, a large deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from tokenization_items.text_statistics import WORD

MOST_WORDS = 4  # of a group


class TellingWords:
    """
    The words of texts, lower-cased runs of two or more letters, digits or underscores, for contrasts of any groups.

    Args:
        texts (`Sequence[str]`): n texts.
    """

    def __init__(self, texts: Sequence[str]):
        found = [sorted({*WORD.findall(text.lower())}) for text in texts]
        self.words = sorted({word for words in found for word in words})
        column_of = {word: column for column, word in enumerate(self.words)}
        columns = np.array([column_of[word] for words in found for word in words], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(words) for words in found], dtype=np.int64)])
        shape = (len(texts), len(self.words))
        self._has = sparse.csr_array((np.ones(len(columns)), columns, offsets), shape=shape)

    def of_groups(
        self,
        rows: np.ndarray,
        groups: np.ndarray,
        wanted: Sequence[int] | None = None,
        most_words: int = MOST_WORDS,
    ) -> list[list[str]]:
        """
        The words of groups that their other groups have less often.

        Args:
            rows (`np.ndarray`): int64 `[m]`, the texts that are compared.
            groups (`np.ndarray`): int64 `[m]`, the group of each, from 0 on.
            wanted (`Sequence[int]`, *optional*): the groups whose words are asked for; by default all.
            most_words (`int`, *optional*, defaults to 4): at most so many words of a group.

        Returns:
            For each wanted group the words with the largest z above 0, the largest first; of equal ones those that
            more texts of the group have, then by the alphabet. Where there is one group alone, its most frequent
            words.
        """
        num_groups = int(groups.max()) + 1 if len(groups) else 0
        members = sparse.csr_array((np.ones(len(rows)), (groups, np.arange(len(rows)))), (num_groups, len(rows)))
        counts = sparse.csr_array(members @ self._has[rows])
        totals, sums = np.asarray(counts.sum(axis=0)).ravel(), np.asarray(counts.sum(axis=1)).ravel()
        found = []
        for group in range(num_groups) if wanted is None else wanted:
            part = slice(counts.indptr[group], counts.indptr[group + 1])
            columns, own = counts.indices[part], counts.data[part]
            z = _contrast(own, totals[columns], sums[group], totals.sum())
            telling = np.flatnonzero(z > 0) if num_groups > 1 else np.arange(len(columns))
            order = sorted(telling.tolist(), key=lambda at: (-z[at], -own[at], self.words[columns[at]]))  # noqa: B023
            found.append([self.words[columns[at]] for at in order[:most_words]])
        return found


def _contrast(own: np.ndarray, totals: np.ndarray, of_group: float, of_all: float) -> np.ndarray:
    """z of the words of one group; 0 where there is no other word, or no other group."""
    if of_group == of_all:
        return np.zeros(len(own))
    inside, outside = own + totals, 2 * totals - own
    others_inside, others_outside = of_group + of_all - inside, 2 * of_all - of_group - outside
    some = (others_inside > 0) & (others_outside > 0)
    odds = np.where(some, inside * others_outside, 1) / np.where(some, outside * others_inside, 1)
    return np.log(odds) / np.sqrt(1 / inside + 1 / outside)
