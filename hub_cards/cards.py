"""Cards of item tokenizers and recommenders.

A card says only what it was given: a value that is missing (`None`, empty, or a number that is not finite) leaves its
line, column or section out. Nothing here reads a model, a catalogue or the network; the prose lies in `templates/`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .formatting import format_duration, markdown_list, markdown_table, plain

UTGREC_CITATION = """\
@article{zheng2025universal,
  title   = {Universal Item Tokenization for Transferable Generative Recommendation},
  author  = {Zheng, Bowen and Lu, Hongyu and Chen, Yu and Zhao, Wayne Xin and Wen, Ji-Rong},
  journal = {arXiv preprint arXiv:2504.04405},
  year    = {2025}
}"""

_METRIC_NAMES = {"recall": "Recall", "ndcg": "NDCG"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics measured on one data set under one protocol.

    Args:
        dataset (`str`): Name of the data set as people read it, e.g. `"Musical Instruments"`.
        metrics (`Mapping[str, float]`): Metric key to value, e.g. `{"recall@10": 0.0412}`.
        protocol (`Mapping[str, Any]`, *optional*): How the metrics were taken, e.g. `{"split": "leave-one-out",
            "part": "test", "seen": "kept"}`. `"part"` becomes the split of the data set in the metadata.
        num_users (`int`, *optional*): Number of users behind the metrics.
        dataset_id (`str`, *optional*): The data set's name on the Hub. Without it the metadata carry `dataset` in
            lower case with hyphens.
        dataset_config (`str`, *optional*): Configuration of the data set, needed when one `dataset_id` holds several
            domains.
        task (`str`, *optional*, defaults to `"sequential-recommendation"`): Task name in the metadata.
    """

    dataset: str
    metrics: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    num_users: int | None = None
    dataset_id: str | None = None
    dataset_config: str | None = None
    task: str = "sequential-recommendation"

    @classmethod
    def from_result(cls, dataset: str, result: Mapping[str, Any], **names: Any) -> "Evaluation":
        """Sorts the dict of an evaluation: numbers under `"metric@k"` are metrics, other plain values the protocol.

        The recommender's `"name"` and nested entries, such as groups of users, are left to the caller.
        """
        flat = {key: value for key, value in result.items() if isinstance(plain(value), str | int | float)}
        metrics = {key: value for key, value in flat.items() if "@" in key and not isinstance(value, str)}
        protocol = {key: value for key, value in flat.items() if key not in {*metrics, "name", "num_users"}}
        return cls(dataset=dataset, metrics=metrics, protocol=protocol, num_users=flat.get("num_users"), **names)


@dataclass(frozen=True, kw_only=True)
class CardValues:
    """What both cards can say. Only `model_name` is needed.

    Args:
        model_name (`str`): Title of the card.
        repo_id (`str`, *optional*): Repository on the Hub, for the usage snippet; without it the snippet loads `"."`.
        license, language, base_model (`str`, *optional*): Metadata as the Hub spells them. `base_model` is a Hub name.
        base_model_revision (`str`, *optional*): Commit of the base model.
        datasets (`Sequence[str]`, *optional*): Hub names of the data sets trained on.
        description (`str`, *optional*): Markdown that follows the first paragraph.
        level_sizes (`Sequence[int]`, *optional*): Number of codes at each level of the identifier.
        num_items (`int`, *optional*): Items in the index that travels with the model.
        num_parameters (`int`, *optional*): Number of parameters.
        fingerprint (`str`, *optional*): Fingerprint of codebooks and vocabulary.
        evaluations (`Sequence[Evaluation]`, *optional*): Measured metrics, for the tables and the metadata.
        comparison (`Sequence[Mapping]`, *optional*): Rows of a table with other models, shown as given.
        long_tail (`Sequence[Mapping]`, *optional*): Rows of metrics by popularity of the target item.
        codebooks (`Sequence[Mapping]`, *optional*): One row for each level, e.g. `{"level": 0, "size": 256,
            "share_used": 0.98, "perplexity": 187.2}`.
        collisions (`Mapping[str, Any]`, *optional*): Counts around shared identifiers, e.g. an assignment report.
        training_data (`Sequence[Mapping]`, *optional*): One row for each domain, e.g. its users, items, interactions.
        hyperparameters (`Mapping[str, Any]`, *optional*): Names and values.
        versions (`Mapping[str, str]`, *optional*): Package to version.
        hardware (`str`, *optional*): Machine that trained the model.
        training_seconds (`float`, *optional*): Wall time of training, in seconds.
        citation (`str`, *optional*): BibTeX entry; the UTGRec paper unless told.
    """

    model_name: str
    repo_id: str | None = None
    license: str | None = None
    language: str | Sequence[str] | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    datasets: Sequence[str] = ()
    description: str | None = None
    level_sizes: Sequence[int] = ()
    num_items: int | None = None
    num_parameters: int | None = None
    fingerprint: str | None = None
    evaluations: Sequence[Evaluation] = ()
    comparison: Sequence[Mapping[str, Any]] = ()
    long_tail: Sequence[Mapping[str, Any]] = ()
    codebooks: Sequence[Mapping[str, Any]] = ()
    collisions: Mapping[str, Any] = field(default_factory=dict)
    training_data: Sequence[Mapping[str, Any]] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: str | None = None
    training_seconds: float | None = None
    citation: str | None = UTGREC_CITATION


@dataclass(frozen=True, kw_only=True)
class TokenizerCardValues(CardValues):
    """Values of an item tokenizer's card: those of [`CardValues`]."""


@dataclass(frozen=True, kw_only=True)
class RecommenderCardValues(CardValues):
    """Values of a recommender's card: those of [`CardValues`] and the way to load the model.

    Args:
        auto_class (`str`, *optional*, defaults to `"AutoModelForSeq2SeqLM"`): Auto class that loads the model.
    """

    auto_class: str = "AutoModelForSeq2SeqLM"


def render_tokenizer_card(values: TokenizerCardValues) -> str:
    """Text of an item tokenizer's `README.md`: metadata and Markdown.

    Raises:
        ValueError: two evaluations share a data set's name in the metadata but not their own (see `dataset_config`).
    """
    return _render("tokenizer_card.md", values)


def render_recommender_card(values: RecommenderCardValues) -> str:
    """Text of a recommender's `README.md`: metadata and Markdown.

    Raises:
        ValueError: two evaluations share a data set's name in the metadata but not their own (see `dataset_config`).
    """
    return _render("recommender_card.md", values)


def write_card(folder: str | os.PathLike[str], text: str) -> Path:
    """Writes `text` to `README.md` in `folder` (made if absent) in one step, and returns the file's path."""
    path = Path(folder) / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".README.md.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _render(template: str, values: CardValues) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters |= {"table": markdown_table, "bullets": markdown_list, "duration": format_duration}
    body = environment.get_template(template).render(
        values=values,
        location=json.dumps(values.repo_id or "."),
        results=_result_tables(values.evaluations),
        training_seconds=plain(values.training_seconds),
        model_facts={
            "Base model": values.base_model,
            "Base model revision": values.base_model_revision,
            "Codes per level": " × ".join(map(str, values.level_sizes)) or None,
            "Items in the index": values.num_items,
            "Parameters": values.num_parameters,
            "Fingerprint of codebooks and vocabulary": values.fingerprint,
        },
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    # Parsed again by the class that the Hub's client uses: a card that cannot be read fails here, not on the Hub.
    return str(ModelCard(f"---\n{_metadata(values).to_yaml()}\n---\n\n{body}\n"))


def _metadata(values: CardValues) -> ModelCardData:
    results = _eval_results(values.evaluations)
    language = values.language if isinstance(values.language, str | None) else list(values.language) or None
    return ModelCardData(
        license=values.license,
        language=language,
        library_name="transformers",
        tags=["utgrec", "generative-recommendation"],
        base_model=values.base_model,
        datasets=list(values.datasets) or None,
        model_name=values.model_name if results else None,
        eval_results=results or None,
    )


def _eval_results(evaluations: Iterable[Evaluation]) -> list[EvalResult]:
    results, names = [], {}
    for evaluation in evaluations:
        protocol = _known(evaluation.protocol) | _known({"num_users": evaluation.num_users})
        dataset_type = evaluation.dataset_id or re.sub(r"[^a-z0-9]+", "-", evaluation.dataset.lower()).strip("-")
        # The Hub's client groups results by these three and keeps the first name of a group, whatever the others say.
        key = (dataset_type, evaluation.dataset_config, protocol.get("part"))
        if names.setdefault(key, evaluation.dataset) != evaluation.dataset:
            raise ValueError(
                f"{names[key]!r} and {evaluation.dataset!r} are both {dataset_type!r} in the card's metadata and "
                "would be merged: give each of them its `dataset_config`."
            )
        results += [
            EvalResult(
                task_type=evaluation.task,
                dataset_type=dataset_type,
                dataset_name=evaluation.dataset,
                dataset_config=evaluation.dataset_config,
                dataset_split=protocol.get("part"),
                metric_type=metric,
                metric_name=_metric_name(metric),
                metric_value=value,
                # The protocol goes with every metric: results of one data set under two protocols share one group.
                metric_args=protocol or None,
            )
            for metric, value in _known(evaluation.metrics).items()
        ]
    return results


def _result_tables(evaluations: Iterable[Evaluation]) -> list[tuple[str, list[dict[str, Any]]]]:
    """One (protocol in words, rows) pair for each protocol, in the order given."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        metrics = {_metric_name(key): value for key, value in _known(evaluation.metrics).items()}
        if not metrics:
            continue
        protocol = ", ".join(f"{key}: {value}" for key, value in _known(evaluation.protocol).items())
        row = {"Data set": evaluation.dataset, **metrics, "Users": evaluation.num_users}
        tables.setdefault(protocol, []).append(row)
    return list(tables.items())


def _metric_name(key: str) -> str:
    stem, at, cut = key.partition("@")
    return f"{_METRIC_NAMES.get(stem, stem)}{at}{cut}"


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain(value) for key, value in values.items() if plain(value) is not None}
