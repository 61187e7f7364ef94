"""Semantic IDs of plain checkpoints: tokens such as `<s_a_17>` in a text tokenizer, and items in `sid2pid.json`.

The layout is that of OpenOneRec and FlashRec: a level is a letter, its codes are tokens `<s_a_0>`, `<s_a_1>`, ... with
ids one after the other, and `sid2pid.json` says which item has which semantic ID. MiniOneRec's tokens, `<a_0>`, are
read too. This file travels with exported checkpoints, and imports torch and transformers alone.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

from modeling_utgrec.item_trie import ItemTrie

SID2PID = "sid2pid.json"
BEGIN, END = "<|sid_begin|>", "<|sid_end|>"
PACKING = 8192  # OpenOneRec writes three codes as one number of this base
END_LEVEL = 1  # what FlashRec adds behind the codes of a catalogue whose beams end with `<|sid_end|>`
_CODE = re.compile(r"<(s_)?([a-z])_(\d+)>")
_KEY = re.compile(r"-?\d{1,18}(,-?\d{1,18})*")  # codes that 64 bits hold
_NAMED = 10  # offenders that an error names


class CodeTokens(NamedTuple):
    """Tokens of codes: how many each level has, and the first one's id."""

    sizes: list[int]
    offsets: list[int]


class SidItems(NamedTuple):
    """Items with semantic IDs: ids, codes `(items, levels)`, and how many were left out for a more frequent one."""

    item_ids: list[str]
    codes: Tensor
    left_out: int = 0


def code_token(level: int, code: int) -> str:
    """The token of a code, `<s_b_17>` for code 17 of the second level."""
    return f"<s_{ascii_lowercase[level]}_{code}>"


def find_code_tokens(vocabulary: Mapping[str, int], name: str = "The tokenizer") -> CodeTokens:
    """
    The levels of a text tokenizer's codes.

    Args:
        vocabulary (`Mapping[str, int]`): ids of all its tokens.
        name (`str`, *optional*): what errors call it.

    Raises:
        ValueError: if it has no tokens of codes, a level lacks one, or the ids of a level do not follow each other.
    """
    found: dict[bool, dict[str, dict[int, int]]] = {True: {}, False: {}}
    for token, number in vocabulary.items():
        if match := _CODE.fullmatch(token):
            found[match[1] is not None].setdefault(match[2], {})[int(match[3])] = number
    levels = found[True] or found[False]
    letters = "".join(sorted(levels))
    if not levels or not ascii_lowercase.startswith(letters):
        raise ValueError(
            f"{name} has no tokens of codes for each level, {code_token(0, 0)}, {code_token(1, 0)} and so on: found "
            f"those of the levels {list(letters)}. Take the tokenizer of the checkpoint that generates semantic IDs."
        )
    sizes, offsets = [], []
    for level, letter in enumerate(letters):
        ids = levels[letter]
        missing = [code for code in range(max(ids) + 1) if code not in ids]
        if missing:
            lacking = ", ".join(code_token(level, code) for code in missing[:_NAMED])
            raise ValueError(
                f"{name} lacks {len(missing)} tokens of level {letter}: {lacking}. Codes are 0 to {max(ids)} there; "
                "add the tokens (and rows of the embeddings), or take another copy of the tokenizer."
            )
        if any(ids[code] != ids[0] + code for code in ids):
            raise ValueError(
                f"{name}: ids of level {letter} do not follow each other from {code_token(level, 0)}, {ids[0]}, on."
            )
        sizes.append(len(ids))
        offsets.append(ids[0])
    return CodeTokens(sizes, offsets)


def read_sid2pid(
    path: str | os.PathLike, sizes: list[int], most_frequent: bool = False, packing: int = PACKING
) -> SidItems:
    """
    Reads which item has which semantic ID.

    A key is the codes with commas (`"17,301,3"`; a further level of FlashRec's, which is 1 always, is left out) or one
    number of them (OpenOneRec's `a * 8192**2 + b * 8192 + c`). A value is OpenOneRec's list of items with counts
    (`[{"pid": 7098944, "count": 8883}]`, or `iid`), or an item's id; where it is a number, as FlashRec writes 1, the
    key is the item's id.

    Args:
        path (`str` or `os.PathLike`): the file.
        sizes (`list[int]`): codes of each level.
        most_frequent (`bool`, *optional*, defaults to `False`):
            Whether of several items with one semantic ID that with the highest count is kept, and the others left out.
        packing (`int`, *optional*, defaults to 8192): base of keys that are one number.

    Raises:
        ValueError: if the file is not JSON or has none or broken entries; a code is outside of its level; or several
            items have one semantic ID, or an item several. Up to ten are named.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f'{path}: expected an object such as {{"17,301,3": [{{"pid": "item", "count": 1}}]}}.')
    codes, item_ids, shared, left_out = [], [], [], 0
    for key, value in entries.items():
        codes.append(_codes_of_key(path, key, len(sizes), packing))
        items = _items_of_value(path, key, value)
        if len(items) > 1:
            shared.append(f"{key}: {', '.join(items[:3])}")
            left_out += len(items) - 1
        item_ids.append(items[0])
    fix = "Give each an own one, or keep the most frequent of them (--most_frequent)."
    _refuse(path, "semantic IDs belong to several items", [] if most_frequent else shared, fix)
    table = torch.tensor(codes)
    outside = ((table < 0) | (table >= torch.tensor(sizes))).any(1).nonzero().flatten().tolist()
    far = [f"{item_ids[row]}: {codes[row]}" for row in outside]
    what = f"items have codes outside of the vocabulary, whose levels have {sizes} codes"
    _refuse(path, what, far, "Take the file that was written with this tokenizer.")
    first: dict[tuple[int, ...], str] = {}
    again = [
        f"{item_id} and {first[tuple(row)]}: {row}"
        for row, item_id in zip(codes, item_ids, strict=True)
        if first.setdefault(tuple(row), item_id) != item_id
    ]
    _refuse(path, "items have the semantic ID of another one", again, "Give each an own one.")
    if len(set(item_ids)) < len(item_ids):
        twice = sorted(item_id for item_id, count in Counter(item_ids).items() if count > 1)
        _refuse(path, "items have several semantic IDs", twice, "Keep one of them for each.")
    return SidItems(item_ids, table, left_out)


def load_trie(name: str | os.PathLike, revision: str | None = None, device: str | torch.device = "cpu") -> ItemTrie:
    """
    The semantic IDs of the items of a plain checkpoint, over its own tokens.

    Args:
        name (`str` or `os.PathLike`): folder or Hub id with a text tokenizer and `sid2pid.json`.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): where the trie goes.

    Raises:
        OSError: if there is no such file.
        ValueError: as [`find_code_tokens`] and [`read_sid2pid`].
    """
    vocabulary = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False).get_vocab()
    tokens = find_code_tokens(vocabulary, f"The tokenizer of {name}")
    path: Any = cached_file(name, SID2PID, revision=revision)
    items = read_sid2pid(path, tokens.sizes)
    return ItemTrie(items.codes, tokens.sizes, tokens.offsets, item_ids=items.item_ids).to(device)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"two items on one semantic ID: the key {twice!r} is there twice")
    return values


def _codes_of_key(path: Path, key: str, num_levels: int, packing: int) -> list[int]:
    codes = [int(code) for code in key.split(",")] if _KEY.fullmatch(key) else []
    if len(codes) == num_levels + 1 and codes[-1] == END_LEVEL:
        codes = codes[:-1]
    if len(codes) == 1 < num_levels and 0 <= codes[0] < packing**num_levels:
        codes = [codes[0] // packing**level % packing for level in reversed(range(num_levels))]
    if len(codes) != num_levels:
        raise ValueError(
            f"{path}: the key {key!r} is no semantic ID of the tokenizer's {num_levels} levels, as "
            f'"{",".join("0" * num_levels)}" or one number of base {packing}.'
        )
    return codes


def _items_of_value(path: Path, key: str, value: Any) -> list[str]:
    """Ids of the items of an entry, the most frequent first."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [key]
    items = [{"pid": value}] if isinstance(value, str) else value if isinstance(value, list) else []
    items = [each for each in items if isinstance(each, dict)]
    ids, counts = [each.get("pid", each.get("iid")) for each in items], [each.get("count", 0) for each in items]
    has_ids = all(isinstance(each, (str, int)) and not isinstance(each, bool) and each != "" for each in ids)
    has_counts = all(isinstance(each, (int, float)) for each in counts)
    if not ids or (isinstance(value, list) and len(items) < len(value)) or not has_ids or not has_counts:
        raise ValueError(
            f'{path}: the entry {key!r} names no items: expected [{{"pid": 7098944, "count": 1}}], found '
            f"{str(value)[:60]}."
        )
    order = sorted(range(len(ids)), key=lambda place: -counts[place])
    return [str(ids[place]) for place in order]


def _refuse(path: Path, what: str, offenders: list[str], fix: str) -> None:
    """Raises ValueError, which says what is wrong with which, and what to do, if there are any."""
    if offenders:
        more = f" and {len(offenders) - _NAMED} more" if len(offenders) > _NAMED else ""
        raise ValueError(f"{path}: {len(offenders)} {what}: {'; '.join(offenders[:_NAMED])}{more}. {fix}")


__all__ = [
    "BEGIN",
    "END",
    "SID2PID",
    "CodeTokens",
    "SidItems",
    "code_token",
    "find_code_tokens",
    "load_trie",
    "read_sid2pid",
]
