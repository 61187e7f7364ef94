"""Splits of interactions into training, validation and test, as functions of arrays.

| split           | test, validation                                                                                |
|-----------------|-------------------------------------------------------------------------------------------------|
| `leave-one-out` | a user's last and second last interaction; users with fewer than three stay out of all parts    |
| `temporal`      | what comes after two points in time, which are the same for all users                           |
| `ratio`         | a share of each user's interactions, from the end; users with fewer than three are training     |

Interactions stand user after user, oldest first. Leave-one-out follows from this order, so that no part is stored.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

PARTS = ("train", "validation", "test")  # a part is stored as its place in this list
TRAIN, VALIDATION, TEST = range(len(PARTS))
MIN_INTERACTIONS = 3  # of a user: one each for training, validation and test

Split = Literal["leave-one-out", "temporal", "ratio"]
Ratios = tuple[float, float, float]
MAX_LABEL_ERROR = 1e-9  # of a share times a number: 0.29 * 100 is 28.999999999999996


class SplitError(ValueError):
    """Interactions that cannot be split as it was asked for."""


def training_positions(lengths: np.ndarray, parts: np.ndarray | None = None) -> np.ndarray:
    """
    The interactions that may be learnt from.

    Args:
        lengths (`np.ndarray`): int [U] number of interactions of each user.
        parts (`np.ndarray`, *optional*): int8 [total] part of each interaction. Without it the split is leave-one-out:
            all but the last two interactions of every user.

    Returns:
        `np.ndarray`: bool [total].
    """
    if parts is not None:
        return parts == TRAIN
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) < np.repeat(ends - (MIN_INTERACTIONS - 1), lengths)


def temporal_parts(times: np.ndarray, ratios: Ratios) -> np.ndarray:
    """
    Cuts the whole log at two points in time; interactions of one time are in one part.

    Args:
        times (`np.ndarray`): int [total].
        ratios (`tuple[float, float, float]`): shares of training, validation and test.

    Returns:
        `np.ndarray`: int8 [total].

    Raises:
        SplitError: if so many interactions share one time that a part would be empty.
    """
    ordered = np.sort(times)
    validation, test = (ordered[place] for place in temporal_places(len(times), ratios))
    check_starts(ordered[0], validation, test)
    return parts_of_times(times, (validation, test))


def temporal_places(total: int, ratios: Ratios) -> tuple[int, int]:
    """Of so many times in order, the places of those at which validation and test start."""
    return int(total * ratios[0] + MAX_LABEL_ERROR), int(total * (ratios[0] + ratios[1]) + MAX_LABEL_ERROR)


def check_starts(first: int, validation: int, test: int) -> None:
    """Raises `SplitError` if nothing lies between the first time, the start of validation and that of test."""
    if not first < validation < test:
        raise SplitError("Too few different times for a temporal split: a part would be empty.")


def parts_of_times(times: np.ndarray, starts: tuple[int, int]) -> np.ndarray:
    """The part of each time: int8 [total], from the starts of validation and test."""
    return (times >= starts[0]).astype(np.int8) + (times >= starts[1])


def ratio_parts(lengths: np.ndarray, ratios: Ratios) -> np.ndarray:
    """
    Cuts each user's sequence. Validation and test of a user with at least three interactions get the share of its
    interactions, rounded down, but at least one each; shorter users are training.

    Args:
        lengths (`np.ndarray`): int [U] number of interactions of each user.
        ratios (`tuple[float, float, float]`): shares of training, validation and test.

    Returns:
        `np.ndarray`: int8 [total].
    """
    validation, test = (
        np.where(lengths < MIN_INTERACTIONS, 0, np.maximum((lengths * share + MAX_LABEL_ERROR).astype(np.int64), 1))
        for share in ratios[1:]
    )
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())  # 1: a user's last interaction
    in_test = from_end <= np.repeat(test, lengths)
    return (from_end <= np.repeat(test + validation, lengths)).astype(np.int8) + in_test
