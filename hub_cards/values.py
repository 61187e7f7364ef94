"""Values of cards, in plain types. A value that is missing (`None`, empty, not finite) leaves its line out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .formatting import plain


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics measured on one data set under one protocol.

    Args:
        dataset (`str`): Name of the data set for readers, e.g. `"Musical Instruments"`.
        metrics (`Mapping[str, float]`): Metric key to value, e.g. `{"recall@10": 0.0412}`.
        protocol (`Mapping[str, Any]`, *optional*): How the metrics were taken, e.g. `{"split": "leave-one-out",
            "part": "test", "seen": "kept"}`. `"part"` becomes the split of the data set in the metadata.
        num_users (`int`, *optional*): Number of users behind the metrics.
        intervals (`Mapping[str, Sequence[float]]`, *optional*): (low, high) of the 95 % interval of a metric.
        deviations (`Mapping[str, float]`, *optional*): Standard deviation of a metric over seeds.
        slices (`Mapping[str, Sequence[Mapping]]`, *optional*): Rows of metrics for groups of users or items, by what
            they are grouped by, e.g. `{"long_tail": [{"popularity": "[0,20)", "recall@10": 0.011}]}`.
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
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    deviations: Mapping[str, float | None] = field(default_factory=dict)
    slices: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    dataset_id: str | None = None
    dataset_config: str | None = None
    task: str = "sequential-recommendation"

    @classmethod
    def from_result(cls, dataset: str, result: Mapping[str, Any], **names: Any) -> "Evaluation":
        """Sorts the dict of an evaluation: numbers under `"metric@k"` are metrics, `"intervals"` and `"sd"` belong to
        them, lists of rows are slices, and other plain values are the protocol.

        The recommender's `"name"`, `"seeds"` and other nested entries are left to the caller.
        """
        flat = {key: value for key, value in result.items() if isinstance(plain(value), str | int | float)}
        metrics = {key: value for key, value in flat.items() if "@" in key and not isinstance(value, str)}
        protocol = {key: value for key, value in flat.items() if key not in {*metrics, "name", "num_users"}}
        slices = {
            key: value
            for key, value in result.items()
            if key != "seeds" and isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value)
        }
        return cls(
            dataset=dataset,
            metrics=metrics,
            protocol=protocol,
            num_users=flat.get("num_users"),
            intervals=result.get("intervals", {}),
            deviations=result.get("sd", {}),
            slices=slices,
            **names,
        )


@dataclass(frozen=True, kw_only=True)
class Card:
    """What all cards can say.

    Args:
        name (`str`): Title of the card.
        repo_id (`str`, *optional*): Repository on the Hub, for the usage snippet; without it the snippet loads `"."`.
        license, language (`str`, *optional*): Metadata as the Hub spells them.
        description (`str`, *optional*): Markdown that follows the first paragraph.
        versions (`Mapping[str, str]`, *optional*): Package to version.
        citation (`str`, *optional*): BibTeX entries.
    """

    template: ClassVar[str]
    kind: ClassVar[str]
    repo_type: ClassVar[str] = "model"

    name: str
    repo_id: str | None = None
    license: str | None = None
    language: str | Sequence[str] | None = None
    description: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    citation: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCardValues(Card):
    """What the card of a trained model can say.

    Args:
        method (`str`, *optional*): Name of the method in [`hub_cards.citations.METHODS`], whose sources the card cites
            unless `citation` is given. Without both it cites nothing.
        auto_class (`str`, *optional*, defaults to `"AutoModel"`): Auto class that loads the model.
        tags (`Sequence[str]`, *optional*): Further tags.
        base_model (`str`, *optional*): Hub name of the model that this one was trained from.
        base_model_revision (`str`, *optional*): Commit of the base model.
        datasets (`Sequence[str]`, *optional*): Hub names of the data sets trained on.
        num_parameters (`int`, *optional*): Number of parameters.
        level_sizes (`Sequence[int]`, *optional*): Number of codes at each level of the semantic ID.
        num_items (`int`, *optional*): Items in the index that travels with the model.
        fingerprint (`str`, *optional*): Fingerprint of codebooks and vocabulary.
        evaluations (`Sequence[Evaluation]`, *optional*): Measured metrics, for the tables and the metadata.
        comparison (`Sequence[Mapping]`, *optional*): Rows of a table with other models, shown as given.
        codebooks (`Sequence[Mapping]`, *optional*): One row for each level, e.g. `{"level": 0, "size": 256,
            "share used": 0.98, "perplexity": 187.2}`.
        collisions (`Mapping[str, Any]`, *optional*): Counts around shared semantic IDs, e.g. an assignment report.
        health (`Sequence[Mapping]`, *optional*): One row for each catalogue that an item tokenizer was measured on.
        attribute_information (`Sequence[Mapping]`, *optional*): One row for each catalogue and attribute: how much of
            it the codes of each level tell.
        training_data (`Sequence[Mapping]`, *optional*): One row for each domain, e.g. its users, items, interactions.
        hyperparameters (`Mapping[str, Any]`, *optional*): Names and values.
        logs (`Sequence[Mapping]`, *optional*): Entries of the training log, as `TrainerState.log_history`.
        hardware (`str`, *optional*): Machine that trained the model.
        training_seconds (`float`, *optional*): Wall time of training, in seconds.
    """

    template: ClassVar[str] = "network_card.md"
    kind: ClassVar[str] = "network"

    method: str | None = None
    auto_class: str = "AutoModel"
    tags: Sequence[str] = ()
    base_model: str | None = None
    base_model_revision: str | None = None
    datasets: Sequence[str] = ()
    num_parameters: int | None = None
    level_sizes: Sequence[int] = ()
    num_items: int | None = None
    fingerprint: str | None = None
    evaluations: Sequence[Evaluation] = ()
    comparison: Sequence[Mapping[str, Any]] = ()
    codebooks: Sequence[Mapping[str, Any]] = ()
    collisions: Mapping[str, Any] = field(default_factory=dict)
    health: Sequence[Mapping[str, Any]] = ()
    attribute_information: Sequence[Mapping[str, Any]] = ()
    training_data: Sequence[Mapping[str, Any]] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    logs: Sequence[Mapping[str, Any]] = ()
    hardware: str | None = None
    training_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TokenizerCardValues(ModelCardValues):
    """Values of an item tokenizer's card: those of [`ModelCardValues`]."""

    template: ClassVar[str] = "tokenizer_card.md"
    kind: ClassVar[str] = "item tokenizer"


@dataclass(frozen=True, kw_only=True)
class RecommenderCardValues(ModelCardValues):
    """Values of a generative recommender's card: those of [`ModelCardValues`], and of its item memory.

    Args:
        memory (`Mapping[str, Any]`, *optional*): What the memory beside the recommender is, names and values.
        memory_selection (`Sequence[Mapping]`, *optional*): Rows of the table that its settings were chosen from.
    """

    template: ClassVar[str] = "recommender_card.md"
    kind: ClassVar[str] = "generative recommender"

    auto_class: str = "AutoModelForSeq2SeqLM"
    memory: Mapping[str, Any] = field(default_factory=dict)
    memory_selection: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class SequentialCardValues(ModelCardValues):
    """Values of the card of a recommender that scores items by their embeddings: those of [`ModelCardValues`]."""

    template: ClassVar[str] = "sequential_card.md"
    kind: ClassVar[str] = "sequential recommender"


@dataclass(frozen=True, kw_only=True)
class SpaceCardValues(Card):
    """What the card of a Space that shows a recommender can say.

    Args:
        models (`Sequence[str]`): Hub names of the models that it shows, at least one.
        datasets (`Sequence[str]`, *optional*): Hub names of the data sets that it reads.
        sdk_version (`str`): Version of gradio.
        requirements (`Sequence[str]`, *optional*): What its program needs, as lines of a requirements file.
    """

    template: ClassVar[str] = "space_card.md"
    kind: ClassVar[str] = "space"
    repo_type: ClassVar[str] = "space"

    models: Sequence[str]
    datasets: Sequence[str] = ()
    sdk_version: str
    requirements: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetCardValues(Card):
    """What the card of a data set can say.

    Args:
        domains (`Sequence[Mapping]`, *optional*): One row for each domain: items, users, interactions, ...
        configs (`Sequence[Mapping]`, *optional*): Tables of the repository for `datasets.load_dataset`:
            `{"config_name": "office-items", "data_files": "office/items.parquet"}`.
        columns (`Sequence[Mapping]`, *optional*): Rows that describe the tables' columns.
        preparation (`Sequence[Mapping]`, *optional*): Choices made in preparing the data, one row each.
        sources (`Sequence[Mapping]`, *optional*): Files that the data were made from, one row each.
        dropped (`Sequence[Mapping]`, *optional*): Rows `{"of": ..., "reason": ..., "count": ...}`.
        num_rows (`int`, *optional*): Rows of the largest table, for the size category in the metadata.
    """

    template: ClassVar[str] = "dataset_card.md"
    kind: ClassVar[str] = "data set"
    repo_type: ClassVar[str] = "dataset"

    domains: Sequence[Mapping[str, Any]] = ()
    configs: Sequence[Mapping[str, str]] = ()
    columns: Sequence[Mapping[str, Any]] = ()
    preparation: Sequence[Mapping[str, Any]] = ()
    sources: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    num_rows: int | None = None
