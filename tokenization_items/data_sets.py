"""Data sets of `datasets`, held in memory, mapped or streamed → tables with the names of their labels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hub_cards import named
from tokenization_items.item_files import CatalogueError

if TYPE_CHECKING:  # who gives a data set has imported it
    import pyarrow as pa


def is_data_set(records: object) -> bool:
    """Whether records are a data set of `datasets`, or several splits, which need not be imported to tell."""
    return hasattr(records, "with_format") and hasattr(records, "column_names")


def read_data_set(records: Any) -> "pa.Table | list[dict]":
    """
    Reads a data set; a stream to its end. Images stay encoded, and of labels (`ClassLabel`) there are the names.

    Args:
        records: a `Dataset` or `IterableDataset`, or a `DatasetDict` or `IterableDatasetDict` of one split.

    Returns:
        A table; of a stream, or of a data set with a transform of its own (`with_transform`), its records.

    Raises:
        CatalogueError: there are several splits, or none.
    """
    if isinstance(records, Mapping):
        if len(records) != 1:
            raise CatalogueError(f"expected one data set, got the splits {named([*records]) or 'none'}: give one")
        (records,) = records.values()
    features = records.features or {}  # of a stream they may not be known
    if not hasattr(records, "__len__"):  # by rows: as Arrow, a column that is empty at first is an error
        rows = records.with_format(None)
        return [_with_names(features, row) for row in (rows.decode(False) if features else rows)]
    if records.format["type"] == "custom":
        return [*records]
    import pyarrow as pa

    table = records.with_format("arrow")[:]
    for name, feature in features.items():
        if _has_labels(feature):
            values = [_with_names(feature, value) for value in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def _has_labels(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return any(map(_has_labels, feature.values()))
    return hasattr(feature, "int2str") or _has_labels(getattr(feature, "feature", {}))


def _with_names(feature: Any, value: Any) -> Any:
    """A value with names in place of the numbers of labels; -1 is none."""
    if value is None:
        return None
    if isinstance(feature, Mapping):
        return {name: _with_names(feature.get(name), part) for name, part in value.items()}
    if hasattr(feature, "int2str"):
        return feature.int2str(value) if value >= 0 else None
    return [_with_names(feature.feature, part) for part in value] if hasattr(feature, "feature") else value


__all__ = ["is_data_set", "read_data_set"]
