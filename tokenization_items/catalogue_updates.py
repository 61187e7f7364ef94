"""Updates of an item index by a catalogue of a later day: what is new, changed and gone, what it costs, a journal.

Semantic IDs that were given stay, of an item whose text changed too, unless it is to be tokenized again; an item that
the catalogue lacks stays unless it is to be removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tokenization_items.collision_report import AssignmentReport, group_sizes
from tokenization_items.files import append_lines, read_lines
from tokenization_items.item_files import CatalogueError
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_provenance import ItemProvenance

JOURNAL_NAME = "catalogue_journal.jsonl"
MOST_IDS = 10_000  # of each kind that a line of the journal names; the counts are of all


@dataclass(frozen=True)
class CatalogueChanges:
    """
    How a catalogue differs from the items of an index.

    Args:
        added (`np.ndarray`): int64, rows of the catalogue: items that the index lacks.
        changed (`np.ndarray`): rows of items whose content is another than was seen last.
        stale (`np.ndarray`): rows of items whose content is another than their semantic ID was made of.
        unknown (`np.ndarray`): rows of items of whose earlier content nothing is known.
        missing (`list[str]`): items of the index that the catalogue lacks.
    """

    added: np.ndarray
    changed: np.ndarray
    stale: np.ndarray
    unknown: np.ndarray
    missing: list[str]


def compare_items(index: ItemIndex, item_ids: Sequence[str], digests: np.ndarray) -> CatalogueChanges:
    """
    Compares a catalogue with an index.

    Args:
        index ([`ItemIndex`]): the index.
        item_ids (`Sequence[str]`): items of the catalogue.
        digests (`np.ndarray` of shape `(items, 16)`): of their content, see [`content_digests`].
    """
    rows, is_missing = index.find(item_ids), np.ones(len(index), dtype=bool)
    is_known = rows >= 0
    is_missing[rows[is_known]] = False
    known = index.provenance or ItemProvenance.unknown(len(index), index.num_levels)
    at = is_known.nonzero()[0]
    before = known.take(rows[at])
    has_digest = before.latest.any(1)
    return CatalogueChanges(
        added=(~is_known).nonzero()[0],
        changed=at[has_digest & (before.latest != digests[at]).any(1)],
        stale=at[has_digest & (before.tokenized != digests[at]).any(1)],
        unknown=at[~has_digest],
        missing=[index.item_ids[row] for row in is_missing.nonzero()[0].tolist()],
    )


def check_ids(index: ItemIndex, item_ids: Sequence[str], name: str) -> None:
    """Raises a [`CatalogueError`] if the ids of a catalogue are those of an index, but written in another way: numbers
    without their leading zeros, with a decimal point, in capitals."""
    if not len(index) or not item_ids or any(item_id in index for item_id in item_ids):
        return
    known = {_plain(item_id): item_id for item_id in index.item_ids}
    alike = [(item_id, known[_plain(item_id)]) for item_id in item_ids if _plain(item_id) in known]
    if len(alike) >= len(item_ids) / 2:
        ours, theirs = alike[0]
        raise CatalogueError(
            f"{name}: none of its {len(item_ids)} items is in the index, but {len(alike)} differ in how their ids are "
            f"written alone: {ours!r} here, {theirs!r} there. Write them as they were: a column of ids is text, not "
            "numbers."
        )


def _plain(item_id: str) -> str:
    return re.sub(r"^0+(?=\d)|\.0+$", "", item_id.strip().lower())


def updated_titles(index: ItemIndex, item_ids: Sequence[str], titles: Sequence[str]) -> list[str]:
    """The titles of an index with those of a catalogue in their places; of an item without one the old one stays."""
    updated = list(index.titles)
    for row, title in zip(index.rows(item_ids).tolist(), titles, strict=True):
        updated[row] = title or updated[row]
    return updated


def updated_provenance(
    index: ItemIndex,
    item_ids: Sequence[str],
    digests: np.ndarray,
    assigned: np.ndarray,
    coded: np.ndarray,
    codes: np.ndarray,
) -> ItemProvenance:
    """
    The provenance of an index, to which the new items of a catalogue were added.

    Args:
        index ([`ItemIndex`]): the index.
        item_ids (`Sequence[str]`): items of the catalogue.
        digests (`np.ndarray` of shape `(items, 16)`): of their content.
        assigned (`np.ndarray`): rows of the catalogue whose semantic IDs are of this content.
        coded (`np.ndarray`): rows of which codes were asked for.
        codes (`np.ndarray` of shape `(len(coded), levels)`): these codes.
    """
    latest, tokenized, given = (
        each.copy() for each in index.provenance or ItemProvenance.unknown(len(index), codes.shape[1])
    )
    rows = index.rows(item_ids)
    if len(coded):
        if given.shape[1] != codes.shape[1]:  # when it began, there was nothing to ask for
            given = ItemProvenance.unknown(len(index), codes.shape[1]).given_codes
        given[rows[coded]] = codes
    is_first = ~latest[rows].any(1)
    latest[rows] = digests
    tokenized[rows[is_first]] = digests[is_first]
    tokenized[rows[assigned]] = digests[assigned]
    return ItemProvenance(latest, tokenized, given)


@dataclass(frozen=True)
class CatalogueDrift:
    """
    How far the semantic IDs of an index are from those that its items would get if all were tokenized anew.

    Args:
        num_items (`int`): items of the index.
        num_known (`int`): those of which the codes are known that the tokenizer gives them.
        sharing_codes (`int`): of these, items whose given codes are given to another item too.
        moved_by_collisions (`int`): of these, items whose semantic ID is another than their given codes, as theirs
            were taken.
        stale (`int`): items whose content has changed since they got their semantic ID.
        moved_by_changes (`int`): of the stale, items whose content as it is now has other codes than their semantic
            ID: what tokenizing them again would change.
    """

    num_items: int
    num_known: int
    sharing_codes: int
    moved_by_collisions: int
    stale: int
    moved_by_changes: int

    @classmethod
    def of(cls, index: ItemIndex) -> CatalogueDrift:
        """The drift of an index, by its provenance."""
        known = index.provenance or ItemProvenance.unknown(len(index), index.num_levels)
        given, has_codes, is_stale = known.given_codes, known.has_codes, known.is_stale
        differs = has_codes & (given != index.codes[:, : given.shape[1]]).any(1)
        return cls(
            num_items=len(index),
            num_known=int(has_codes.sum()),
            sharing_codes=int((group_sizes(given[has_codes]) > 1).sum()) if has_codes.any() else 0,
            moved_by_collisions=int((differs & ~is_stale).sum()),
            stale=int(is_stale.sum()),
            moved_by_changes=int((differs & is_stale).sum()),
        )


@dataclass(frozen=True)
class CatalogueUpdate:
    """
    What an update of an index has done.

    Args:
        name (`str`): of the catalogue.
        assignment ([`AssignmentReport`]): of the items that got semantic IDs.
        drift ([`CatalogueDrift`]): of the index as it is now.
        fingerprint (`str` or `None`): of the item tokenizer.
        index_sha256 (`tuple[str, str]`): of the index before and now.
        added (`list[str]`): items that were new.
        changed (`list[str]`): items whose content is another than was seen last.
        retokenized (`list[str]`): items that were tokenized again.
        reassigned (`list[str]`): those of them whose semantic ID is another now.
        removed (`list[str]`): items that were removed.
        missing (`int`): items that the catalogue lacks and that stay.
        unknown (`int`): items of whose earlier content nothing was known; it is from now on.
    """

    name: str
    assignment: AssignmentReport
    drift: CatalogueDrift
    fingerprint: str | None
    index_sha256: tuple[str, str]
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    retokenized: list[str] = field(default_factory=list)
    reassigned: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    missing: int = 0
    unknown: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed, nor is more known than before."""
        return not (self.added or self.changed or self.retokenized or self.removed or self.unknown)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and the items by what was done with them, as JSON has them."""
        done = ("added", "changed", "retokenized", "reassigned", "removed")
        items = {name: getattr(self, name) for name in done}
        return {
            "data": self.name,
            **{name: len(ids) for name, ids in items.items()},
            "missing": self.missing,
            "unknown": self.unknown,
            "assignment": self.assignment.to_dict(),
            "drift": asdict(self.drift),
            "item_tokenizer": self.fingerprint,
            "index_sha256": list(self.index_sha256),
            "item_ids": {name: ids[:MOST_IDS] for name, ids in items.items() if ids},
        }

    def __str__(self) -> str:
        drift, kept = self.drift, len(self.changed) - len({*self.changed} & {*self.retokenized})
        lines = [f"{self.name}: {len(self.added):,} items added, {drift.num_items:,} in all"]
        if self.changed or self.retokenized:
            again = f"; {len(self.retokenized):,} tokenized again, of which {len(self.reassigned):,} have another"
            lines.append(
                f"{len(self.changed):,} changed, of which {kept:,} keep their semantic ID"
                + (again if self.retokenized else " (--retokenize gives them one of the new content)")
            )
        if self.removed:
            lines.append(f"{len(self.removed):,} removed: the data lacks them")
        if self.missing:
            lines.append(f"{self.missing:,} items are not in the data and stay (--remove_missing removes them)")
        if self.unknown:
            lines.append(f"of {self.unknown:,} items no earlier content was known: a change is seen from now on")
        moved = drift.moved_by_collisions + drift.moved_by_changes
        lines.append(
            f"drift: of {drift.num_known:,} items whose codes are known, {drift.sharing_codes:,} share theirs with "
            f"another; {moved:,} have a semantic ID other than their codes, {drift.moved_by_collisions:,} by "
            f"collisions, {drift.moved_by_changes:,} by changes of content"
        )
        return "\n".join(lines)


def journal_line(update: CatalogueUpdate, **more: Any) -> dict[str, Any]:
    """An update as a line of a journal, with the time in UTC; `more` are further entries."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **update.to_dict(), **more}


def write_journal(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to the journal of a folder, all of them or none."""
    append_lines(folder / JOURNAL_NAME, lines)


def read_journal(folder: Path) -> list[Mapping[str, Any]]:
    """The updates of a folder, the earliest first; none if there is no journal.

    Raises:
        ValueError: a line, which is named, is not JSON.
    """
    return list(read_lines(Path(folder) / JOURNAL_NAME))


__all__ = [
    "JOURNAL_NAME",
    "CatalogueChanges",
    "CatalogueDrift",
    "CatalogueUpdate",
    "check_ids",
    "compare_items",
    "journal_line",
    "read_journal",
    "updated_provenance",
    "updated_titles",
    "write_journal",
]
