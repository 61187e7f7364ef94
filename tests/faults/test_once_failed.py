"""Inputs that once ended in an error of another library, or loaded as something else, in small."""

import json
import os
import stat
import struct

import pytest

from .fuzz import what_is_wrong
from .subjects import make_subjects
from .test_fuzz import quiet  # noqa: F401


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"))


def header(change):
    """A safetensors file with another header."""

    def changed(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        values = json.loads(content[8 : 8 + length])
        change(values)
        text = json.dumps(values).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return changed


def entry(**values):
    """A JSON object with other entries."""
    return lambda content: json.dumps(json.loads(content) | values).encode()


def with_part(part):
    """Values of a card whose evaluation has another part."""

    def changed(content: bytes) -> bytes:
        values = json.loads(content)
        values["evaluations"][0]["protocol"] = {"part": part}
        return json.dumps(values).encode()

    return changed


def bytes_of(content):
    return lambda _: content


def test_what_is_saved_has_the_permissions_of_new_files(tmp_path):
    """Weights, index and embeddings were their owner's alone."""
    before = os.umask(0o027)
    try:
        make_subjects(tmp_path)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {"weights", "index", "memory", "embeddings"} <= {path.parts[0] for path in modes}
    wrong = {path: oct(mode) for path, mode in modes.items() if mode not in (0o640, 0o750)}
    assert not wrong


CASES = [
    ("embeddings", "item_ids.json", bytes_of(b"Infinity"), "item_ids.json: expected a list of strings, found 'inf'"),
    ("embeddings", "item_ids.json", bytes_of(b"[1, 2]"), "item_ids.json: expected a list of strings"),
    ("embeddings", "embeddings.json", bytes_of(b"[]"), "embeddings.json"),
    ("embeddings", "embeddings.json", bytes_of(b"[" * 9999), "embeddings.json"),
    (
        "statistics of texts",
        "content.safetensors",
        header(lambda values: values["__metadata__"].update(fingerprint=0.5)),
        "content.safetensors is damaged: its fingerprint is a text, found 0.5",
    ),
    (
        "memory",
        "item_memory.safetensors",
        header(lambda values: values["__metadata__"].update(settings=values["__metadata__"]["settings"] + " ")),
        "item_memory.safetensors is damaged: its metadata were changed",
    ),
    ("configuration", "config.json", entry(pad_token_id="x"), "(?s)configuration cannot be used: .*pad_token_id"),
    ("configuration", "config.json", entry(num_layers=10**6), "configuration: .*num_layers is 1000000"),
    ("configuration", "config.json", entry(format_version=99), "configuration: .*format version"),
    ("configuration", "generation_config.json", entry(max_new_tokens=-1), "configuration: .*max_new_tokens"),
    ("card", "card_values.json", with_part(["test"]), "part of the evaluation on .* is no text: .'test'."),
    ("quick start", "recommender.json", entry(rules={"deny": None}), "deny is a list of item ids, got None"),
    ("quick start", "recommender.json", entry(rules={"allow": 3}), "recommender.json: .*int"),
    ("sequences", "sequences.jsonl", bytes_of(b"[" * 9999), "sequences.jsonl cannot be read: line 1"),
    ("interactions, jsonl", "interactions.jsonl", bytes_of(b"{" + b"[" * 9999), "interactions.jsonl cannot be read"),
]


@pytest.mark.parametrize(("subject", "name", "change", "message"), CASES)
def test_it_ends_in_an_error_that_names_the_file(subjects, subject, name, change, message):
    subject = subjects[subject]
    content = (subject.folder / name).read_bytes()
    try:
        (subject.folder / name).write_bytes(change(content))
        with pytest.raises(ValueError, match=message) as error:
            subject.load(subject.folder)
        assert what_is_wrong(error.value, subject.folder, name) is None
    finally:
        (subject.folder / name).write_bytes(content)
    assert subject.load(subject.folder) is not None
