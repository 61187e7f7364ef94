"""Pictures of codebooks: how many items each code has, and how many are behind a prefix. Without matplotlib none."""

import io
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

SIZE = (4.4, 2.6)  # width and height in inches: one picture beside the other, or below it on a phone
DPI = 130


def code_pictures(
    level_counts: Sequence[Sequence[int]], prefix_counts: Sequence[Sequence[int]]
) -> list[tuple[str, bytes]]:
    """
    Draws how a catalogue uses its codes.

    Args:
        level_counts (`Sequence[Sequence[int]]`): of each level the items of each code.
        prefix_counts (`Sequence[Sequence[int]]`): of one code, two codes, ... the items of each prefix that has any.

    Returns:
        Titles and PNG files: a picture of each level, its codes by their number of items with their mean as a dotted
        line, and one of the share of items that the largest prefixes have; nothing without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    found = []
    for level, counts in enumerate(level_counts, start=1):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes, ordered = figure.subplots(), sorted(map(int, counts), reverse=True)
        axes.stairs(ordered, [place + 0.5 for place in range(len(ordered) + 1)], fill=True)
        axes.axhline(sum(ordered) / len(ordered), color="black", linestyle=":", linewidth=1)
        axes.set(xlabel="codes, by their number of items", ylabel="items", xlim=(0.5, len(ordered) + 0.5))
        found.append((f"Level {level}: items of each code", _png(figure)))
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for length, counts in enumerate(prefix_counts, start=1):
        ordered, total = sorted(map(int, counts), reverse=True), sum(map(int, counts))
        places = [place / len(ordered) for place in range(len(ordered) + 1)]
        shares = [each / total for each in accumulate(ordered, initial=0)]
        axes.plot(places, shares, label="1 code" if length == 1 else f"{length} codes", linewidth=1.4)
    axes.set(xlabel="share of the prefixes, the largest first", ylabel="share of the items", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    found.append(("Items of the largest prefixes", _png(figure)))
    return found


def _png(figure: Any) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", metadata={"Software": None})  # equal counts give equal files
        return file.getvalue()
