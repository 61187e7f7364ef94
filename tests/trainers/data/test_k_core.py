"""The k-core against the removal of one offender at a time."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.k_core import k_core, renumbered

checked = settings(max_examples=50, deadline=None)
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40)


@checked
@given(PAIRS, st.integers(1, 4))
def test_k_core_is_the_fixed_point(pairs, k):
    users, items = np.array([u for u, _ in pairs], np.int64), np.array([i for _, i in pairs], np.int64)
    kept, rounds = k_core(users, items, k)
    left = [pairs[place] for place in kept]
    for side in range(2):
        assert all(count >= k for count in Counter(pair[side] for pair in left).values())
    # the largest such part: removing one offender at a time ends there too
    naive_left = list(range(len(pairs)))
    while True:
        counts = [Counter(pairs[place][side] for place in naive_left) for side in range(2)]
        offender = next((p for p in naive_left if min(counts[s][pairs[p][s]] for s in range(2)) < k), None)
        if offender is None:
            break
        naive_left.remove(offender)
    assert kept.tolist() == naive_left and rounds <= len(pairs) + 1


def test_k_core_that_needs_several_rounds():
    users, items = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 2, 2, 3, 0, 1])
    kept, rounds = k_core(users, items, 2)
    assert kept.tolist() == [0, 1, 6, 7] and rounds == 5  # the last one changes nothing


@checked
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.sets(st.integers(0, 9)))
def test_renumbered_rows_have_no_gaps_and_keep_their_order(rows, also):
    rows, used = np.array(rows, np.int32), np.zeros(10, bool)
    used[[*rows, *also]] = True
    new = renumbered(rows, used)
    names = sorted({*rows.tolist(), *also})
    assert new.dtype == rows.dtype and [names[row] for row in new] == rows.tolist()
