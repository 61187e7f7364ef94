"""Files of an item memory: they come back as they were, belong to one index, and broken ones are named."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_utgrec.checkpoint_fingerprint import stamp_file
from modeling_utgrec.item_memory import ItemMemory, MemoryPeriods
from modeling_utgrec.memory_content import MemoryContent
from modeling_utgrec.memory_settings import MemorySettings
from tokenization_items import ItemIndex, ItemMemoryError, StoredMemory, UniversalItemTokenizer
from tokenization_items.item_memory import MEMORY_NAME

N = 6


def make_index(items: int = N) -> ItemIndex:
    index = ItemIndex([4, 5], [2, 6])
    index.assign([f"i{row}" for row in range(items)], np.array([divmod(row * 3, 5) for row in range(items)]))
    return index


def make_stored(items: int = N) -> StoredMemory:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-1, items, (items, 3), generator=generator)
    settings = MemorySettings(
        content_weight=0.1,
        evidence=3.0,
        trend_weight=0.02,
        gate=(0.1, 0.2, 0.3, 0.4),
        period_weight=0.01,
        brand_weight=0.02,
    )
    values = torch.rand(items, 3, generator=generator)
    counts = torch.arange(items)
    vectors = torch.rand(items, 2, generator=generator)
    mean, projection = torch.rand(7, generator=generator), torch.rand(7, 2, generator=generator)
    content = MemoryContent(rows.flip(0), vectors, mean, projection)
    periods = MemoryPeriods(counts % 3 - 1, torch.rand(2, 2, generator=generator))
    memory = ItemMemory(rows, values, counts, settings, content, counts.flip(0), periods, counts // 2 - 1)
    pairs = {
        "pair_offsets": torch.tensor([0, 2, *[3] * (items - 1)]),
        "pair_items": torch.tensor([1, 2, 0], dtype=torch.int32),
        "pair_counts": torch.tensor([2520, 5, 7]),
    }
    return StoredMemory(memory, {"transitions": "counts", "selection": [{"temperature": 0.02, "ndcg@10": 0.5}]}, pairs)


def rewrite(folder, metadata=None, **tensors) -> None:
    with safe_open(folder / MEMORY_NAME, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = file.metadata()
    found |= tensors
    save_file({k: v for k, v in found.items() if v is not None}, folder / MEMORY_NAME, stated | (metadata or {}))
    stamp_file(folder / MEMORY_NAME)


def test_comes_back_as_it_was(tmp_path):
    stored, index = make_stored(), make_index()
    assert stored.save(tmp_path, index) == tmp_path / MEMORY_NAME
    loaded = StoredMemory.load(tmp_path, index)
    assert loaded.memory.settings == stored.memory.settings and loaded.facts == stored.facts
    for mine, theirs in ((stored.memory.tensors(), loaded.memory.tensors()), (stored.pairs, loaded.pairs)):
        assert mine.keys() == theirs.keys()
        assert all(
            torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype for name, tensor in mine.items()
        )
    bare = StoredMemory(make_stored().memory)
    bare.save(tmp_path, index)
    assert StoredMemory.load(tmp_path, index).pairs is None


def test_belongs_to_one_index(tmp_path):
    index = make_index()
    make_stored().save(tmp_path, index)
    before = (tmp_path / MEMORY_NAME).read_bytes()
    index.remove(["i2"])
    with pytest.raises(ItemMemoryError, match="made for 6 items .* the index has 5 .*--update"):
        StoredMemory.load(tmp_path, index)
    with pytest.raises(ItemMemoryError, match="of 6 items, the item index of 5: nothing was written"):
        make_stored().save(tmp_path, index)
    assert (tmp_path / MEMORY_NAME).read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [
        MEMORY_NAME
    ]
    assert StoredMemory.load(tmp_path).memory.num_items == 6, "to be brought up to date"


def test_what_is_missing_or_truncated_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="utgrec memory"):
        StoredMemory.load(tmp_path, make_index())
    make_stored().save(tmp_path, make_index())
    whole = (tmp_path / MEMORY_NAME).read_bytes()
    (tmp_path / MEMORY_NAME).write_bytes(whole[:-20])
    with pytest.raises(ItemMemoryError, match="truncated"):
        StoredMemory.load(tmp_path, make_index())


@pytest.mark.parametrize(
    ("metadata", "tensors", "said"),
    [
        ({"format": "other"}, {}, "found other version 2"),
        ({"version": "9"}, {}, "found utgrec-item-memory version 9"),
        ({"settings": "{"}, {}, "item_memory.safetensors: "),
        ({"settings": "[]"}, {}, "must be objects"),
        ({"settings": json.dumps({"mixing_weight": 3})}, {}, "mixing_weight must be from 0 to 1"),
        ({"num_items": "7"}, {}, "expected transitions of 7 items, found 6"),
        ({}, {"transition_items": torch.full((N, 3), 99, dtype=torch.int32)}, "must be rows of its 6 items"),
        ({}, {"transition_weights": torch.full((N, 3), torch.nan).half()}, "finite"),
        ({}, {"transition_weights": torch.zeros(N, 3)}, "expected transition_weights as torch.float16"),
        ({}, {"content": None}, "go together"),
        ({}, {"content": torch.full((N, 2), torch.nan).half()}, "content of an item memory must be finite"),
        ({}, {"counts": None}, "expected tensors"),
        ({}, {"brands": torch.zeros(N, dtype=torch.int32)}, "expected brands as torch.int64"),
        ({}, {"brands": None}, "does not know the items' brands"),
        ({}, {"recent": torch.zeros(N)}, "expected recent as torch.int32"),
        ({}, {"recent": torch.zeros(N - 1, dtype=torch.int32)}, "recent of an item memory must be 6 whole numbers"),
        ({}, {"recent": None}, "does not know the latest interactions"),
        (
            {},
            dict.fromkeys(("content_mean", "content", "content_projection", "similar_items")),
            "has no similar items",
        ),
        ({}, {"pair_items": torch.tensor([1, 9, 0], dtype=torch.int32)}, "no sparse rows of 6 items"),
        ({}, {"pair_offsets": torch.tensor([0, 2, 1, 3, 3, 3, 3])}, "no sparse rows of 6 items"),
    ],
)
def test_tampered_files_are_refused(tmp_path, metadata, tensors, said):
    make_stored().save(tmp_path, make_index())
    rewrite(tmp_path, metadata, **tensors)
    with pytest.raises(ItemMemoryError, match=said):
        StoredMemory.load(tmp_path, make_index())


def test_an_item_tokenizer_has_the_memory_beside_its_index(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    UniversalItemTokenizer(make_index(), None).save_pretrained(first)
    assert UniversalItemTokenizer.from_pretrained(first).memory is None
    make_stored().save(first, make_index())
    tokenizer = UniversalItemTokenizer.from_pretrained(first)
    assert tokenizer.memory.num_items == N and tokenizer.memory is tokenizer.memory
    tokenizer.save_pretrained(second)
    copied = StoredMemory.load(second, make_index())
    assert copied.facts == make_stored().facts and copied.memory.settings == make_stored().memory.settings
    assert torch.equal(copied.memory.content.vectors, make_stored().memory.content.vectors)

    (first / MEMORY_NAME).unlink()  # read once, it is saved without being there any more
    tokenizer.save_pretrained(tmp_path / "d")
    assert StoredMemory.load(tmp_path / "d", make_index()).facts == copied.facts
    make_stored().save(first, make_index())
    tokenizer.remove_items(["i0"])
    with pytest.raises(ItemMemoryError, match="Items were added or removed"):
        _ = tokenizer.memory
    tokenizer.save_pretrained(tmp_path / "c")
    assert UniversalItemTokenizer.from_pretrained(tmp_path / "c").memory is None


def test_a_memory_that_is_set_is_of_the_items_as_they_are(tmp_path):
    tokenizer, stored = UniversalItemTokenizer(make_index(), None), make_stored()
    tokenizer.stored_memory = stored
    assert tokenizer.stored_memory is stored and tokenizer.memory is stored.memory
    tokenizer.save_pretrained(tmp_path / "a")
    assert UniversalItemTokenizer.from_pretrained(tmp_path / "a").memory.num_items == N
    tokenizer.remove_items(["i0"])
    with pytest.raises(ItemMemoryError, match="items were added or removed"):
        _ = tokenizer.memory
    tokenizer.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / MEMORY_NAME).exists()
    tokenizer.stored_memory = None
    assert tokenizer.memory is None
    tokenizer.save_pretrained(tmp_path / "a")
    assert UniversalItemTokenizer.from_pretrained(tmp_path / "a").memory is None


def test_a_full_disk_leaves_the_tokenizer_that_was_there(tmp_path, monkeypatch):
    tokenizer = UniversalItemTokenizer(make_index(), None)
    tokenizer.stored_memory = make_stored()
    tokenizer.save_pretrained(tmp_path / "a")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    tokenizer.remove_items(["i0"])
    tokenizer.stored_memory = StoredMemory(make_stored().memory.select(torch.arange(1, N)))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tokenization_items.item_memory.write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save_pretrained(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == files
    monkeypatch.undo()
    tokenizer.save_pretrained(tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*files}
    assert UniversalItemTokenizer.from_pretrained(tmp_path / "a").memory.num_items == N - 1
