"""Cards that are written again and again, and the changes that people made to them in between.

Each section of a card stands between two comments, the first of which carries a digest of the section's text:

    <!-- section usage 3f2a91c0 -->
    ## Usage
    ...
    <!-- end of section usage -->

A section whose text still has that digest is ours and is written anew. One that was changed is kept as it is from
then on; deleting it, with its comments, brings it back as measured. Whatever stands outside of the comments is kept,
and a card without any such comment is somebody's own: its text stays as it is, and only its metadata are refreshed.

In the metadata our keys are refreshed and all others kept; lists (tags, data sets) keep what was added to them.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

MODEL_INDEX = "model-index"
MAX_METADATA = 2**18  # characters; what is longer takes seconds to read
JOINED = ("tags", "datasets")  # lists that people add to

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
    card = card.replace("\r\n", "\n")
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
    """The text of a card with its sections written anew, but for what people changed."""
    old = old.replace("\r\n", "\n")
    if not _SECTION.search(old):
        return old.strip() or mark_sections(sections)
    fresh, placed, end = dict(sections), {}, 0
    pieces: list[str] = []
    for found in _SECTION.finditer(old):
        pieces.append(old[end : found.start()])
        name, end = found["name"], found.end()
        if _digest(found["text"]) != found["digest"]:
            placed[name] = len(pieces)
            pieces.append(found[0])
        elif name in fresh and name not in placed:
            placed[name] = len(pieces)
            pieces.append(_marked(name, fresh[name]))
    pieces.append(old[end:])
    before = -1  # sections that the card lacks follow the one that precedes them in a new card
    for name, text in sections:
        if name in placed:
            before = placed[name]
        elif before < 0:
            pieces.insert(0, _marked(name, text) + "\n\n")
            placed = {other: place + 1 for other, place in placed.items()}
            before = 0
        else:
            pieces[before] += "\n\n" + _marked(name, text)
    return re.sub(r"\n{3,}", "\n\n", "".join(pieces)).strip()


def merge_metadata(old: dict[str, Any], new: dict[str, Any], measured_before: bool = False) -> dict[str, Any]:
    """Metadata with our keys written anew, and those that people added.

    Args:
        old: metadata of the card that is there.
        new: metadata of the new one.
        measured_before: whether results in `old` are ours, which then go if there are none any more.
    """
    gone = {MODEL_INDEX} if measured_before else set()
    merged = new | {key: value for key, value in old.items() if key not in new and key not in gone}
    for key in JOINED:
        if key in new and old.get(key):
            added = old[key] if isinstance(old[key], list) else [old[key]]
            merged[key] = [*new[key], *(value for value in added if value not in new[key])]
    return merged


def is_edited(card: str) -> bool:
    """Whether people changed a section of ours, or wrote between them."""
    body, end, edited = split_metadata(card)[1], 0, False
    for found in _SECTION.finditer(body):
        edited |= bool(body[end : found.start()].strip()) or _digest(found["text"]) != found["digest"]
        end = found.end()
    return edited or bool(body[end:].strip())


def has_section(body: str, name: str) -> bool:
    """Whether a text has a section of ours of that name, changed or not."""
    return any(found["name"] == name for found in _SECTION.finditer(body.replace("\r\n", "\n")))


def _marked(name: str, text: str) -> str:
    text = text.strip()
    return f"<!-- section {name} {_digest(text)} -->\n{text}\n<!-- end of section {name} -->"


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:8]
