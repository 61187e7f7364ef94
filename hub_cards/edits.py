"""Edits of cards: a card is written at each save, and what users changed in it in between is kept.

Each section of a card stands between two comments, the first of which carries a digest of the section's text:

    <!-- section usage 3f2a91c0 -->
    ## Usage
    ...
    <!-- end of section usage -->

A section whose text still has that digest is unchanged and is written anew. One that was changed is kept as it is from
then on; deleting it, with its comments, brings it back as measured. Text outside of the comments is kept, and a card
without any such comment was written by hand: its text stays as it is, and only its metadata are refreshed.

In the metadata the new card's keys are refreshed and all others kept; lists (tags, data sets) keep additions.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

MODEL_INDEX = "model-index"
MAX_METADATA = 2**18  # characters; what is longer takes seconds to read
JOINED = ("tags", "datasets")  # lists that users add to
CHOSEN = ("emoji", "colorFrom", "colorTo", "python_version")  # of a Space: a first choice, for people to change

_SECTION = re.compile(
    r"<!-- section (?P<name>[a-z0-9-]+) (?P<digest>[0-9a-f]{8}) -->\n(?P<text>.*?)\n<!-- end of section (?P=name) -->",
    flags=re.DOTALL,
)
_FRONT = re.compile(r"\A\s*---[ \t]*\n(?P<yaml>.*?)^---[ \t]*$\n?", flags=re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^## +(.*)$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


class CardError(ValueError):
    """A card that cannot be read, or that the Hub would not take; the message names the field and the fix."""


def split_metadata(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card.

    Raises:
        CardError: if the metadata are not YAML with keys and values.
    """
    card = card.removeprefix("\ufeff").replace("\r\n", "\n")  # a mark, as editors of Windows write it
    found = _FRONT.match(card)
    if found is None:
        return {}, card
    if len(found["yaml"]) > MAX_METADATA:
        raise CardError(f"The card's metadata have {len(found['yaml'])} characters, more than {MAX_METADATA}.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(found["yaml"], yaml.SafeLoader)):
            raise CardError("The card's metadata use aliases (*name), which can grow without end: write them out.")
        metadata = yaml.safe_load(found["yaml"])
    except CardError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-01
        raise CardError(f"The card's metadata are not YAML: {error}") from error
    if not isinstance(metadata, dict | None) or any(not isinstance(key, str) for key in metadata or {}):
        raise CardError("The card's metadata must be keys with values.")
    return metadata or {}, card[found.end() :]


def sections_of(body: str) -> list[tuple[str, str]]:
    """(name, text) of each section of a text; what precedes the first heading of level two is the introduction."""
    lines: list[str] = []
    sections, name, fenced = [], "introduction", False
    for line in body.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading:
            sections.append((name, lines))
            name, lines = re.sub(r"[^a-z0-9]+", "-", heading[1].lower()).strip("-") or "section", []
        lines.append(line)
    sections.append((name, lines))
    texts = ((name, "\n".join(lines).strip()) for name, lines in sections)
    return [(name, text) for name, text in texts if text]


def mark_sections(sections: Sequence[tuple[str, str]]) -> str:
    """Sections with the comments around them."""
    return "\n\n".join(_marked(name, text) for name, text in sections)


def merge_body(old: str, sections: Sequence[tuple[str, str]]) -> str:
    """The text of a card with its sections written anew, but for what users changed."""
    parts, fresh = _parts(old), dict(sections)
    if all(part.name is None for part in parts):
        return old.replace("\r\n", "\n").strip() or mark_sections(sections)
    merged: list[tuple[str | None, str]] = []
    for part in parts:
        if part.edited or part.name is None:
            merged.append((part.name, part.text))
        elif part.name in fresh and part.name not in (name for name, _ in merged):
            merged.append((part.name, _marked(part.name, fresh[part.name])))
    after = 0  # sections that the card lacks follow the one that precedes them in a new card
    for name, text in sections:
        places = [place for place, (other, _) in enumerate(merged, start=1) if other == name]
        if not places:
            merged.insert(after, (name, f"\n\n{_marked(name, text)}\n\n"))
        after = places[-1] if places else after + 1
    return re.sub(r"\n{3,}", "\n\n", "".join(text for _, text in merged)).strip()


def merge_metadata(old: dict[str, Any], new: dict[str, Any], measured_before: bool = False) -> dict[str, Any]:
    """Metadata with the new card's keys written anew, and those that users added.

    Args:
        old (`dict[str, Any]`): metadata of the card that is there.
        new (`dict[str, Any]`): metadata of the new one.
        measured_before (`bool`, *optional*, defaults to `False`): whether results in `old` were measured by a
            training; they go if there are none any more.
    """
    gone = {MODEL_INDEX} if measured_before else set()
    merged = new | {key: value for key, value in old.items() if key not in new and key not in gone}
    merged |= {key: old[key] for key in CHOSEN if key in new and key in old}
    for key in JOINED:
        if key in new and old.get(key):
            added = old[key] if isinstance(old[key], list) else [old[key]]
            merged[key] = [*new[key], *(value for value in added if value not in new[key])]
    return merged


def is_edited(card: str) -> bool:
    """Whether users changed a section, or wrote between sections."""
    return any(part.edited for part in _parts(split_metadata(card)[1]))


def has_section(body: str, name: str) -> bool:
    """Whether a text has a marked section of that name, changed or not."""
    return any(part.name == name for part in _parts(body))


class _Part(NamedTuple):
    name: str | None  # of a section, with its comments; `None` for what stands between sections
    text: str
    edited: bool


def _parts(body: str) -> list[_Part]:
    body, parts, end = body.replace("\r\n", "\n"), [], 0
    for found in _SECTION.finditer(body):
        between = body[end : found.start()]
        parts.append(_Part(None, between, bool(between.strip())))
        parts.append(_Part(found["name"], found[0], _digest(found["text"]) != found["digest"]))
        end = found.end()
    return [*parts, _Part(None, body[end:], bool(body[end:].strip()))]


def _marked(name: str, text: str) -> str:
    text = text.strip()
    return f"<!-- section {name} {_digest(text)} -->\n{text}\n<!-- end of section {name} -->"


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:8]
