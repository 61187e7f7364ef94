"""Which item a row of a sequential recommender is: `item_ids.json` beside its weights, in the order of their rows, and
a digest of the ids in its configuration, by which another catalogue of as many items is told."""

from collections.abc import Sequence
from pathlib import Path

from hub_cards import named
from modeling_utgrec.configuration_sequential import SequentialConfig
from tokenization_items.files import digest_of_strings, read_strings, write_json
from tokenization_items.item_index_files import IDS_NAME


def save_item_ids(folder: str | Path, item_ids: Sequence[str]) -> None:
    """Writes the ids of a recommender's items beside it."""
    write_json(Path(folder) / IDS_NAME, list(item_ids), indent=None)


def load_item_ids(folder: Path, config: SequentialConfig) -> list[str] | None:
    """The ids of a recommender's items, `None` if an earlier release saved none.

    Raises:
        ValueError: the file is broken, or of other weights than those beside it.
    """
    if config.item_ids_fingerprint is None or not (folder / IDS_NAME).exists():
        return None
    item_ids = read_strings(folder / IDS_NAME)
    if digest_of_strings(item_ids) != config.item_ids_fingerprint:
        raise ValueError(f"{folder / IDS_NAME} was changed, or is of another model than the weights beside it.")
    return item_ids


def check_catalogue(
    config: SequentialConfig, num_items: int, item_ids: Sequence[str] | None = None, known: Sequence[str] | None = None
) -> None:
    """
    Args:
        config (`SequentialConfig`): of a model.
        num_items (`int`): of the catalogue.
        item_ids (`Sequence[str]`, *optional*): of the catalogue, in the order of their rows, where they are known.
        known (`Sequence[str]`, *optional*): those of the model, to say what differs.

    Raises:
        ValueError: the model was made for other items, or for these in another order.
    """
    if config.num_items != num_items:
        raise ValueError(
            f"The model has {config.num_items} items, the catalogue {num_items}: a model of item ids works for the "
            "catalogue that it was trained on, in the same order."
        )
    expected = config.item_ids_fingerprint
    if item_ids is None or expected is None or digest_of_strings(item_ids) == expected:
        return
    other = [] if known is None else sorted({*item_ids} - {*known})
    raise ValueError(
        f"The catalogue has as many items as the model, {num_items}, but not those that it was trained on in their "
        "order"
        + (f": {len(other)} are none of the model's, {named(other)}." if other else ": their rows would be mistaken.")
    )
