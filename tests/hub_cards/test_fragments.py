"""Fragments of a page."""

import pytest
from jinja2 import UndefinedError

from hub_cards.fragments import data_address, fragment, percent, style_sheet


def test_values_are_text():
    assert fragment("problem", text="<b>&") == '<div class="u-problem" role="alert">&lt;b&gt;&amp;</div>'
    with pytest.raises(UndefinedError):
        fragment("problem")


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100 %"), (0.123, "12 %"), (0.0996, "10 %"), (0.0312, "3.1 %"), (0.0031, "0.31 %"), (1e-9, "< 0.01 %")],
)
def test_percent(share, text):
    assert percent(share) == text


def test_nothing_is_fetched():
    assert data_address(b"\x00\x01", "image/png") == "data:image/png;base64,AAE="
    assert "url(" not in style_sheet() and "@import" not in style_sheet()
