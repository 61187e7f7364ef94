"""Fragments of a page: HTML of plain values, in which all that comes from outside is text."""

import base64
import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent / "templates" / "space"


def fragment(name: str, /, **values: Any) -> str:
    """
    HTML of a part of the page.

    Args:
        name (`str`): of the template in `templates/space`, without `.html`.
        values: what it shows.
    """
    return _templates().get_template(f"{name}.html").render(values).strip()


def style_sheet() -> str:
    """The CSS of all fragments."""
    return (FOLDER / "page.css").read_text(encoding="utf-8")


def data_address(content: bytes, media_type: str) -> str:
    """A file as an address that holds it, so that nothing is fetched to show it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def percent(share: float) -> str:
    """`0.1234` as `12 %`, small shares as `0.31 %` and `< 0.01 %`."""
    value = 100 * share
    if value >= 9.95 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 0.95 else f"{value:.2f} %" if value >= 0.01 else "< 0.01 %"


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters |= {"percent": percent}
    return environment
