"""The pipeline, in the manner of transformers' tests of theirs: it gives what the recommender gives, however it is
called."""

import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline, set_seed

from modeling_utgrec import ItemMemory, MemorySettings, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import ItemRecommendationPipeline, UniversalItemTokenizer, UnknownItemError
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_memory import MEMORY_NAME, ItemMemoryError, StoredMemory
from tokenization_items.tokenization_items import TokenizerMismatchError

HISTORIES = [["item-1"], ["item-3", "item-5", "item-7", "item-2"], ["item-0", "item-4"]]


@pytest.fixture(scope="module")
def run(make_network, tiny_qwen2_vl, tiny_items, tmp_path_factory):
    """Folders `tokenizer`, with a network, and `recommender`, with an index-only copy. Shared: don't change them."""
    folder = tmp_path_factory.mktemp("run")
    network, processor = make_network(tiny_qwen2_vl)
    tokenizer = UniversalItemTokenizer.from_network(network, processor, max_history=3)
    for item in tiny_items:  # so that codes differ: every item is a vector of each codebook
        record = {"item_id": item["item_id"], "description": item["text"], "image": item["image"]}
        codes, residuals = tokenizer.compute_codes(Catalogue.from_records([record]), progress=False)
        row = len(tokenizer) % 7
        for codebook in network.quantizer.codebooks:
            vectors = codebook.vectors.detach().clone()
            vectors[row % len(vectors)] = torch.from_numpy(residuals[0, 0])
            codebook.set_vectors(vectors)
    tokenizer = UniversalItemTokenizer.from_network(network, processor, max_history=3)
    tokenizer.add_items(
        [
            {"item_id": item["item_id"], "title": item["title"], "description": item["text"], "image": item["image"]}
            for item in tiny_items
        ]
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    set_seed(0)
    config = UTGRecConfig(
        **network.config.level_layout(),
        item_tokenizer_fingerprint=tokenizer.fingerprint,
        d_model=16,
        d_ff=16,
        d_kv=8,
        num_heads=2,
        num_layers=1,
    )
    model = UTGRecForConditionalGeneration(config)
    model.save_pretrained(folder / "recommender")
    tokenizer.save_pretrained(folder / "recommender")
    return folder


@pytest.fixture(scope="module")
def recommender(run):
    return pipeline("item-recommendation", model=str(run / "recommender"))


@pytest.fixture(scope="module")
def expected(run):
    """What the recommender itself returns for one history."""
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender").eval()
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "recommender", index_only=True)

    def expected(history, top_k=10, exclude_seen=True, allowed=None):
        # All items scored one by one, the best first.
        batch = tokenizer([history], return_tensors="pt")
        output = model.recommend(**batch, trie=tokenizer.trie, num_items=len(tokenizer), num_beams=1000)
        pairs = zip(output.item_ids[0], output.scores[0].tolist(), strict=True)
        seen = set(history) if exclude_seen else set()  # all, though the model reads the last 3
        wanted = set(tokenizer.index.item_ids if allowed is None else allowed) - seen
        return [
            {"item_id": item, "title": tokenizer.index.titles[int(item.split("-")[1])], "score": score}
            for item, score in pairs
            if item in wanted
        ][:top_k]

    return expected


def assert_same(found, wanted):
    assert [entry.keys() for entry in found] == [{"item_id": 0, "title": 0, "score": 0}.keys()] * len(wanted)
    assert [entry["item_id"] for entry in found] == [entry["item_id"] for entry in wanted]
    assert [entry["title"] for entry in found] == [entry["title"] for entry in wanted]
    np.testing.assert_allclose([entry["score"] for entry in found], [entry["score"] for entry in wanted], atol=1e-5)


def test_ids_titles_and_scores_of_one_history(recommender, expected):
    for history in HISTORIES:
        found = recommender(history)
        assert_same(found, expected(history))
        assert len(found) == min(10, 12 - len(history)) and all(entry["title"] for entry in found)
        scores = [entry["score"] for entry in found]
        assert scores == sorted(scores, reverse=True) and all(isinstance(score, float) for score in scores)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_several_histories_in_batches(recommender, expected, batch_size):
    for found, history in zip(recommender(HISTORIES, batch_size=batch_size), HISTORIES, strict=True):
        assert_same(found, expected(history))


def test_tuples_data_sets_and_generators(recommender, expected):
    class Histories(Dataset):
        def __len__(self):
            return len(HISTORIES)

        def __getitem__(self, row):
            return HISTORIES[row]

    assert_same(recommender(tuple(HISTORIES[1])), expected(HISTORIES[1]))
    column = datasets.Dataset.from_dict({"history": HISTORIES})["history"]
    for inputs in (tuple(HISTORIES), column, Histories(), (history for history in HISTORIES)):
        found = list(recommender(inputs, batch_size=2))
        for entry, history in zip(found, HISTORIES, strict=True):
            assert_same(entry, expected(history))
    assert recommender([]) == []


def test_top_k_and_defaults_of_the_pipeline(recommender, run, expected):
    assert_same(recommender(HISTORIES[0], top_k=2), expected(HISTORIES[0], top_k=2))
    assert len(recommender(HISTORIES[0], top_k=50)) == 11  # all there are
    short = pipeline("item-recommendation", model=str(run / "recommender"), top_k=3, exclude_seen=False, batch_size=2)
    for found, history in zip(short(HISTORIES), HISTORIES, strict=True):
        assert_same(found, expected(history, top_k=3, exclude_seen=False))
    assert len(short(HISTORIES[0], top_k=4)) == 4


def test_seen_items_allow_and_deny_lists(recommender, expected):
    history = HISTORIES[1]
    everything = recommender(history, top_k=12, exclude_seen=False)
    assert {"item-5", "item-7", "item-2"} <= {entry["item_id"] for entry in everything} and len(everything) == 12
    assert_same(everything, expected(history, 12, exclude_seen=False))
    some = ["item-8", "item-5", "item-9", "item-11"]
    assert_same(recommender(history, allow=some), expected(history, allowed=some))
    others = [f"item-{row}" for row in range(12) if f"item-{row}" not in some]
    assert_same(recommender(history, deny=some), expected(history, allowed=others))
    assert_same(recommender(history, allow=some, deny=["item-9"]), expected(history, allowed=["item-8", "item-11"]))
    assert_same(recommender(HISTORIES, batch_size=3, allow=some)[2], expected(HISTORIES[2], allowed=some))
    assert recommender(history, allow=[]) == []
    assert_same(recommender(history, deny=[]), expected(history))


def test_items_that_the_index_does_not_know(run, tiny_items, expected):
    recommender = pipeline("item-recommendation", model=str(run / "recommender"))
    assert recommender.tokenizer._network is None, "not before it is needed"
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    raw = [
        {"title": item["title"], "description": item["text"], "image": item["image"]}
        for item in (tiny_items[6], tiny_items[2])
    ]
    codes, _ = tokenizer.compute_codes(
        Catalogue.from_records([{**item, "item_id": str(i)} for i, item in enumerate(raw)]), progress=False
    )
    first, last = (codes + np.asarray(tokenizer.index.level_offsets)).tolist()
    tokens = torch.tensor([first + tokenizer.encode("item-4") + last])
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    trie = tokenizer.trie
    rows = torch.from_numpy(tokenizer.index.rows(["item-4"]))[None]
    output = model.recommend(tokens, torch.ones_like(tokens), trie, num_items=11, exclude=rows)
    found = recommender([raw[0], "item-4", raw[1]], top_k=11)
    assert [entry["item_id"] for entry in found] == output.item_ids[0]
    np.testing.assert_allclose([entry["score"] for entry in found], output.scores[0].tolist(), atol=1e-5)
    assert_same(recommender([[raw[0], "item-4", raw[1]], HISTORIES[1]], batch_size=2)[1], expected(HISTORIES[1]))
    # The last items count, and an id that the index knows needs no network.
    assert recommender([raw[1], raw[0], "item-4", raw[1]], top_k=11) == found
    known = [{"item_id": "item-1", "title": "whatever"}]
    assert_same(recommender(known), expected(["item-1"]))
    assert not [item for item in recommender.tokenizer.index.item_ids if not item.startswith("item-")]


def test_raw_items_without_a_network(run, tmp_path):
    shutil.copytree(run / "recommender", tmp_path / "recommender")
    alone = pipeline("item-recommendation", model=str(tmp_path / "recommender"))
    assert len(alone(["item-1"])) == 10
    with pytest.raises(FileNotFoundError, match="tokenizer was to hold the item tokenizer's network"):
        alone([{"title": "unknown"}])
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenization_items.tokenization_items.logger.warning", said.append)
        UniversalItemTokenizer.from_pretrained(tmp_path / "recommender")
        given = UniversalItemTokenizer.from_pretrained(tmp_path / "recommender", network=run / "tokenizer")
    assert len(said) == 1 and "recommends by the ids" in said[0] and "network=<folder or Hub id>" in said[0]
    found = pipeline("item-recommendation", model=alone.model, tokenizer=given)([{"title": "unknown"}])
    assert len(found) == 10
    tokenizer = UniversalItemTokenizer.from_pretrained(tmp_path / "recommender", index_only=True)
    with pytest.raises(ValueError, match="item index only"):
        pipeline("item-recommendation", model=alone.model, tokenizer=tokenizer)([{"title": "unknown"}])


def test_what_a_pipeline_had_is_saved(run, tmp_path):
    """A network that is nowhere else, the memory that was given, the card; and all of it may move."""
    loaded = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    loaded.network_reference, _ = None, loaded.network
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    shutil.copytree(run / "recommender", tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text("my card")
    model.name_or_path = str(tmp_path / "source")
    size = len(loaded)
    memory = ItemMemory(
        torch.zeros(size, 1, dtype=torch.int32),
        torch.ones(size, 1, dtype=torch.float16),
        torch.ones(size, dtype=torch.int32),
        MemorySettings(),
    )
    pipeline("item-recommendation", model=model, tokenizer=loaded, memory=memory).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = pipeline("item-recommendation", model=str(tmp_path / "moved"))
    assert again.memory is not None and torch.equal(again.memory.transition_items, memory.transition_items)
    assert len(again([{"title": "unknown"}])) == 10
    assert (tmp_path / "moved" / "README.md").read_text() == "my card"


def test_model_and_tokenizer_as_objects(run, recommender, expected):
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    direct = pipeline("item-recommendation", model=model, tokenizer=tokenizer, device="cpu")
    assert isinstance(direct, ItemRecommendationPipeline) and direct.device == torch.device("cpu")
    assert_same(direct(HISTORIES[2]), expected(HISTORIES[2]))
    assert type(AutoTokenizer.from_pretrained(run / "recommender")) is UniversalItemTokenizer
    assert "ItemRecommendationPipeline" in repr(recommender) and "UTGRecForConditionalGeneration" in repr(recommender)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype(run, expected, dtype):
    low = pipeline("item-recommendation", model=str(run / "recommender"), dtype=dtype)
    assert low.model.dtype == low.dtype == dtype
    wanted = {entry["item_id"]: entry["score"] for entry in expected(HISTORIES[1], 12)}
    for entry in low(HISTORIES[1], top_k=9):
        assert entry["score"] == pytest.approx(wanted[entry["item_id"]], abs=0.1)


def some_memory(size):
    ones = torch.ones(size, 1)
    return ItemMemory(torch.zeros(size, 1).int(), ones.half(), torch.arange(size).int(), MemorySettings())


@pytest.mark.parametrize("given", [True, False])
def test_a_memory_of_other_items_is_not_used(run, given, tmp_path):
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    memory = some_memory(len(tokenizer))
    if not given:
        tokenizer.stored_memory = StoredMemory(memory)
    made = pipeline("item-recommendation", model=model, tokenizer=tokenizer, memory=memory if given else None)
    assert made.popular(1)[0]["item_id"] == "item-11"
    tokenizer.remove_items(["item-0"])
    tokenizer.add_items([{"item_id": "late", "title": "New arrival"}])  # as many as before
    uses = [lambda: made(["item-1"]), made.popular]
    for use in [*uses, lambda: made.save_pretrained(tmp_path / "saved")] if given else uses:
        with pytest.raises(ItemMemoryError, match="tems were added or removed since"):
            use()
    assert not (tmp_path / "saved").exists()
    if not given:  # it is not saved, and what has followed is used
        made.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved" / MEMORY_NAME).exists()
        followed = some_memory(12)
        followed.counts = followed.counts.roll(1)
        tokenizer.stored_memory = StoredMemory(followed)
        assert made.popular(1)[0]["item_id"] == "item-1" and len(made(["item-1"], top_k=20)) == 11


def test_raw_items_are_read_by_the_fields_of_the_tokenizer(run, monkeypatch):
    made = pipeline("item-recommendation", model=str(run / "recommender"))
    made.tokenizer.text_fields = ("title", "genre")
    read = []
    compute = UniversalItemTokenizer.compute_codes
    monkeypatch.setattr(
        UniversalItemTokenizer,
        "compute_codes",
        lambda self, catalogue, **given: read.extend(catalogue.texts) or compute(self, catalogue, **given),
    )
    made([{"title": "thing", "genre": "kind", "description": "not read"}, {"genre": "kind alone"}])
    assert read == ["thing. kind", "kind alone"]


def test_items_added_later_are_recommended(run):
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    growing = pipeline("item-recommendation", model=model, tokenizer=tokenizer)
    assert len(growing(["item-1"], top_k=20)) == 11
    tokenizer.add_items([{"item_id": "late", "title": "New arrival"}])
    found = growing(["item-1"], top_k=20)
    assert len(found) == 12 and {entry["item_id"]: entry["title"] for entry in found}["late"] == "New arrival"


def test_the_card_is_none_that_lies_where_the_program_runs(recommender, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("of a project")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recommender.model, "name_or_path", "")  # as one that was made in this process
    recommender.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "README.md").exists()


def test_saved_and_loaded(recommender, run, tmp_path):
    recommender.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"item_index.safetensors", "item_titles.json", "model.safetensors", "config.json"} <= names
    again = pipeline("item-recommendation", model=str(tmp_path / "saved"))
    assert again(HISTORIES) == recommender(HISTORIES)
    # Also with a tokenizer that holds a network: the recommender's files stay.
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    pipeline("item-recommendation", model=recommender.model, tokenizer=tokenizer).save_pretrained(tmp_path / "other")
    assert pipeline("item-recommendation", model=str(tmp_path / "other"))(HISTORIES) == recommender(HISTORIES)


def test_items_before_those_that_the_model_reads_are_seen_too(recommender):
    history = ["item-3", "item-5", "item-7", "item-2", "item-4"]
    found = {entry["item_id"] for entry in recommender(history, top_k=12)}
    assert found == {f"item-{row}" for row in range(12)} - set(history)


def test_ids_of_any_kind_are_the_items(run):
    """Whole numbers, numpy's, arrays, series and dicts with the id of a known item: never new items."""
    tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
    tokenizer.add_items([{"item_id": number, "title": f"thing {number}"} for number in (101, 102, 103)])
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "recommender")
    numbered = pipeline("item-recommendation", model=model, tokenizer=tokenizer)
    wanted = numbered(["101", "102"], top_k=20)
    assert not {"101", "102"} & {entry["item_id"] for entry in wanted} and len(wanted) == 13
    ids = pd.Series([101, 102])
    for history in ([101, 102], np.array([101, 102]), ids, ids.astype(float), [{"item_id": 101}, 102.0]):
        assert numbered(history, top_k=20) == wanted
    assert numbered(np.array([[101, 102], [102, 101]]), top_k=20)[0] == wanted
    denied = [entry["item_id"] for entry in numbered([101], top_k=20, deny=np.array([102]))]
    assert "102" not in denied and "103" in denied
    assert [entry["item_id"] for entry in numbered([101], allow=[103, "102"], deny=[102])] == ["103"]
    with pytest.raises(UnknownItemError, match="1 items are not in the index.*104"):
        numbered([101, 104])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_odd_history_does_not_stop_the_others(run, recommender, batch_size):
    histories = [["item-1"], ["item-1", "nope"], [], ["item-0", "item-4"], "item-3"]
    found = recommender(histories, on_error="skip", batch_size=batch_size)
    assert_same(found[0], recommender(["item-1"]))
    assert_same(found[3], recommender(["item-0", "item-4"]))
    for row, reason in ((1, "'nope'"), (2, "got an empty one"), (4, "is a list of items")):
        assert [entry["item_id"] for entry in found[row]] == [None] and reason in found[row][0]["reason"]
    assert recommender([["nope"]], on_error="skip")[0][0]["score"] is None

    with pytest.raises(ValueError, match="'fallback' needs a memory"):
        recommender(histories, on_error="fallback")
    with pytest.raises(ValueError, match="on_error is 'raise', 'skip' or 'fallback', got 'ignore'"):
        recommender(histories, on_error="ignore")
    memory = ItemMemory(
        torch.zeros(12, 1, dtype=torch.int32),
        torch.ones(12, 1, dtype=torch.float16),
        torch.arange(12, dtype=torch.int32),  # the last item is the most popular one
        MemorySettings(),
    )
    remembering = pipeline(
        "item-recommendation", model=recommender.model, tokenizer=recommender.tokenizer, memory=memory
    )
    histories[1] = ["item-9", "nope"]
    arguments = {"top_k": 3, "deny": ["item-10"], "batch_size": batch_size}
    found = remembering(histories, on_error="fallback", **arguments)
    assert_same(found[0], remembering(["item-1"], top_k=3, deny=["item-10"]))
    assert [entry["item_id"] for entry in found[1]] == ["item-11", "item-8", "item-7"], "what was seen is not popular"
    assert [entry["item_id"] for entry in found[2]] == ["item-11", "item-9", "item-8"]
    assert "'nope'" in found[1][0]["reason"] and "empty" in found[2][2]["reason"]
    assert found[2][0]["score"] == pytest.approx(np.log(12 / 78))
    sourced = remembering(histories, on_error="fallback", return_sources=True, **arguments)
    assert sourced[1] == found[1] and sourced[0][0]["sources"]


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        (["item-1", "nope"], UnknownItemError, "'nope'"),
        ([[]], ValueError, "at least one item in the history"),
        ("item-1", TypeError, "A history is a list of items"),
        ({"title": "one"}, TypeError, "A history is a list of items"),
        ([["item-1"], "item-2"], TypeError, "A history is a list of items, got 'item-2'"),
        ([{"image": None}], ValueError, "empty text and no image"),
    ],
)
def test_wrong_histories_are_named(recommender, history, error, message):
    with pytest.raises(error, match=message):
        recommender(history)


def test_wrong_arguments_are_named(recommender, run, tmp_path):
    with pytest.raises(UnknownItemError, match="deny: 1 items are not in the index.*'nope'"):
        recommender(["item-1"], deny=["item-2", "nope"])
    with pytest.raises(TypeError, match="allow is a list of item ids"):
        recommender(["item-1"], allow="item-2")
    with pytest.raises(TypeError, match="beams"):
        recommender(["item-1"], beams=3)
    with pytest.raises(TypeError, match="is a UniversalItemTokenizer, got str"):
        ItemRecommendationPipeline(recommender.model, "org/tokenizer")
    with pytest.raises(TypeError, match="generative recommender, got UTGRecTokenizerModel"):
        tokenizer = UniversalItemTokenizer.from_pretrained(run / "tokenizer")
        ItemRecommendationPipeline(tokenizer.network, tokenizer)
    config = UTGRecConfig(**{**recommender.model.config.to_dict(), "item_tokenizer_fingerprint": "other"})
    with pytest.raises(TokenizerMismatchError, match="fingerprint"):
        ItemRecommendationPipeline(UTGRecForConditionalGeneration(config), recommender.tokenizer)
    recommender.model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no item tokenizer"):
        pipeline("item-recommendation", model=str(tmp_path))
