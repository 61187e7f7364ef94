"""Training sequences of several domains in files that are read by memory map: data larger than memory.

A folder holds `items.bin` (int32 item rows, domain after domain, user after user), `offsets.bin` (int64, where each
user's begin), `tokens.bin` (int32 token ids of every item) and `sequences.json`, which says how many there are. The
processes and data loader workers of a machine share the pages that they read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trainers.data.interactions import Interactions

FORMAT_VERSION = 1
SETTINGS_NAME = "sequences.json"
KINDS = {"items.bin": np.dtype("<i4"), "offsets.bin": np.dtype("<i8"), "tokens.bin": np.dtype("<i4")}


def write_sequences(folder: str | os.PathLike, domains: Iterable[tuple[Interactions, np.ndarray]]) -> None:
    """
    Writes domains one after the other, as [`join_domains`] joins them in memory; from a generator there is never more
    than one of them in memory.

    Args:
        folder: where to; made if need be. `sequences.json` is written last, so a folder that has it is whole.
        domains: training part and token table [n_d, L] of each domain.

    Raises:
        ValueError: no domains, or (naming the domain) different identifier lengths or a table that does not fit.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_NAME).unlink(missing_ok=True)
    num_items = num_interactions = num_levels = 0
    num_sequences: list[int] = []
    with (
        open(folder / "items.bin", "wb") as items,
        open(folder / "offsets.bin", "wb") as offsets,
        open(folder / "tokens.bin", "wb") as tokens,
    ):
        for number, (interactions, table) in enumerate(domains):
            table = np.asarray(table)
            num_levels = num_levels or table.shape[-1]
            if table.shape != (interactions.num_items, num_levels):
                raise ValueError(
                    f"Domain {number}: expected a token table [{interactions.num_items}, {num_levels}] (all domains "
                    f"share one item tokenizer), got {table.shape}."
                )
            _write(items, interactions.items + np.int32(num_items))
            _write(offsets, interactions.offsets[:-1] + num_interactions)
            _write(tokens, table)
            num_items += interactions.num_items
            num_interactions += len(interactions.items)
            num_sequences.append(interactions.num_users)
        _write(offsets, np.array([num_interactions]))
    if not num_sequences:
        raise ValueError("No domains to write: give at least one.")
    values = {"format_version": FORMAT_VERSION, "num_sequences": num_sequences, "num_items": num_items}
    values |= {"num_levels": num_levels, "num_interactions": num_interactions}
    temporary = folder / f".{SETTINGS_NAME}.tmp"
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / SETTINGS_NAME)


def load_sequences(folder: str | os.PathLike) -> tuple[Interactions, np.ndarray, list[int]]:
    """
    Opens what [`write_sequences`] wrote.

    Returns:
        The training part and the token table of all domains as memory maps (items and users have numbers for ids), and
        the number of sequences of each domain, for [`DomainSampling`].

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: another format version, or files that are truncated.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_NAME).is_file():
        raise FileNotFoundError(f"{folder} holds no training sequences: {SETTINGS_NAME} is missing.")
    values = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / SETTINGS_NAME} has format version {values.get('format_version')}, expected {FORMAT_VERSION}: "
            "write the sequences anew."
        )
    num_users = sum(values["num_sequences"])
    shapes = {
        "items.bin": (values["num_interactions"],),
        "offsets.bin": (num_users + 1,),
        "tokens.bin": (values["num_items"], values["num_levels"]),
    }
    arrays = {}
    for name, shape in shapes.items():
        found, expected = (folder / name).stat().st_size, int(np.prod(shape)) * KINDS[name].itemsize
        if found != expected:
            raise ValueError(f"{folder / name} has {found} bytes, expected {expected}: write the sequences anew.")
        arrays[name] = np.memmap(folder / name, KINDS[name], "r", shape=shape) if expected else np.empty(shape, "i4")
    interactions = Interactions(
        range(values["num_items"]), range(num_users), arrays["items.bin"], arrays["offsets.bin"]
    )
    return interactions, arrays["tokens.bin"], values["num_sequences"]


def _write(file, values: np.ndarray) -> None:
    values.astype(KINDS[Path(file.name).name]).tofile(file)
