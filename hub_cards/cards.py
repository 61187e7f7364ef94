"""Cards of item tokenizers, recommenders and data sets.

A card says only what it was given: a value that is missing leaves its line, column or section out. Nothing here reads
a model, a catalogue or the network; the prose lies in `templates/`.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, ModelCard, SpaceCard
from huggingface_hub.utils import yaml_dump
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .citations import METHODS, method_named
from .edits import CardError, has_section, mark_sections, merge_body, merge_metadata, sections_of, split_metadata
from .eval_results import write_eval_results
from .files import write_text
from .formatting import (
    format_cell,
    format_duration,
    known,
    markdown_list,
    markdown_table,
    metric_name,
    plain,
    without_html,
)
from .metadata import metadata_of
from .plots import write_plots
from .schema import check_card
from .training_log import log_rows
from .value_types import wrong_types
from .values import (
    Card,
    DatasetCardValues,
    Evaluation,
    ModelCardValues,
    RecommenderCardValues,
    SequentialCardValues,
    SpaceCardValues,
    TokenizerCardValues,
)

CARD_FILE = "README.md"
VALUES_FILE = "card_values.json"
_CARDS = (
    TokenizerCardValues,
    RecommenderCardValues,
    SequentialCardValues,
    ModelCardValues,
    DatasetCardValues,
    SpaceCardValues,
)
_CLIENTS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
_SLICES = {
    "long_tail": "By popularity of the target item in training",
    "history_length": "By length of the history",
    "cold_targets": "By interactions of the target item in training",
    "seen_transitions": "By how often the target item followed the last one in training",
}


def render_card(values: Card, plots: Mapping[str, str] | None = None, old: str | None = None) -> str:
    """
    Text of a `README.md`: metadata and Markdown.

    Args:
        values (`Card`): what there is to say; their class chooses the template.
        plots (*optional*): title to path of pictures beside the card.
        old (*optional*): the card that is there; what users changed in it is kept, see [`hub_cards.edits`].

    Raises:
        CardError: if the old card's metadata cannot be read, or the Hub would not take the card.
        ValueError: two evaluations share a data set's name in the metadata but not their own (see `dataset_config`).
    """
    sections = sections_of(_body(values, plots or {}))
    metadata, body = metadata_of(values), mark_sections(sections)
    if old is not None:
        old_metadata, old_body = split_metadata(old)
        metadata = merge_metadata(old_metadata, metadata, measured_before=has_section(old_body, "evaluation"))
        body = merge_body(old_body, sections)
    header = yaml_dump(metadata, line_break="\n") if metadata else ""
    text = f"---\n{header}---\n\n{body}\n"
    check_card(text, values.repo_type)
    # Read by the class that the Hub's client uses: a card that it cannot read fails here, not on the Hub.
    _CLIENTS[values.repo_type](text)
    return text


def save_card(
    folder: str | os.PathLike[str], values: Card, old: str | os.PathLike[str] | None = None, draw: bool = True
) -> Path:
    """
    Writes `README.md`, the pictures that it shows and `card_values.json`, which holds every number of the card in
    full, to a folder, and `.eval_results/utgrec.yaml` of results on data sets of the Hub. What users changed in the
    card that is there is kept.

    Args:
        folder (`str` or `os.PathLike[str]`): made if absent.
        values (`Card`): what there is to say.
        old (*optional*): another folder whose card is the one to refresh if there is none in `folder`.
        draw (`bool`, *optional*, defaults to `True`): whether to draw pictures, which takes longer than all the rest.

    Returns:
        The card's path.

    Raises:
        CardError, ValueError: as [`render_card`]; no card is written then, and the old one stays.
    """
    folder = Path(folder)
    plots = write_plots(folder, values.logs) if draw and isinstance(values, ModelCardValues) else {}
    write_text(folder / VALUES_FILE, values_text(values))
    found = [Path(place) / CARD_FILE for place in (folder, old) if place is not None]
    text = next((path.read_text(encoding="utf-8") for path in found if path.is_file()), None)
    card = render_card(values, plots, text)
    write_eval_results(folder, values)
    return write_text(folder / CARD_FILE, card)


def values_text(values: Card) -> str:
    """Every value of a card as JSON."""
    document = {"card": values.kind, **plain(dataclasses.asdict(values))}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def load_values(folder: str | os.PathLike[str]) -> Card | None:
    """
    Reads the `card_values.json` of a folder, `None` if it has none: to write its card anew with a few other values.

    Raises:
        CardError: if the file is not one that [`save_card`] wrote.
    """
    path = Path(folder) / VALUES_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        card_class = {cls.kind: cls for cls in _CARDS}[values.pop("card")]
        if "method" not in values and values.get("citation") == METHODS["utgrec"].citation:
            del values["citation"]  # the default of version 0.1, whatever the method
        if "evaluations" in values:
            for evaluation in values["evaluations"]:
                if wrong := wrong_types(Evaluation, evaluation):
                    raise CardError(f"{path}: evaluations: {'; '.join(wrong)}")
            values["evaluations"] = [Evaluation(**evaluation) for evaluation in values["evaluations"]]
        if wrong := wrong_types(card_class, values):
            raise CardError(f"{path}: {'; '.join(wrong)}")
        return card_class(**values)
    except CardError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CardError(f"{path} does not hold the values of a card: {error!r}") from error


@functools.cache  # compiling a template takes longer than all the rest, and a training writes a card with each save
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters |= {"table": markdown_table, "bullets": markdown_list, "duration": format_duration}
    return environment


def _body(values: Card, plots: Mapping[str, str]) -> str:
    shown: dict[str, Any] = {"values": values, "location": json.dumps(values.repo_id or "."), "plots": plots}
    shown |= {"title": without_html(" ".join(values.name.split())), "citation": values.citation}
    if isinstance(values, ModelCardValues):
        method = method_named(values.method)
        shown |= {
            "citation": values.citation or (method and method.citation),
            "results": _result_tables(values.evaluations),
            "slices": _slice_tables(values.evaluations),
            "training_seconds": plain(values.training_seconds),
            "log": log_rows(values.logs),
            "model_facts": {
                "Method": method and method.title,
                "Base model": values.base_model,
                "Base model revision": values.base_model_revision,
                "Codes per level": " × ".join(map(str, values.level_sizes)) or None,
                "Items in the index": values.num_items,
                "Parameters": values.num_parameters,
                "Fingerprint of codebooks and vocabulary": values.fingerprint,
            },
        }
    if isinstance(values, DatasetCardValues):
        # A repository of one domain has its files at the top.
        folder = values.domains[0].get("folder") if values.domains else None
        shown["subfolder"] = f" + {json.dumps('/' + folder)}" if folder else ""
        shown["first_config"] = json.dumps(values.configs[0]["config_name"]) if values.configs else None
    body = _templates().get_template(values.template).render(shown)
    return re.sub(r"\n{3,}", "\n\n", body).strip()


def _result_tables(evaluations: Iterable[Evaluation]) -> list[tuple[str, list[dict[str, Any]]]]:
    """One (protocol in words, rows) pair for each protocol, in the order given; a column for each cut-off."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        rows: dict[str, dict[str, Any]] = {}
        for metric, value in known(evaluation.metrics).items():
            name, _, cut = metric_name(metric).partition("@")
            row = rows.setdefault(name, {"Data set": evaluation.dataset, "Metric": name})
            row[f"@{cut}"] = _with_spread(value, evaluation.intervals.get(metric), evaluation.deviations.get(metric))
        if rows:
            tables.setdefault(_protocol(evaluation), []).extend(rows.values())
    return list(tables.items())


def _protocol(evaluation: Evaluation) -> str:
    # What was chosen comes before what was counted; of what there was none, nothing is said.
    told = [(key, value) for key, value in known(evaluation.protocol).items() if value != 0]
    told.sort(key=lambda entry: not isinstance(entry[1], str))
    words = [f"{key.replace('_', ' ')}: {value}" for key, value in told]
    if evaluation.num_users is not None:
        words.append(f"users: {evaluation.num_users}")
    if evaluation.intervals:
        words.append("in brackets: 95 % intervals")
    if known(evaluation.deviations):
        words.append("±: standard deviation over seeds")
    return "; ".join(words)


def _with_spread(value: float, interval: Sequence[float] | None, deviation: float | None) -> str:
    text = format_cell(float(value))
    if interval is not None:
        return f"{text} [{', '.join(format_cell(float(end)) for end in interval)}]"
    if deviation is None or plain(deviation) is None:
        return text
    return f"{text} ± {format_cell(float(deviation))}"


def _slice_tables(evaluations: Iterable[Evaluation]) -> list[tuple[str, list[dict[str, Any]]]]:
    """One (title, rows) pair for each way to group users or targets; only groups that there are."""
    tables: dict[str, list[dict[str, Any]]] = {}
    evaluations = [evaluation for evaluation in evaluations if evaluation.slices]
    for evaluation in evaluations:
        for name, groups in evaluation.slices.items():
            own = {"Data set": evaluation.dataset} if len(evaluations) > 1 else {}
            groups = [group for group in groups if group.get("num_users") != 0]
            if len(groups) < 2:  # one group is all users
                continue
            rows = [own | {_column(key): value for key, value in group.items()} for group in groups]
            tables.setdefault(_SLICES.get(name, name.replace("_", " ").capitalize()), []).extend(rows)
    return list(tables.items())


def _column(key: str) -> str:
    return metric_name(key) if "@" in key else key.replace("_", " ").capitalize()
