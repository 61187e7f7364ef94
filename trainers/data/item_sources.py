"""Items of whatever holds them: a data folder, a file, a data set of the Hub or one that was saved, a data frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub_cards import named
from tokenization_items.catalogue import FILE_NAMES, TEXT_FIELDS, Catalogue
from tokenization_items.text_template import TextTemplate
from trainers.data.column_guesses import ProductColumns
from trainers.data.prepared_images import local_images
from trainers.data.products import Products, read_products
from trainers.data.readers.base import ReadError

HUB_ID = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<split>[\w.\[\]%:-]+))?")
SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")  # of `datasets.save_to_disk`


def read_items(
    data: Any,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    known: ProductColumns | None = None,
    text_fields: Sequence[str] = TEXT_FIELDS,
    template: TextTemplate | None = None,
    image_cache: str | Path | None = None,
) -> tuple[Catalogue, Products | str]:
    """
    Reads items; no interactions are needed.

    Args:
        data: a data folder, see [`Catalogue.from_folder`], or what [`read_products`] takes: a file of products or a
            data frame; or a folder of `datasets.save_to_disk`, or a folder or Hub id that `datasets.load_dataset`
            takes, with `:split` if it has several.
        columns (`Sequence[str]` or `Mapping[str, str]`, *optional*): what columns mean, see [`read_products`]; of a
            data folder they have their names.
        known ([`ProductColumns`], *optional*): what they meant the last time.
        text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`): fields of the text, in order.
        template ([`TextTemplate`], *optional*): puts the fields together.
        image_cache (`str` or `Path`, *optional*): folder into which images of https addresses are fetched; without it
            an address is as no image.

    Returns:
        `tuple[Catalogue, Products | str]`: the items, and how their columns were read; of a data folder what became of
        addresses of images.

    Raises:
        ReadError: there is nothing, or it cannot be read.
        CatalogueError: as [`Catalogue.from_folder`].
    """
    arguments: dict[str, Any] = {"text_fields": text_fields, "template": template, "image_cache": image_cache}
    name = None
    if isinstance(data, str | Path) and Path(data).is_dir():
        path = Path(data)
        found = [path / each for each in FILE_NAMES if (path / each).is_file()]
        if found and not columns:
            catalogue, note = Catalogue.from_folder(path, text_fields, template=template), ""
            if catalogue.images is not None:
                images, note = local_images(catalogue.images, image_cache)
                catalogue = replace(catalogue, images=images)
            return catalogue, note
        name = path.resolve().name
        data = found[0] if len(found) == 1 else _data_set(data, name)
        arguments["image_root"] = path
    elif isinstance(data, str | Path) and not Path(data).is_file():
        text = str(data)
        is_id = HUB_ID.fullmatch(text)
        if is_id is None or Path(text).suffix in (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".gz"):
            raise ReadError(f"{text}: no such file or folder, nor the id of a data set of the Hub.")
        name = is_id["name"].rpartition("/")[2]
        data = _data_set(text, text)
        arguments["image_root"] = Path(name)  # no folder of this machine: what a data set says is not to be followed
    products = read_products(data, columns, name, known, **arguments)
    return products.catalogue, products


def _data_set(source: str | Path, name: str) -> Any:
    """A data set of `datasets`: saved in a folder, or what `load_dataset` finds.

    Raises:
        ReadError: there is none, or several splits.
    """
    import datasets  # takes seconds, and most data are files

    split = None
    try:
        if any((Path(source) / each).is_file() for each in SAVED):
            found = datasets.load_from_disk(str(source))
        elif Path(source).is_dir():
            found = datasets.load_dataset(str(source))
        else:
            match = HUB_ID.fullmatch(str(source))
            assert match is not None
            split = match["split"]
            found = datasets.load_dataset(match["name"], split=split)
    except Exception as error:  # of many libraries: of the Hub, of files, of formats
        advice = f"a data folder has one of {', '.join(FILE_NAMES)}" if Path(source).is_dir() else "is the name right?"
        raise ReadError(f"{name}: no data set that can be read ({type(error).__name__}: {error}); {advice}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            raise ReadError(f"{name} has the splits {named([*found])}: say which, as {name}:{next(iter(found))}.")
        found = next(iter(found.values()))
    return found
