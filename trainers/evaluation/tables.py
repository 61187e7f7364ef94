"""Results of [`trainers.evaluation.protocol.evaluate`] as Markdown tables and as JSON files, with their commands."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hub_cards import write_text
from hub_cards.formatting import format_cell, markdown_table
from trainers.evaluation.metrics import is_metric, is_rank_metric, metrics_per_case

SLICES = ("long_tail", "history_length", "cold_targets", "seen_transitions")
CASES = ("users", "targets", "ranks")  # what a file keeps of "per_user": the metrics of each case follow from it
EARLIER_NAMES = {"ranks": "places"}  # in files of version 0.1


def render_report(results: Sequence[Mapping[str, Any]]) -> str:
    """All that results say, as Markdown: metrics with intervals or deviations, protocol, slices, comparisons.

    One table of metrics and one of the protocol have a line per result; every slice and comparison has its own.
    """
    metrics = [{"name": result["name"], **_metric_cells(result)} for result in results]
    protocol = [
        {key: value for key, value in result.items() if not is_metric(key) and not isinstance(value, list | dict)}
        for result in results
    ]
    blocks = [markdown_table(metrics), markdown_table(protocol)]
    for result in results:
        blocks += [f"{result['name']}\n\n{markdown_table(result[key])}" for key in SLICES if key in result]
        if "comparison" in result:
            tests = [{"metric": name, **test} for name, test in result["comparison"]["metrics"].items()]
            blocks.append(f"{result['name']} against {result['comparison']['with']}\n\n{markdown_table(tests)}")
    return "\n\n".join(blocks)


def _metric_cells(result: Mapping[str, Any]) -> dict[str, str]:
    """`0.0665 [0.0633, 0.0697]` with an interval, `0.0665 ± 0.0012` with a standard deviation over seeds."""
    cells = {}
    for name, value in result.items():
        if not is_metric(name):
            continue
        cells[name] = format_cell(value)
        if name in result.get("intervals", {}):
            low, high = result["intervals"][name]
            cells[name] += f" [{format_cell(low)}, {format_cell(high)}]"
        elif result.get("sd", {}).get(name) is not None:
            cells[name] += f" ± {format_cell(result['sd'][name])}"
    return cells


def to_json(result: Mapping[str, Any]) -> str:
    """A result as one line of JSON. Of `"per_user"` the cases and ranks stay, [`load_result`] computes the metrics."""
    if "per_user" in result:
        result = {**result, "per_user": {name: result["per_user"][name].tolist() for name in CASES}}
    return json.dumps(result)


def save_results(results: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes results as a file with a line of JSON for each."""
    write_text(path, "".join(f"{to_json(result)}\n" for result in results))


def load_result(path: str | Path) -> dict[str, Any]:
    """Reads one result that [`save_results`] wrote, with the metrics of each case in `"per_user"` where it has them.

    Raises:
        ValueError: the file is no result.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(result, dict) or "name" not in result:
            raise ValueError("it has no name")
        if "per_user" in result:
            stored = result["per_user"]
            cases = {
                name: np.array(stored[name] if name in stored else stored[EARLIER_NAMES[name]], np.int64)
                for name in CASES
            }
            ks = sorted({int(name.partition("@")[2]) for name in result if is_rank_metric(name)})
            result["per_user"] = {**cases, **metrics_per_case(cases["ranks"], ks)}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is no result of `utgrec evaluate`: {error}.") from error
    return result


def portable_command(program: Sequence[str], argv: Sequence[str]) -> str:
    """A command line for a result: files and folders of this machine by their names alone."""

    def portable(word: str) -> str:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if value and (os.path.isabs(value) or os.path.exists(value)):
            value = os.path.basename(os.path.abspath(value))
        return f"{flag}{equals}{value}"

    return shlex.join([*program, *map(portable, argv)])
