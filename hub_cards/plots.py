"""Curves of the training, as pictures beside the card. Without matplotlib there are none."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import replacing
from .formatting import metric_name
from .training_log import series

FOLDER = "plots"
LOSSES, CODES, VALIDATION = "losses.png", "codes.png", "validation.png"
TITLES = {LOSSES: "Training losses", CODES: "Usage of the codes", VALIDATION: "Validation"}
PANEL = (4.2, 3.0)  # width and height of one pane, in inches

Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]


def write_plots(folder: str | os.PathLike, logs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """
    Draws what the log holds.

    Args:
        folder (`str` or `os.PathLike`): the card's; the pictures go to `plots/` in it.
        logs (`Sequence[Mapping[str, Any]]`): entries of the training log.

    Returns:
        Title to path relative to `folder`, of the pictures that were drawn; nothing without matplotlib, or for a log
        of fewer than two entries.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    panels = {LOSSES: _loss_panels(logs), CODES: _code_panels(logs), VALIDATION: _validation_panels(logs)}
    written = {}
    for name, curves in panels.items():
        drawn = {title: lines for title, lines in curves.items() if any(len(steps) > 1 for steps, _ in lines.values())}
        if not drawn:
            continue
        width, height = PANEL[0] * len(drawn), PANEL[1]
        figure = Figure(figsize=(width, height), dpi=110)
        figure.subplots_adjust(  # in inches; laying out by content would draw everything twice
            left=0.6 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.35 / height, wspace=0.25
        )
        panes = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axes, (title, lines) in zip(panes, drawn.items(), strict=True):
            for label, (steps, values) in lines.items():
                axes.plot(steps, values, label=label, linewidth=1.2, marker="." if len(steps) < 40 else None)
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
            if len(lines) > 1:
                axes.legend(fontsize="small")
        path = Path(folder) / FOLDER / name
        with replacing(path) as (temporary,):
            # Without the version of matplotlib in the file, equal curves give equal files.
            figure.savefig(temporary, format="png", metadata={"Software": None})
        written[TITLES[name]] = f"{FOLDER}/{name}"
    return written


def _loss_panels(logs: Sequence[Mapping[str, Any]]) -> dict[str, Curves]:
    total = series([{key: value for key, value in entry.items() if key in ("loss", "step")} for entry in logs], "loss")
    parts = {name.replace("_", " "): curve for name, curve in series(logs, "loss/").items()}
    return {"Training loss": total, "Its parts, unweighted": parts}


def _code_panels(logs: Sequence[Mapping[str, Any]]) -> dict[str, Curves]:
    names = {"Share of codes used": "codes/used_", "Perplexity of codes": "codes/perplexity_"}
    return {
        title: {f"level {level}": curve for level, curve in series(logs, prefix).items()}
        for title, prefix in names.items()
    }


def _validation_panels(logs: Sequence[Mapping[str, Any]]) -> dict[str, Curves]:
    curves = {
        metric_name(name): curve
        for name, curve in series(logs, "eval_").items()
        if name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    }
    return {"Validation": curves}
