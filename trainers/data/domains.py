"""Domains: a catalogue and its users' interactions, read from a folder and checked before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from hub_cards import named
from tokenization_items.catalogue import FILE_NAMES, TEXT_FIELDS, Catalogue
from tokenization_items.text_template import TextTemplate
from trainers.data.interactions import Interactions
from trainers.data.k_core import renumbered
from trainers.data.splits import MIN_INTERACTIONS
from trainers.data.synthetic import write_all

BUILTIN = "builtin"
BUILTIN_FOLDER = Path("data/builtin")


@dataclass(frozen=True, eq=False)
class Domain:
    """
    Args:
        name (`str`): the folder's name.
        catalogue ([`Catalogue`]): the items.
        interactions ([`Interactions`]): all users' sequences; rows as in `catalogue`.
        folder (`Path`, *optional*): where both were read from.
    """

    name: str
    catalogue: Catalogue
    interactions: Interactions
    folder: Path | None = None

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        k_core: int = 0,
        check_images: bool = True,
        template: TextTemplate | None = None,
        text_fields: Sequence[str] = TEXT_FIELDS,
    ) -> "Domain":
        """Reads and checks a domain.

        Args:
            folder (`str` or `Path`): holds `items.*` and `sequences.*` or `interactions.*`, see
                [`Catalogue.from_folder`] and [`Interactions.from_folder`].
            k_core (`int`, *optional*, defaults to 0): keeps users and items with at least so many interactions, to a
                fixed point; 0 keeps all.
            check_images (`bool`, *optional*, defaults to `True`): whether to open every image, so that a broken one is
                named before training starts.
            template (`TextTemplate`, *optional*): puts the items' fields together, as RecBase needs; see
                [`Catalogue.from_folder`].
            text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`): fields of the items' texts, in order.

        Raises:
            CatalogueError, InteractionError: what is read is not as it should be.
            ValueError: `k_core` is below 0, or leaves nothing.
        """
        if k_core < 0:
            raise ValueError(f"k_core must be at least 0, got {k_core}.")
        catalogue = Catalogue.from_folder(folder, text_fields, template=template)
        catalogue.check(images=check_images)
        interactions = Interactions.from_folder(folder, catalogue.item_ids)
        if k_core:
            interactions = interactions.k_core(k_core)
            kept = np.flatnonzero(interactions.popularity)
            if not len(kept):
                raise ValueError(f"{folder}: no user and item with {k_core} interactions each: lower k_core.")
            catalogue = catalogue.select(kept)
            rows = renumbered(interactions.items, interactions.popularity > 0)
            interactions = replace(interactions, item_ids=catalogue.item_ids, items=rows)
        return cls(catalogue.name, catalogue, interactions, Path(folder))

    def __str__(self) -> str:
        images = sum(self.catalogue.has_image(row) for row in range(len(self.catalogue)))
        short = []
        if self.interactions.split == "leave-one-out" and self.interactions.num_short:
            rows = np.flatnonzero(self.interactions.lengths < MIN_INTERACTIONS)
            short = [self.interactions.user_ids[row] for row in rows.tolist()]
        left_out = f"; {len(short):,} users with fewer than three interactions are left out: {named(short)}"
        return (
            f"{self.name}: {len(self.catalogue):,} items ({images:,} with image), "
            f"{self.interactions.num_users:,} users, {len(self.interactions.items):,} interactions"
            + (left_out if short else "")
        )


def check_trainable(domains: Sequence[Domain]) -> None:
    """
    For what trains a recommender: known before the first stage, as of hours of an item tokenizer's training.

    Raises:
        ValueError: a domain has one item, or no user of these domains has two items in the training part, of which the
            second would be a target.
    """
    if single := [domain.name for domain in domains if len(domain.catalogue) < 2]:
        raise ValueError(f"{', '.join(single)}: the catalogue has one item, and there is nothing to choose from.")
    parts = [domain.interactions.training_part() for domain in domains]
    if any((part.lengths > 1).any() for part in parts):
        return
    first = domains[0].interactions
    why = f"split: {first.split}"
    if first.parts is None:
        why = "leave-one-out keeps the last two of each for validation and test: a user needs four"
    raise ValueError(
        f"{', '.join(domain.name for domain in domains)}: there is nothing to train on: of "
        f"{sum(domain.interactions.num_users for domain in domains):,} users none has two items in the training part "
        f"({why}). Take users with more interactions, or another split."
    )


def load_domains(
    folders: list[str],
    builtin: Sequence[str] = (),
    k_core: int = 0,
    check_images: bool = True,
    templates: Mapping[str, TextTemplate] | None = None,
    text_fields: Sequence[str] = TEXT_FIELDS,
) -> list[Domain]:
    """Domains of several folders; a folder without items of its own stands for the domains in it, by name.

    Args:
        folders (`list[str]`): the folders, or `"builtin"` for the domains `builtin` of the built-in catalogue, which
            is generated in `data/builtin` if it is not there.
        builtin (`Sequence[str]`, *optional*, defaults to `()`): names of built-in domains.
        k_core, check_images, text_fields: see [`Domain.from_folder`].
        templates (`Mapping[str, TextTemplate]`, *optional*): the template of each domain's texts, by its name; "" for
            those that have none of their own.

    Raises:
        ValueError: a template is for a domain that is not there, or as [`domain_folders`].
    """
    if list(folders) == [BUILTIN]:
        with PartialState().main_process_first():  # the others find it written
            written = write_all(BUILTIN_FOLDER)
        folders = [str(written[name]) for name in builtin]
    paths, templates = domain_folders(folders), templates or {}
    names = [path.resolve().name for path in paths]
    unknown = sorted(templates.keys() - {"", *names})
    if unknown:
        raise ValueError(f"Templates for {unknown}, which are none of the domains {names}.")
    return [
        Domain.from_folder(path, k_core, check_images, templates.get(name, templates.get("")), text_fields)
        for path, name in zip(paths, names, strict=True)
    ]


def load_catalogues(
    folders: Sequence[str], templates: Mapping[str, TextTemplate], text_fields: Sequence[str] = TEXT_FIELDS
) -> list[Catalogue]:
    """The items alone of several folders, as [`load_domains`] finds them; what else is there is not read.

    Args:
        folders (`Sequence[str]`): the folders.
        templates (`Mapping[str, TextTemplate]`): the template of each domain's texts, by its name; "" for those that
            have none of their own.
        text_fields (`Sequence[str]`, *optional*, defaults to `TEXT_FIELDS`): fields of the items' texts, in order.

    Raises:
        FileNotFoundError, ValueError: as [`domain_folders`].
    """
    catalogues = []
    for path in domain_folders(folders):
        template = templates.get(path.resolve().name, templates.get(""))
        catalogues.append(Catalogue.from_folder(path, text_fields, template=template))
        catalogues[-1].check(images=False)
    return catalogues


def domain_folders(folders: Sequence[str]) -> list[Path]:
    """The folders of domains that these are or hold.

    Raises:
        FileNotFoundError: a folder is not there or holds no domain.
        ValueError: two domains have one name.
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"No data folder {folder}.")
        inner = [folder] if _holds_items(folder) else sorted(filter(_holds_items, folder.iterdir()))
        if not inner:
            raise FileNotFoundError(f"{folder} holds no domain: a folder with one of {', '.join(FILE_NAMES)}.")
        paths += inner
    names = [path.resolve().name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Domains are told apart by their folders' names, and these occur twice: {twice}.")
    return paths


def _holds_items(folder: Path) -> bool:
    """Hidden folders do not: one that was being written when its program was killed may hold anything."""
    return not folder.name.startswith(".") and any((folder / name).is_file() for name in FILE_NAMES)
