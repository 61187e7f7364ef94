"""What is served: a recommender with a number. A change makes another one beside it, which takes its place at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenization_items.catalogue_updates import CatalogueUpdate, write_journal
from trainers.methods.daily_catalogue import known_columns, updated_folder
from trainers.methods.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Served:
    """
    A recommender that is never changed.

    Args:
        recommender ([`Recommender`]): network, items, memory and rules.
        version (`int`): 1, and one more after each change.
    """

    recommender: Recommender
    version: int = 1


@dataclass(frozen=True)
class Question:
    """What is asked of histories. Those of equal questions are read together."""

    served: Served
    top_k: int
    exclude_seen: bool | None
    allow: tuple[str, ...] | None
    deny: tuple[str, ...]
    num_beams: int
    sources: bool
    on_error: str

    def answer(self, histories: list[Any], batch_size: int) -> list[list[dict[str, Any]]]:
        """Recommendations for each history, see [`~Recommender.recommend`]."""
        found: Any = self.served.recommender.recommend(
            histories,
            self.top_k,
            self.exclude_seen,
            self.allow,
            self.deny,
            num_beams=self.num_beams,
            on_error=self.on_error,
            batch_size=min(batch_size, len(histories)),
            **({"return_sources": True} if self.sources else {}),
        )
        return found


def changed(
    served: Served, add: Sequence[Mapping[str, Any]], remove: Sequence[str], retokenize: bool = False
) -> tuple[Served, list[CatalogueUpdate]]:
    """
    A recommender with other items; the one that is served stays as it is.

    Args:
        served ([`Served`]): as it is.
        add (`Sequence[Mapping]`): items, see [`~Recommender.add_items`]; `item_id` and `title` are the shop's columns
            of these, whatever their names, and a column that a row lacks is empty.
        remove (`Sequence[str]`): ids of items.
        retokenize (`bool`, *optional*, defaults to `False`): whether changed items get new semantic IDs.

    Returns:
        `tuple[Served, list[CatalogueUpdate]]`: ready to answer, and what was done.

    Raises:
        ReadError, CatalogueError, UnknownItemError, ValueError: nothing has changed then.
    """
    recommender = copy.copy(served.recommender)
    recommender.tokenizer = copy.copy(recommender.tokenizer)
    recommender.__dict__.pop("_pipeline", None)  # of the items as they were
    updates = []
    if remove:
        updates.append(recommender.remove_items(remove))
    if add:
        rows, columns = as_products(recommender, add)
        updates.append(recommender.add_items(rows, columns, retokenize))
    return ready(Served(recommender, served.version + 1)), updates


def as_products(
    recommender: Recommender, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str] | None]:
    """Rows as the products of the last time had them, and what their columns mean where that is not known."""
    known = known_columns(recommender.journal, recommender.facts)
    if known is None:
        names = dict.fromkeys(name for row in rows for name in row)
        means = {role: name for role, name in (("id", "item_id"), ("title", "title")) if name in names}
        return [{**dict.fromkeys(names), **row} for row in rows], means | {"image": "-"}
    if known.image is not None and any(row.get(known.image) for row in rows):
        raise ValueError(f"{known.image}: pictures are not taken here; add such items with `utgrec tokenize`.")
    named = {"item_id": known.id, **({"title": known.title} if known.title else {})}
    columns = (known.id, known.title, known.price, known.image, *known.text)
    empty = dict.fromkeys(each for each in columns if each)
    return [empty | {named.get(name, name): value for name, value in row.items()} for row in rows], None


def ready(served: Served) -> Served:
    """What is served with all that its first answer would build."""
    served.recommender.recommend([[served.recommender.item_ids[0]]], top_k=1, on_error="skip")
    return served


def load(model: str, revision: str | None = None, version: int = 1) -> Served:
    """A recommender of a folder or the Hub; errors as those of [`~Recommender.from_pretrained`]."""
    return ready(Served(Recommender.from_pretrained(model, revision), version))


def write_changes(folder: Path, before: Served, after: Served) -> None:
    """
    Brings a recommender's folder up to date, in one step, see [`updated_folder`].

    Raises:
        ValueError: another program changed it meanwhile.
        OSError: it cannot be written.
    """
    recommender, earlier = after.recommender, before.recommender
    recommender.tokenizer.stored_memory = recommender.stored
    read = earlier.tokenizer.index.checksum, earlier.stored
    with updated_folder(folder, recommender.tokenizer, *read) as working:
        write_journal(working, recommender.journal[len(earlier.journal) :])


__all__ = ["Question", "Served", "changed", "load", "write_changes"]
