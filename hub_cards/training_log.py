"""The training log as a table and as curves: entries of `TrainerState.log_history` in, rows and series out."""

from collections.abc import Mapping, Sequence
from typing import Any

from .formatting import metric_name, plain

MAX_ROWS = 20  # of the table; the whole log lies beside the card
_VALIDATION = "eval_"


def log_rows(logs: Sequence[Mapping[str, Any]], max_rows: int = MAX_ROWS) -> list[dict[str, Any]]:
    """One row for each step that was logged: step, epoch, the training losses and the validation's.

    Entries of one step make one row. A long log is thinned out evenly; its first and last rows stay.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in logs:
        cells = {title: value for key, value in entry.items() if (title := _title(key)) is not None}
        if cells:
            row = rows.setdefault(entry.get("step", 0), {})
            row |= {"Step": entry.get("step"), "Epoch": entry.get("epoch")} | cells
    kept = [rows[step] for step in sorted(rows)]
    if len(kept) > max_rows:
        places = sorted({round(place * (len(kept) - 1) / (max_rows - 1)) for place in range(max_rows)})
        kept = [kept[place] for place in places]
    columns = list(dict.fromkeys(column for row in kept for column in row))
    order = sorted(columns, key=lambda column: (column not in ("Step", "Epoch"), column.startswith("Validation")))
    return [{column: row[column] for column in order if column in row} for row in kept]


def series(logs: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, tuple[list[int], list[float]]]:
    """(steps, values) of each value whose key begins with `prefix`, by the rest of its key."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for entry in logs:
        for key, value in entry.items():
            value = plain(value)
            if key.startswith(prefix) and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = found.setdefault(key.removeprefix(prefix), ([], []))
                steps.append(entry.get("step", 0))
                values.append(value)
    return found


def _title(key: str) -> str | None:
    """Title of a column of the table, `None` for what does not belong there."""
    if key == "loss":
        return "Training loss"
    if key.startswith("loss/"):
        return key.removeprefix("loss/").replace("_", " ")
    if key == _VALIDATION + "loss":
        return "Validation loss"
    stem = key.removeprefix(_VALIDATION)
    if key.startswith(_VALIDATION) and stem.endswith("@10"):
        return f"Validation {metric_name(stem)}"
    return None
