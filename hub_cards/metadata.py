"""Metadata of cards (the YAML at their top) from values."""

import re
from collections.abc import Iterable
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData

from .edits import CardError
from .formatting import known, metric_name
from .schema import size_category
from .space_files import APP_FILE
from .values import Card, DatasetCardValues, Evaluation, ModelCardValues, SequentialCardValues, SpaceCardValues

TAGS = ("utgrec", "generative-recommendation", "sequential-recommendation")
CONFIDENCE = 0.95  # of the intervals
# Of the whole catalogue, not of a user: they stand in the text.
CATALOGUE_METRICS = ("coverage", "gini", "novelty")


def metadata_of(values: Card) -> dict[str, Any]:
    """Keys and values, those that are missing left out.

    Raises:
        ValueError: two evaluations share a data set's name in the metadata but not their own (see `dataset_config`).
    """
    language = values.language if isinstance(values.language, str | None) else list(values.language) or None
    data: DatasetCardData | ModelCardData | SpaceCardData
    if isinstance(values, DatasetCardValues):
        data = DatasetCardData(
            license=values.license,
            language=language,
            pretty_name=values.name,
            tags=["recommendation", "sequential-recommendation"],
            size_categories=None if values.num_rows is None else [size_category(values.num_rows)],
            configs=[dict(config) for config in values.configs] or None,
        )
    elif isinstance(values, SpaceCardValues):
        data = SpaceCardData(
            title=values.name,
            emoji="🛍️",
            colorFrom="indigo",
            colorTo="green",
            sdk="gradio",
            sdk_version=values.sdk_version,
            python_version="3.11",
            app_file=APP_FILE,
            license=values.license,
            models=list(values.models),
            datasets=list(values.datasets) or None,
            tags=list(TAGS),
        )
    else:
        assert isinstance(values, ModelCardValues)
        data = _model_metadata(values, language)
    # Through the client's own classes, which know how results become a model-index.
    return yaml.safe_load(data.to_yaml()) or {}


def _model_metadata(values: ModelCardValues, language: str | list[str] | None) -> ModelCardData:
    results = _eval_results(values.evaluations)
    tags = [tag for tag in TAGS if "generative" not in tag] if isinstance(values, SequentialCardValues) else TAGS
    return ModelCardData(
        license=values.license,
        language=language,
        library_name="transformers",
        tags=[*tags, *(tag for tag in values.tags if tag not in tags)],
        base_model=values.base_model,
        datasets=list(values.datasets) or None,
        model_name=values.name if results else None,
        eval_results=results or None,
    )


def _eval_results(evaluations: Iterable[Evaluation]) -> list[EvalResult]:
    results: list[EvalResult] = []
    names: dict[tuple[str, str | None, str | None], str] = {}
    for evaluation in evaluations:
        protocol = protocol_of(evaluation)
        dataset_type = evaluation.dataset_id or re.sub(r"[\W_]+", "-", evaluation.dataset.lower()).strip("-")
        dataset_type = dataset_type or "data"
        # The Hub's client groups results by these three and keeps the first name of a group, whatever the others say.
        part = protocol.get("part")
        if not isinstance(part, str | None):
            raise CardError(f"The protocol's part of the evaluation on {evaluation.dataset!r} is no text: {part!r}.")
        key = (dataset_type, evaluation.dataset_config, part)
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
                dataset_split=part,
                metric_type=metric,
                metric_name=metric_name(metric),
                metric_value=value,
                # The protocol goes with every metric: results of one data set under two protocols share one group.
                metric_args=(protocol | _spread(evaluation, metric)) or None,
            )
            for metric, value in metrics_of(evaluation).items()
        ]
    return results


def protocol_of(evaluation: Evaluation) -> dict[str, Any]:
    """How the metrics were taken, without counts of what there was none of."""
    protocol = known(evaluation.protocol) | known({"num_users": evaluation.num_users})
    return {key: value for key, value in protocol.items() if value != 0}


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """The metrics of users that are known."""
    return {
        metric: value
        for metric, value in known(evaluation.metrics).items()
        if metric.partition("@")[0] not in CATALOGUE_METRICS
    }


def _spread(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    interval, deviation = evaluation.intervals.get(metric), evaluation.deviations.get(metric)
    spread: dict[str, Any] = {"standard_deviation": deviation}
    return known(spread if interval is None else {"interval": list(interval), "confidence": CONFIDENCE} | spread)
