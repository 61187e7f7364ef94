"""Sequences put together again from training examples: rows of a user, a history (often cut) and the item after it."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from trainers.data.readers.base import ReadingReport


class WindowedSequences:
    """
    Joins a user's windows where they overlap, file after file: training, validation, test.

    Rows of a user come with growing histories (or of one length, when they are cut), or, as some programs write them,
    with shrinking ones: then the later rows add nothing. A row that fits neither is dropped and counted.

    Args:
        report (`ReadingReport`): counts the rows, as interactions, and those dropped.
    """

    def __init__(self, report: ReadingReport):
        self.report = report
        self._sequences: dict[str, list[str]] = {}
        self._last_length: dict[str, int] = {}

    def add(self, rows: Iterable[tuple[str, str, list[str], str]]) -> None:
        """Takes rows of place (for messages), user, history (oldest first) and target."""
        for place, user, history, target in rows:
            sequence = self._sequences.get(user)
            if sequence is None:
                self._sequences[user] = [*history, target]
            elif len(history) < self._last_length[user] and _contains(sequence, [*history, target]):
                pass
            elif overlap := _overlap(sequence, history):
                sequence += [*history[overlap:], target]
            else:
                self._drop(place, user, history, target)
            self._last_length[user] = len(history)

    def log(self) -> pl.DataFrame:
        """`user_id`, `item_id` and `timestamp`, the place in the sequence from 0."""
        users = list(self._sequences)
        frame = pl.DataFrame({"user_id": users, "item_id": list(self._sequences.values())})
        frame = frame.with_columns(timestamp=pl.int_ranges(pl.col("item_id").list.len(), dtype=pl.Int64))
        frame = frame.explode("item_id", "timestamp")
        self.report.read["interactions"] += frame.height
        return frame

    def _drop(self, place: str, user: str, history: list[str], target: str) -> None:
        reason = "the row does not continue its user's sequence"
        self.report.drop("windows", reason, 1, [f"{place}: user {user!r}, {history[-3:]} before {target!r}"])


def _overlap(sequence: list[str], history: list[str]) -> int:
    """Length of the longest end of `sequence` that is a beginning of `history`."""
    for length in range(min(len(sequence), len(history)), 0, -1):
        if sequence[-length:] == history[:length]:
            return length
    return 0


def _contains(sequence: list[str], part: list[str]) -> bool:
    return any(sequence[start : start + len(part)] == part for start in range(len(sequence) - len(part) + 1))
