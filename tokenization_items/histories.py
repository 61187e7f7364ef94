"""Histories of items → inputs of a generative recommender: one vectorised gather, the same for training and use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hub_cards import named

PAD_TOKEN_ID = 0


def encode_windows(
    items: np.ndarray, starts: np.ndarray, ends: np.ndarray, token_table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes windows of one flat array of item rows, without copying sequences.

    Args:
        items (`np.ndarray`): int [total] item rows.
        starts (`np.ndarray`): int [B] position of the window's first item.
        ends (`np.ndarray`): int [B] position after its last item; every window holds at least one item.
        token_table (`np.ndarray`): int [n, L] token ids of every item.

    Returns:
        `input_ids` and `attention_mask`, int64 [B, H·L] with H the longest window of the batch; semantic IDs follow
        each other, oldest item first, and shorter windows are padded on the right with token 0.
    """
    steps = np.arange((ends - starts).max(initial=0))
    positions = starts[:, None] + steps
    inside = positions < ends[:, None]
    # places behind a window read its last item, which the mask then blanks: no position leaves `items`
    rows = items[np.minimum(positions, ends[:, None] - 1)]
    tokens = np.where(inside[..., None], token_table[rows], PAD_TOKEN_ID).astype(np.int64, copy=False)
    shape = len(starts), len(steps) * token_table.shape[1]
    return tokens.reshape(shape), np.repeat(inside, token_table.shape[1], axis=1).astype(np.int64)


def encode_histories(
    histories: Sequence[np.ndarray], token_table: np.ndarray, max_history: int | None = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes histories of item rows as a batch of recommender inputs (UTGRec, section 2: the last 20 items' codes).

    Args:
        histories (`Sequence[np.ndarray]`): B int arrays (or lists) of item rows, oldest first; the arrays may differ
            in length.
        token_table (`np.ndarray`): int [n, L] token ids of every item.
        max_history (`int`, *optional*, defaults to 20): items to keep, counted from the most recent one; None keeps
            all.

    Returns:
        `input_ids` and `attention_mask`, int64 [B, H·L], see [`encode_windows`].

    Raises:
        ValueError: no history at all, an empty one, one whose rows are no integers or lie outside of the table, or
            `max_history` below 1.

    Example:

    ```python
    >>> table = np.array([[2, 10], [3, 11], [3, 12]])
    >>> encode_histories([np.array([0, 2]), np.array([1])], table)[0]
    array([[ 2, 10,  3, 12],
           [ 3, 11,  0,  0]])
    ```
    """
    if max_history is not None and max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history}.")
    if not len(histories):
        raise ValueError("No histories to encode: give at least one.")
    lengths = np.fromiter(map(len, histories), np.int64, len(histories))
    if not lengths.all():
        empty = np.flatnonzero(lengths == 0)
        raise ValueError(
            f"{len(empty)} empty histories, at {named(empty)}: a recommendation needs at least one item. Leave "
            "these users out or give them a fallback such as the most popular items."
        )
    items = np.concatenate([np.asarray(history) for history in histories])
    if not np.issubdtype(items.dtype, np.integer):
        raise ValueError(f"Histories must hold item rows (integers), got {items.dtype}; map item ids to rows first.")
    ends = np.cumsum(lengths)
    outside = np.flatnonzero((items < 0) | (items >= len(token_table)))
    if len(outside):
        user = int(np.searchsorted(ends, outside[0], side="right"))
        raise ValueError(
            f"History {user} holds item row {items[outside[0]]}, but the token table has rows 0 to "
            f"{len(token_table) - 1}."
        )
    kept = lengths if max_history is None else np.minimum(lengths, max_history)
    return encode_windows(items, ends - kept, ends, token_table)
