"""Files and rows that are broken, by accident or not: each ends in an error of the package."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_utgrec import UTGRecConfig
from tokenization_items import UniversalItemTokenizer, item_files
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.files import read_settings
from tokenization_items.item_images import ImageError, open_image
from tokenization_items.item_index import CODES_NAME, IDS_NAME, ItemIndex, ItemIndexError
from tokenization_items.processing_items import PROCESSOR_FILE, ItemProcessor

MANY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def png():
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(stream, "PNG")
    return stream.getvalue()


RECORDS = [
    {"item_id": f"i{row}", "title": f"title {row} é", "categories": ["a"], "image": "a.png"} for row in range(4)
]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()


def parquet_bytes(**options):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), stream, **options)
    return stream.getvalue()


FILES = {
    "items.jsonl": LINES,
    "items.jsonl.gz": gzip.compress(LINES, mtime=0),
    "items.csv": b"item_id,title,image\n" + b"".join(b'i%d,"t %d",a.png\n' % (row, row) for row in range(4)),
    "items.parquet": parquet_bytes(compression="none", use_dictionary=False),
}


@st.composite
def mutations(draw, content: bytes) -> bytes:
    """A few bytes changed, inserted or taken away."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place, kind = draw(st.integers(0, len(content))), draw(st.integers(0, 3))
        if kind == 0:
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 1:
            del content[place : place + draw(st.integers(1, 30))]
        elif kind == 2:
            odd = [b'"', b"{", b"[", b"null", b"NaN", b"1e999", b"\0", b"\xff", b"9" * 5000, b"[" * 2000, b"\\ud800"]
            content[place:place] = draw(st.sampled_from(odd))
        else:
            del content[place:]
    return bytes(content)


def use(catalogue):
    """All that a catalogue is for; errors may only be ours."""
    for action in (catalogue.check, lambda: [catalogue.image(row) for row in range(len(catalogue))]):
        try:
            action()
        except CatalogueError:
            pass
    Catalogue.concatenate([catalogue, catalogue.select(range(len(catalogue)))])
    assert all(isinstance(text, str) for text in [*catalogue.item_ids, *catalogue.texts, *catalogue.titles])


@pytest.mark.parametrize("name", FILES)
@MANY
@given(data=st.data())
def test_item_files(name, data, tmp_path):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / name).write_bytes(data.draw(mutations(FILES[name])))
    try:
        catalogue = Catalogue.from_folder(tmp_path)
    except CatalogueError:
        return
    use(catalogue)


ODD_CELLS = [pd.NA, pd.NaT, np.array([1, 2]), np.array(3), np.float32("nan"), "../a.png", "/etc/passwd", "\0"]
CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6)
    | st.characters(categories=["Cs"])
    | st.sampled_from(
        [pd.NA, pd.NaT, np.array([1, 2]), np.array(3), np.float32("nan"), "../a.png", "/etc/passwd", "\0"]
    ),
    lambda cells: (
        st.lists(cells, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), cells, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["item_id", "title", "features", "categories", "image", "x"]), CELLS, max_size=4),
    max_size=3,
)


@MANY
@given(rows=ROWS, within=st.booleans(), frame=st.sampled_from([None, pd.DataFrame, pl.DataFrame]))
def test_item_rows(rows, within, frame, tmp_path):
    if frame is not None:
        try:
            rows = frame(rows)
        except Exception:  # no frame can hold them
            return
    try:
        catalogue = Catalogue.from_records(rows, image_root=tmp_path if within else None)
    except CatalogueError:
        return
    use(catalogue)


@pytest.mark.parametrize("value", [pd.NA, pd.NaT, float("nan"), None])
def test_every_kind_of_empty_cell(value):
    catalogue = Catalogue.from_records([{"item_id": "a", "title": "t", "brand": value, "image": value}])
    assert catalogue.texts == ["t"] and not catalogue.has_image(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.jsonl", b'{"item_id": "a", "title": ' + b"[" * 5000, "line 1: not JSON"),
        ("items.jsonl", b'{"item_id": ' + b"9" * 5000 + b"}", "line 1: not JSON.*digits"),
        ("items.jsonl", b'{"item_id": "\\ud800", "title": "t"}', "holds half a character"),
        ("items.csv", b"item_id,ti\0tle\na,b\n", "line 1 holds a zero byte"),
        ("items.csv", "item_id,title\na,b\n".encode("utf-16")[:-1], "is not utf-16-le.*Is the file complete"),
        ("items.csv", gzip.compress(b"item_id,title\na,b\n", mtime=0), "is packed"),
        ("items.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "cannot be read"),
        ("items.parquet", FILES["items.parquet"].replace("é".encode(), b"\xff\xff"), "cannot be read"),
    ],
)
def test_broken_item_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=message):
        Catalogue.from_folder(tmp_path)


def test_archive_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(item_files, "MIN_UNPACKED", 2**20)
    monkeypatch.setattr(item_files, "MAX_LINE", 2**18)
    packed = tmp_path / "items.jsonl.gz"
    line = json.dumps({"item_id": "a", "title": "x" * 1000}).encode() + b"\n"
    packed.write_bytes(gzip.compress(line * 4000))
    with pytest.raises(CatalogueError, match="made to fill the memory"):
        Catalogue.from_folder(tmp_path)
    packed.write_bytes(gzip.compress(b" " * 2**19))
    with pytest.raises(CatalogueError, match="line 1: longer than"):
        Catalogue.from_folder(tmp_path)
    packed.unlink()
    rows = pa.table({"item_id": pa.array(["a"]).take(pa.array(np.zeros(10**6, np.int64)))})
    pq.write_table(rows, tmp_path / "items.parquet", compression="zstd")
    with pytest.raises(CatalogueError, match="made to fill the memory"):
        Catalogue.from_folder(tmp_path)


def test_text_that_packs_well_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(item_files, "MIN_UNPACKED", 2**16)
    rng = np.random.default_rng(0)
    rows = [{"item_id": f"item-{row}", "title": f"item number {rng.integers(99)} of the shop"} for row in range(5000)]
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode(), 9))
    assert len(Catalogue.from_folder(tmp_path)) == 5000


# images


def test_images_must_stay_in_their_folder(tmp_path):
    folder, outside = tmp_path / "shop", tmp_path / "outside.png"
    (folder / "images").mkdir(parents=True)
    outside.write_bytes(png())
    (folder / "images" / "in.png").write_bytes(png())
    os.symlink(outside, folder / "images" / "out.png")
    os.symlink(folder / "images" / "in.png", folder / "link.png")
    os.symlink(tmp_path, folder / "up")
    for name in ("images/in.png", "./images/in.png", "link.png"):
        assert open_image(name, folder).size == (9, 7)
    for name in ("../outside.png", "images/../../outside.png", str(outside), "images/../images/in.png"):
        with pytest.raises(ImageError, match="leads out of the folder"):
            open_image(name, folder)
    for name in ("images/out.png", "up/outside.png"):
        with pytest.raises(ImageError, match="link out of the folder"):
            open_image({"bytes": None, "path": name}, folder)
    assert open_image(str(outside)).size == (9, 7), "paths of one's own making are taken as they are"


def test_links_of_the_hubs_cache_are_within(tmp_path):
    """Downloaded files are links from snapshots/<commit>/ to blobs/."""
    repository = tmp_path / "datasets--org--shop"
    data = repository / "snapshots" / "abc" / "office"
    (data / "images").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "123").write_bytes(png())
    os.symlink("../../../../blobs/123", data / "images" / "a.png")
    os.symlink("../../../..", data / "images" / "top")
    assert open_image("images/a.png", data).size == (9, 7)
    (tmp_path / "b.png").write_bytes(png())
    os.symlink(tmp_path / "b.png", data / "images" / "b.png")
    with pytest.raises(ImageError, match="link out of the folder"):
        open_image("images/b.png", data)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800", "a/" * 3000, "", ".", "loop"])
def test_paths_that_no_file_has(tmp_path, path):
    os.symlink("loop", tmp_path / "loop")
    for root in (tmp_path, None):
        with pytest.raises(ImageError):
            open_image(path, root)


def test_a_device_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    start = time.monotonic()
    with pytest.raises(ImageError, match="missing image file"):
        open_image("pipe.png", tmp_path)
    assert time.monotonic() - start < 1, "opening a pipe would wait for a writer"


def test_formats_that_run_other_programs_are_not_opened(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "EPS")
    with pytest.raises(ImageError, match="not an image, or not in one of the formats"):
        open_image(stream.getvalue())


@MANY
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
def test_image_files(data, kind):
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(stream, kind)
    try:
        image = open_image(data.draw(mutations(stream.getvalue())))
    except ImageError:
        return
    assert image.mode == "RGB" and max(image.size) <= 1024


# item index

VALUES = [
    *(
        None,
        True,
        -1,
        0,
        2.5,
        float("inf"),
        10**30,
        2**31,
        "",
        "x",
        "[]",
        "{}",
        "null",
        "[NaN]",
        "[1e400]",
        "[4,4,4,4]",
    ),
    *("[true,4,4]", "[4.0,4,4]", "[0,4,4]", "[-1,4,4]", '["4","4","4"]', "[" * 3000, "9" * 5000, ["4"], {"a": 1}),
    *("F32", "I64", "BF16", "F8_E4M3", "BOOL", "U8", [6, 3], [3, 4], [12], [0, 3], [10**18, 10**18], [0, 10**18]),
]


@pytest.fixture(scope="module")
def saved_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    index = ItemIndex([4, 4, 4], [2, 6, 6])
    index.assign(["a", "b", "c", "d"], np.stack(np.unravel_index(np.arange(4) * 9, (4, 4, 4)), 1))
    index.save(folder)
    return {name: (folder / name).read_bytes() for name in (CODES_NAME, IDS_NAME)}


def load(folder, codes, ids):
    (folder / CODES_NAME).write_bytes(codes)
    (folder / IDS_NAME).write_bytes(ids)
    try:
        index = ItemIndex.load(folder)
    except ItemIndexError:
        return
    assert [index.decode(index.encode(item_id)) for item_id in index.item_ids] == index.item_ids


@MANY
@given(data=st.data())
def test_bytes_of_an_index(saved_index, tmp_path, data):
    contents = dict(saved_index)
    name = data.draw(st.sampled_from([CODES_NAME, IDS_NAME]))
    contents[name] = data.draw(mutations(contents[name]))
    load(tmp_path, *contents.values())


@MANY
@given(data=st.data())
def test_headers_of_an_index(saved_index, tmp_path, data):
    raw = saved_index[CODES_NAME]
    length = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(["__metadata__", "codes", None]))
        target = header if part is None else header.setdefault(part, {})
        key = data.draw(st.sampled_from([*(target or {"version": 1}), "more"])) if isinstance(target, dict) else None
        if key is not None and data.draw(st.booleans()):
            target.pop(key, None)
        elif key is not None:
            target[key] = data.draw(st.sampled_from(VALUES))
    text = json.dumps(header).encode()
    load(tmp_path, struct.pack("<Q", len(text)) + text + body, saved_index[IDS_NAME])


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"9" * 5000, b"{}", b"null", b'[["a"]]', b'["a", 1]', b"\xff", b""]
)
def test_item_ids_of_an_index(saved_index, tmp_path, content):
    (tmp_path / CODES_NAME).write_bytes(saved_index[CODES_NAME])
    (tmp_path / IDS_NAME).write_bytes(content)
    with pytest.raises(ItemIndexError, match=IDS_NAME):
        ItemIndex.load(tmp_path)


@pytest.mark.parametrize("levels", [[2.0, 2], [True, 2], ["2", 2], [2**25, 2], [], [2] * 300, [None, 2], [-1, 2]])
def test_levels_are_whole_numbers(levels):
    with pytest.raises(ValueError, match="level_sizes must be"):
        ItemIndex(levels, list(range(1, len(levels) + 1)))
    with pytest.raises(ValueError, match="level_offsets must be"):
        ItemIndex([2, 2], [-1, 2])
    with pytest.raises(ValueError, match="level_offsets must be"):
        ItemIndex([2, 2], [0, 2])  # 0 is padding


def test_levels_share_all_of_their_tokens_or_none():
    for offsets in ([1, 4, 4], [4, 1, 7], [1, 1, 1]):
        assert ItemIndex([3, 3, 3], offsets).level_offsets == offsets
    for offsets in ([1, 3, 6], [6, 3, 1], [1, 4, 5]):
        with pytest.raises(ValueError, match="would be of two levels"):
            ItemIndex([3, 3, 3], offsets)


# settings, and files that would run code


class Runs:
    """A pickle of this makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_place_of_an_index_is_not_opened(saved_index, tmp_path):
    trace = tmp_path / "code-was-run"
    for name in (CODES_NAME, IDS_NAME):
        contents = saved_index | {name: pickle.dumps(Runs(trace))}
        for file, content in contents.items():
            (tmp_path / file).write_bytes(content)
        with pytest.raises(ItemIndexError):
            ItemIndex.load(tmp_path)
    assert not trace.exists()


@pytest.fixture(scope="module")
def saved_processor(tmp_path_factory, tiny_network):
    folder = tmp_path_factory.mktemp("processor")
    tiny_network[1].save_pretrained(folder)
    return folder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@settings(MANY, max_examples=25)
@given(data=st.data())
def test_settings_of_a_processor(saved_processor, tmp_path, data):
    shutil.copytree(saved_processor, tmp_path, dirs_exist_ok=True)
    values = json.loads((saved_processor / PROCESSOR_FILE).read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        values[data.draw(st.sampled_from([*values, "more"]))] = data.draw(JSON)
    content = data.draw(st.sampled_from([values, values, values, [values], None]))
    (tmp_path / PROCESSOR_FILE).write_text(json.dumps(content))
    try:
        ItemProcessor.from_pretrained(tmp_path)
    except (ValueError, OSError):
        pass


@settings(MANY, max_examples=15)
@given(max_text_tokens=st.integers(1, 2**31), instruct=st.booleans(), more=JSON)
def test_sound_settings_of_a_processor_are_taken(saved_processor, tmp_path, max_text_tokens, instruct, more):
    """The other half of the test above, which a loader that refuses everything would pass."""
    shutil.copytree(saved_processor, tmp_path, dirs_exist_ok=True)
    values = json.loads((saved_processor / PROCESSOR_FILE).read_text())
    values |= {
        "max_text_tokens": max_text_tokens,
        "max_length": None,
        "instruct": instruct,
        "of a later release": more,
    }
    (tmp_path / PROCESSOR_FILE).write_text(json.dumps(values))
    processor = ItemProcessor.from_pretrained(tmp_path)
    assert (processor.max_text_tokens, processor.instruct) == (max_text_tokens, instruct)
    assert processor.code_token_ids == values["code_token_ids"]
    assert processor.encode_texts(["a title"])[0][:max_text_tokens]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"version": "1.0",', "tokenizer.json is truncated or not JSON"),
        ("tokenizer.json", None, "holds no tokenizer.json, nor another vocabulary .*: copy it"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json: expected an object, found list"),
    ],
)
def test_text_tokenizers_that_are_broken_or_missing_are_named(saved_processor, tmp_path, name, content, message):
    """transformers says JSONDecodeError, or to install sentencepiece."""
    folder = tmp_path / "processor"
    shutil.copytree(saved_processor, folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ItemProcessor.from_pretrained(folder)


@pytest.mark.parametrize("number", [0, -3, 10**30, True])
def test_histories_of_a_tokenizer_are_a_number_of_items(tmp_path, number):
    index = ItemIndex([4, 4], [2, 6])
    UniversalItemTokenizer(index, None, 20).save_pretrained(tmp_path)
    file = tmp_path / "item_tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_history": number}))
    with pytest.raises(ValueError, match="item_tokenizer_config.json: max_history must be"):
        UniversalItemTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["num_layers", "num_decoder_layers", "num_heads", "max_history"])
def test_configurations_without_layers_are_refused(name):
    for number in (0, -1, *([10**30] if name == "max_history" else [])):
        with pytest.raises(StrictDataclassError, match=f"`{name}` must be"):
            UTGRecConfig(**{name: number})


def test_a_processors_code_is_never_run(saved_processor, tmp_path):
    """A tokenizer that names a class of its own in a file beside it: the file is not imported."""
    shutil.copytree(saved_processor, tmp_path, dirs_exist_ok=True)
    trace = tmp_path / "code-was-run"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Tokenizer: pass\n")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Odd"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        ItemProcessor.from_pretrained(tmp_path)
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "the entry 'size' is missing"),
        ('{"size": true}', "size must be of type int, found 'True'"),
        ('{"size": 1.0}', "size must be of type int"),
        ("[1]", "expected an object, found list"),
        ("{", "truncated or not JSON"),
        ("[" * 5000, "truncated or not JSON"),
        ('{"size": 3, "note": 4}', "note must be of type str or NoneType"),
    ],
)
def test_settings(tmp_path, content, message):
    (tmp_path / "s.json").write_text(content)
    kinds = {"size": (int,), "note": (str, type(None))}
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path / "s.json", kinds)
    (tmp_path / "s.json").write_text('{"size": 3, "of a later release": 4}')
    assert read_settings(tmp_path / "s.json", kinds) == {"size": 3, "note": None}
