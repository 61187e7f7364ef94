"""Results as the Hub's benchmarks read them, `.eval_results/utgrec.yaml` beside the card, from the same values.

The Hub's layout (https://huggingface.co/docs/hub/eval-results) has one value for a task of a data set there, so only
evaluations on a data set of the Hub are written; the `model-index` of the card has all.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from .files import write_text
from .metadata import metrics_of, protocol_of
from .values import Card, ModelCardValues

EVAL_RESULTS_FILE = f"{EVAL_RESULTS_FOLDER}/utgrec.yaml"  # results of other origin have files of their own


def eval_results_text(values: Card) -> str | None:
    """
    The file's text; `None` if there is no evaluation on a data set of the Hub.

    A task is named by what its value is of: `<configuration, or default>/<part>/<metric>`, such as
    `default/test/ndcg@10`. What else the protocol says is in its notes.
    """
    entries = list(_entries(values)) if isinstance(values, ModelCardValues) else []
    if not entries:
        return None
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=110)


def _entries(values: ModelCardValues) -> Iterator[EvalResultEntry]:
    for evaluation in values.evaluations:
        if evaluation.dataset_id is None:
            continue
        protocol = protocol_of(evaluation)
        part = protocol.pop("part", None)
        notes = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items())
        for metric, value in metrics_of(evaluation).items():
            task = "/".join(filter(None, (evaluation.dataset_config or "default", part, metric)))
            yield EvalResultEntry(evaluation.dataset_id, task, value, notes=notes or None)


def write_eval_results(folder: str | os.PathLike[str], values: Card) -> Path | None:
    """Writes the file to the folder of a card and returns its path; without such an evaluation one that is there from
    before goes."""
    path, text = Path(folder) / EVAL_RESULTS_FILE, eval_results_text(values)
    if text is None:
        path.unlink(missing_ok=True)
        return None
    return write_text(path, text)
