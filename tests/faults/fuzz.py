"""Fuzz of files that are loaded: one is mutated, its folder loaded, and what comes is an error of ours that names the
file, or what the file says.

    make test-faults FUZZ=100000
"""

import hashlib
import json
import random
import shutil
import struct
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .record import record

PACKAGES = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")
# What may reach a user: these, and classes of the project. Subclasses of other libraries, as JSONDecodeError,
# UnicodeDecodeError and HFValidationError, say nothing of the file.
OURS = (ValueError, OSError, FloatingPointError)
VALUES: list[Any] = [None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf")]
VALUES += [
    "",
    "x",
    "1",
    "null",
    "../../etc/passwd",
    "/",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "é",
    [],
    {},
    [[]],
    [None],
    ["a"],
]
VALUES += [{"a": 1}, [1, 2, 3], {"": None}, [[[[[[]]]]]], "!!python/object/apply:os.system ['true']"]
TOKENS = [b'"', b"{", b"[", b"]", b"}", b",", b";", b"\n", b"\r", b"null", b"NaN", b"1e999", b"\0", b"\xff", b"\xc3"]
TOKENS += [
    b"9" * 5000,
    b"[" * 2000,
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"-1",
    b"true",
    b"\t",
    b"\xe2\x80\xa8",
    b"''",
    b"!!x ",
]


@dataclass
class Subject:
    """
    A folder whose files are mutated.

    Args:
        name (`str`): in the report.
        folder (`Path`): the folder as it should be.
        load (`Callable[[Path], object]`): loads a folder and returns what it found, comparable by `==`.
        files (`Mapping[str, bool]`): those that are mutated, and whether what loads must be what was written: not of
            what people edit.
        weight (`float`, *optional*, defaults to 1): how many of all mutations, relative to other subjects.
    """

    name: str
    folder: Path
    load: Callable[[Path], object]
    files: Mapping[str, bool]
    weight: float = 1.0


@dataclass
class Findings:
    """What became of the mutations of a subject."""

    name: str
    tried: int = 0
    refused: int = 0
    equal: int = 0
    other: int = 0  # loaded, and something else: of files that people edit
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # one of each kind

    def fail(self, kind: str, text: str) -> None:
        self.failed += 1
        self.failures.setdefault(kind, text)

    def __str__(self) -> str:
        said = f"{self.name}: {self.tried} tried, {self.refused} refused, {self.equal} equal, {self.other} edited"
        said += f", {self.failed} failed" if self.failed else ""
        return "\n".join([said, *(f"--- {kind}\n{text}" for kind, text in self.failures.items())])


def fuzz(subject: Subject, tries: int, scratch: Path, seed: int = 0) -> Findings:
    """Mutates the files of a subject so many times; a try is known by its seed and number."""
    found, expected = Findings(subject.name), subject.load(subject.folder)
    assert subject.load(subject.folder) == expected, f"{subject.name} does not load twice alike"
    folder = scratch / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subject.folder, folder)
    names = [*subject.files]
    for number in range(tries):
        rng = random.Random(f"{seed} {subject.name} {number}")
        name = names[number % len(names)]
        content = (subject.folder / name).read_bytes()
        is_neutral = rng.random() < 0.05
        mutated = neutral(name, content) if is_neutral else mutate(name, content, rng)
        (folder / name).write_bytes(mutated)
        found.tried += 1
        try:
            result = subject.load(folder)
        except Exception as error:
            found.refused += 1
            wrong = what_is_wrong(error, folder, name)
            if is_neutral:
                wrong = f"the same content, written in another way, is refused: {error!r}"
            if wrong:
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{name}: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                text = "".join(traceback.format_exception(error)[-9:])[-2500:]
                found.fail(kind, f"try {number}: {wrong}\n{mutated[:300]!r}\n{text}")
        else:
            if result == expected:
                found.equal += 1
            elif (subject.files[name] and not is_of_an_older_release(name, mutated)) or is_neutral:
                text = f"try {number}:\n{_difference(content, mutated)}\n{str(result)[:300]}"
                found.fail(f"{name} loads as something else", text)
            else:
                found.other += 1
        shutil.copyfile(subject.folder / name, folder / name)
    record("mutations", subject.name, found.tried, found.tried - found.failed, refused=found.refused)
    return found


def what_is_wrong(error: Exception, folder: Path, name: str) -> str | None:
    """Why an error must not reach a user, or None: it is ours and says which file it is about."""
    kind = type(error)
    builtin = kind.__module__ == "builtins" and isinstance(error, OURS) and not isinstance(error, UnicodeError)
    if not builtin and kind.__module__.partition(".")[0] not in PACKAGES:
        return f"a bare {kind.__name__}"
    if name not in str(error) and folder.name not in str(error):
        return "it names no file"
    return None


def is_of_an_older_release(name: str, content: bytes) -> bool:
    """Whether a safetensors file states no fingerprint, or none of its metadata, as those of before: it is read."""
    if not name.endswith(".safetensors"):
        return False
    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return not {"fingerprint", "metadata_fingerprint"} <= metadata.keys()


def neutral(name: str, content: bytes) -> bytes:
    """The same, written in another way."""
    if name.endswith(".json"):
        return json.dumps(json.loads(content), indent=3, ensure_ascii=True).encode()
    if name.endswith(".csv"):
        return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
    if name.endswith(".jsonl"):
        return content.replace(b"\n", b"\r\n")
    return content


def mutate(name: str, content: bytes, rng: random.Random) -> bytes:
    """One to three changes: of the structure, where there is one, or of bytes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        structured = rng.random() < 0.6
        try:
            if structured and name.endswith(".json"):
                content = _dumps(_changed(json.loads(content), rng))
            elif structured and name.endswith(".safetensors"):
                content = _changed_header(content, rng)
            elif structured and name.endswith((".jsonl", ".csv")):
                content = _changed_lines(name, content, rng)
            else:
                content = _changed_bytes(content, rng)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError, struct.error):  # broken already
            content = _changed_bytes(content, rng)
    return content


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def _changed(value: Any, rng: random.Random) -> Any:
    """A JSON value of which one part is changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice([*value])
        kind = rng.random()
        if kind < 0.15:
            return {each: value[each] for each in value if each != key}
        if kind < 0.25:
            return {(key + "x" if each == key else each): value[each] for each in value}
        if kind < 0.3:
            return value | {rng.choice(["x", "", "__class__", "auto_map", "_commit_hash"]): rng.choice(VALUES)}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place, kind = rng.randrange(len(value)), rng.random()
        if kind < 0.2:
            return value[:place] + value[place + 1 :]
        if kind < 0.4:
            return [*value, value[place]]
        if kind < 0.5:
            return value[::-1]
        return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice([value + 1, -value, value * 2, value / 2, str(value), float(value)])
    if isinstance(value, str) and value and rng.random() < 0.3:
        return rng.choice([value[:-1], value + "x", value.upper(), value[::-1]])
    return rng.choice(VALUES)


def _changed_header(content: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = rng.random()
    if kind < 0.1:
        return struct.pack("<Q", rng.choice([0, 1, length + 1, 2**40, 2**63])) + content[8:]
    if kind < 0.2:
        return content[: 8 + length] + body + bytes(rng.randrange(1, 9))
    if kind < 0.3 and len(header) > 2:  # two tensors change places
        a, b = rng.sample([name for name in header if name != "__metadata__"], 2)
        header[a], header[b] = header[b], header[a]
    else:
        header = _changed(header, rng)
    text = _dumps(header)
    return struct.pack("<Q", len(text)) + text + body


def _changed_lines(name: str, content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    place, kind = rng.randrange(len(lines)), rng.random()
    if kind < 0.1:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif kind < 0.2:
        del lines[place]
    elif kind < 0.25:
        lines[place] = b""
    elif name.endswith(".jsonl"):
        lines[place] = _dumps(_changed(json.loads(lines[place] or b"{}"), rng))
    else:
        cells = lines[place].split(b",")
        odd = [*TOKENS, b"", b"1,5", b"2024-01-01", b'"a,b"', b"1e5", b"007", b"0.5", b"True", b" x "]
        cells[rng.randrange(len(cells))] = rng.choice(odd)
        lines[place] = b",".join(cells if rng.random() < 0.7 else cells[:-1] or cells)
    return b"\n".join(lines)


def _changed_bytes(content: bytes, rng: random.Random) -> bytes:
    place, kind = rng.randrange(len(content) + 1), rng.random()
    if kind < 0.35 and place < len(content):
        return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
    if kind < 0.6:
        return content[:place] + content[place + rng.randrange(1, 30) :]
    if kind < 0.9:
        return content[:place] + rng.choice(TOKENS) + content[place:]
    return content[:place]


def _difference(a: bytes, b: bytes) -> str:
    place = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    around = slice(max(0, place - 40), place + 60)
    return f"{len(a)} and {len(b)} bytes, from byte {place}: {a[around]!r} became {b[around]!r}"


def digest(*values: Any) -> str:
    """One word for arrays, tensors and texts."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode("utf-8", "backslashreplace"))
    return found.hexdigest()


def shares(subjects: Iterable[Subject], total: int) -> dict[str, int]:
    """So many mutations in all, by the subjects' weights."""
    subjects = [*subjects]
    whole = sum(subject.weight for subject in subjects)
    return {subject.name: max(1, round(total * subject.weight / whole)) for subject in subjects}
