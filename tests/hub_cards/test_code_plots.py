"""Pictures of codebooks: which there are, whole files, the same for the same counts, and none without matplotlib."""

import io
import sys
import time

import numpy as np
from PIL import Image

from hub_cards.code_plots import DPI, SIZE, code_pictures


def test_a_picture_of_each_level_and_one_of_prefixes():
    found = code_pictures([[3, 0, 5], [1, 7]], [[3, 5], [1, 2, 5]])
    titles = ["Level 1: items of each code", "Level 2: items of each code", "Items of the largest prefixes"]
    assert [title for title, _ in found] == titles
    for _, content in found:
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG" and picture.size == tuple(round(side * DPI) for side in SIZE)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # something is drawn
    assert code_pictures([[5, 3, 0], [7, 1]], [[5, 3], [5, 1, 2]]) == found  # the order of codes makes no difference
    assert code_pictures([[3, 0, 5], [1, 8]], [[3, 5], [1, 2, 5]])[1] != found[1]


def test_many_prefixes_take_no_long():
    began = time.process_time()
    code_pictures([], [[1] * 100_000])
    assert time.process_time() - began < 5


def test_without_matplotlib_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert code_pictures([[1]], [[1]]) == []
