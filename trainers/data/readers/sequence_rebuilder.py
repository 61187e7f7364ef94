"""Rebuilding of sequences from training examples: rows of a user, a history (often cut) and the item after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from trainers.data.readers.base import ReadError, ReadingReport
from trainers.data.readers.text_lines import table_batches

PARTS = ("train", "valid", "test")  # of the files that hold such examples, in the order in time


class SequenceRebuilder:
    """
    Joins a user's windows where they overlap, file after file: training, validation, test.

    Rows of a user come with growing histories (or of one length, when they are cut), or, as some programs write them,
    with shrinking ones: then the later rows add nothing. A row that fits neither is dropped and counted.

    Args:
        report (`ReadingReport`): counts the rows that are dropped.

    Attributes:
        sequences (`dict[str, list[str]]`): each user's items so far, oldest first.
    """

    def __init__(self, report: ReadingReport):
        self.report = report
        self.sequences: dict[str, list[str]] = {}
        self._last_length: dict[str, int] = {}

    def add(self, rows: Iterable[tuple[str, str, list[str], str]]) -> None:
        """Takes rows of place (for messages), user, history (oldest first) and target."""
        for place, user, history, target in rows:
            sequence = self.sequences.get(user)
            if sequence is None:
                self.sequences[user] = [*history, target]
            elif len(history) < self._last_length[user] and _contains(sequence, [*history, target]):
                pass
            elif overlap := _overlap(sequence, history):
                sequence += [*history[overlap:], target]
            else:
                self._drop(place, user, history, target)
            self._last_length[user] = len(history)

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


def atomic_windows(path: Path, user: str = "user_id:token") -> Iterator[tuple[str, str, list[str], str]]:
    """Rows of a RecBole file with histories: place, user, history, target."""
    columns = {user: "user", "item_id_list:token_seq": "history", "item_id:token": "item"}
    for batch in table_batches(path, columns, ReadingReport(), separator="\t", quote=None):
        for user_id, history, item, line in batch.select("user", "history", "item", "line").iter_rows():
            if user_id is None or item is None:
                raise ReadError(f"{path}, line {line}: the user or the item is missing.")
            yield f"{path.name}, line {line}", user_id, (history or "").split(), item
