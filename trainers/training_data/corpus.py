"""Corpora of training sequences on disk, of one domain or several: memory-mapped, so that a training holds of billions
of interactions what it reads at the moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tokenization_items.files import read_json_object, read_strings, replacing_folder, write_json
from trainers.data.interaction_files import RECORD_FILE
from trainers.data.interaction_parts import parts_of_whole_users
from trainers.data.prepared_folder import INTERACTIONS, ITEMS
from trainers.data.splits import PARTS, training_positions

CORPUS, ITEM_ROWS, OFFSETS, ITEM_IDS = "corpus.json", "items.bin", "offsets.bin", "item_ids.json"
LEAST_ITEMS = 2  # of a sequence: a shorter one has no target


class CorpusError(ValueError):
    """A corpus, or a folder to make one of, that cannot be used; the message names it and the fix."""


@dataclass(frozen=True)
class SequenceCorpus:
    """
    Training sequences of domains one after the other, as flat arrays on disk.

    Args:
        items (`np.ndarray`): int32 [total] item rows, those of a domain after those of the ones before, sequence after
            sequence, oldest first; memory-mapped.
        offsets (`np.ndarray`): int64 [S + 1], sequence `s` is `items[offsets[s]:offsets[s + 1]]`; memory-mapped. Each
            has two items or more.
        domains (`tuple[str, ...]`): names.
        num_sequences, num_domain_items (`tuple[int, ...]`): sequences, and items of the catalogue, of each domain.
        folder (`Path`, *optional*): where it lies.
    """

    items: np.ndarray
    offsets: np.ndarray
    domains: tuple[str, ...]
    num_sequences: tuple[int, ...]
    num_domain_items: tuple[int, ...]
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike) -> SequenceCorpus:
        """
        Opens what [`write_corpus`] has written; nothing is read but its record.

        Raises:
            CorpusError: it is no corpus, or a file is missing or of another size than the record says.
        """
        folder = Path(folder)
        try:
            record = read_json_object(folder / CORPUS)
            total, sequences = int(record["interactions"]), [int(each) for each in record["sequences"]]
            domains, counts = [str(each) for each in record["domains"]], [int(each) for each in record["items"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{folder} is no corpus of sequences: {error}. Write it anew.") from error
        arrays = []
        for name, kind, length in ((ITEM_ROWS, np.int32, total), (OFFSETS, np.int64, sum(sequences) + 1)):
            size = (folder / name).stat().st_size if (folder / name).is_file() else 0
            if size != length * np.dtype(kind).itemsize:
                raise CorpusError(
                    f"{folder / name} has {size} bytes, its record says {length * np.dtype(kind).itemsize}: it is "
                    "missing or half-written; write the corpus anew."
                )
            arrays.append(np.memmap(folder / name, kind, "r"))
        return cls(arrays[0], arrays[1], tuple(domains), tuple(sequences), tuple(counts), folder)

    @cached_property
    def item_ids(self) -> list[str] | None:
        """Ids of the items of all domains in the order of their rows, read when they are first asked for; None of a
        corpus of an earlier release."""
        if self.folder is None or not (self.folder / ITEM_IDS).is_file():
            return None
        return read_strings(self.folder / ITEM_IDS)

    @property
    def num_users(self) -> int:
        """Sequences of all domains."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """Items of the catalogues of all domains."""
        return sum(self.num_domain_items)


def write_corpus(output_dir: str | os.PathLike, domains: Mapping[str, str | os.PathLike]) -> SequenceCorpus:
    """
    Writes the training sequences of prepared folders as a corpus, a part at a time: 4 bytes an interaction and 8 a
    sequence; and the ids of their items.

    Args:
        output_dir (`str` or `os.PathLike`): the folder to make.
        domains (`Mapping[str, str | os.PathLike]`): name of each domain and its folder, as `utgrec prepare` makes it.

    Raises:
        CorpusError: a folder was not prepared or is not complete, or nothing is left to train on.
        FileExistsError: the folder is there.
    """
    if not domains:
        raise CorpusError("There is no domain to write a corpus of.")
    for name, folder in domains.items():
        for file in (RECORD_FILE, ITEMS, INTERACTIONS):
            if not (Path(folder) / file).is_file():
                raise CorpusError(f"Domain {name!r}: {folder} lacks {file}: make it with `utgrec prepare`.")
    sequences, counts, total, first_item = [], [], 0, 0
    with replacing_folder(output_dir, mark=CORPUS) as made:
        item_ids: list[str] = []
        with open(made / ITEM_ROWS, "wb") as items, open(made / OFFSETS, "wb") as offsets:
            offsets.write(np.zeros(1, np.int64).tobytes())
            for name, folder in domains.items():
                ids = pl.read_parquet(Path(folder) / ITEMS, columns=["item_id"])["item_id"]
                found = 0
                for rows, lengths in _training_sequences(Path(folder) / INTERACTIONS, ids, name):
                    items.write((rows + np.int32(first_item)).tobytes())
                    offsets.write((total + np.cumsum(lengths)).tobytes())
                    total, found = total + len(rows), found + len(lengths)
                if not found:
                    raise CorpusError(f"Domain {name!r}: no training sequence has {LEAST_ITEMS} items or more.")
                sequences.append(found)
                counts.append(len(ids))
                item_ids += ids.to_list()
                first_item += len(ids)
        write_json(made / ITEM_IDS, item_ids, indent=None)
        record = {"domains": list(domains), "sequences": sequences, "items": counts, "interactions": total}
        write_json(made / CORPUS, record)
    return SequenceCorpus.load(output_dir)


def _training_sequences(file: Path, ids: pl.Series, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Item rows (int32) and lengths (int64) of whole training sequences, a part of the file at a time."""
    names = pl.Enum(ids)
    try:
        for part in parts_of_whole_users(file, ("user_id", "item_id", "split")):
            yield from _sequences_of(part, names, name)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"Domain {name!r}: {file} cannot be read: {error} Is it complete?") from error


def _sequences_of(log: pl.DataFrame, names: pl.Enum, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = log["item_id"].cast(names, strict=False).to_physical()
    if rows.null_count():
        unknown = log["item_id"].filter(rows.is_null())[0]
        raise CorpusError(f"Domain {name!r}: its items lack {unknown!r}, which interactions have: prepare it anew.")
    owners = (log["user_id"] != log["user_id"].shift()).fill_null(True).cum_sum().to_numpy().astype(np.int64) - 1
    parts = log["split"].cast(pl.Enum(PARTS)).to_physical().to_numpy() if "split" in log.columns else None
    training = training_positions(np.bincount(owners), parts)
    lengths = np.bincount(owners[training], minlength=owners[-1] + 1)
    kept = training & (lengths >= LEAST_ITEMS)[owners]
    yield rows.to_numpy()[kept].astype(np.int32), lengths[lengths >= LEAST_ITEMS].astype(np.int64)
