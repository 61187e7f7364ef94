"""What a report counts of an assignment, by hand."""

import numpy as np
import pytest

from tokenization_items.collision_report import group_sizes, report_assignment


def test_the_report_counts_what_happened():
    level_vectors = [np.array([[0.0], [4.0]]), np.array([[0.0], [1.0], [3.0]])]
    given_codes = np.array([[0, 0], [0, 0], [1, 1], [1, 2]])
    final = np.array([[0, 0], [0, 1], [0, 2], [1, 2]])
    occupied = np.array([[1, 2]])
    residuals = np.array([[0.0, 0.0], [0.0, 0.25], [3.0, 1.0], [4.0, 3.0]])[:, :, None]
    report = report_assignment(given_codes, final, occupied, [2, 3], residuals, level_vectors)
    assert report.num_items == 4
    assert (report.collision_rate, report.largest_group) == (0.75, 2)
    assert report.items_sharing_codes == 3  # the first two with each other, the last one with the occupied identifier
    assert report.items_moved == 2
    assert report.moved_by_level == [1, 1]
    # Item 1: 0.75² - 0.25² = 0.5. Item 2: (3-0)² - (3-4)² + (1-3)² - (1-1)² = 8 + 4.
    assert report.mean_extra_distance == pytest.approx(6.25)
    assert report.max_extra_distance == pytest.approx(12.0)
    assert report.used == [1.0, 1.0]
    assert report.perplexity == pytest.approx([2.0, 2**1.5])
    assert report.to_dict()["items_moved"] == 2
    assert "4 items added; 3 shared their codes" in str(report) and "level 1: 100.0% of codes used" in str(report)


def test_items_are_counted_at_the_first_level_at_which_they_move():
    given_codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
    final = np.array([[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])
    vectors = [np.arange(2.0)[:, None]] * 3
    report = report_assignment(given_codes, final, given_codes[:0], [2] * 3, np.zeros((5, 3, 1)), vectors)
    assert report.moved_by_level == [1, 1, 2] and report.items_moved == 4


def test_group_sizes_by_hand():
    codes = np.array([[0, 1], [2, 1], [0, 1], [1, 0]])
    assert group_sizes(codes).tolist() == [2, 1, 2, 1]
    assert group_sizes(codes, np.array([[1, 0], [0, 1], [7, 7]])).tolist() == [3, 1, 3, 2]
    assert group_sizes(codes[:0]).tolist() == []
