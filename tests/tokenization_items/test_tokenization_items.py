"""The one object that users hold: identifiers of items, files that travel together, and errors that name the cause."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration, UTGRecTokenizerModel
from tokenization_items import tokenization_items as module
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue, CatalogueError
from tokenization_items.collisions import CapacityError
from tokenization_items.item_index import ItemIndexError, UnknownItemError
from tokenization_items.network_reference import NetworkReference, network_fingerprint
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.tokenization_items import TOKENIZER_FILE, TokenizerMismatchError, UniversalItemTokenizer


@pytest.fixture(scope="module")
def records(tiny_items) -> list[dict]:
    """The tiny items with their text where a catalogue expects it; item 4 has an image and no text."""
    return [{"item_id": item["item_id"], "description": item["text"], "image": item["image"]} for item in tiny_items]


@pytest.fixture(scope="module")
def tiny_network(make_network, tiny_qwen2_vl, tiny_items):
    """A tiny network whose codebooks are residuals of some items, so that it tells items apart. Shared."""
    return spread_codebooks(*make_network(tiny_qwen2_vl), tiny_items)


def spread_codebooks(network, processor, items):
    _, residuals = codes_one_by_one(network, processor, items)
    for number, codebook in enumerate(network.quantizer.codebooks):
        points = torch.from_numpy(residuals[:, network.quantizer.levels_of(number)]).flatten(0, 1)
        codebook.set_vectors(points[:: len(points) // len(codebook.codes)][: len(codebook.codes)])
    return network, processor


@pytest.fixture
def tokenizer(tiny_network) -> UniversalItemTokenizer:
    return UniversalItemTokenizer.from_network(*tiny_network, max_history=3)


@pytest.fixture
def filled(tokenizer, records) -> UniversalItemTokenizer:
    tokenizer.add_items(records)
    return tokenizer


@pytest.fixture(scope="module")
def saved(tiny_network, records, tmp_path_factory):
    """Folder of a tokenizer with network. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = UniversalItemTokenizer.from_network(*tiny_network, max_history=3)
    tokenizer.add_items(records)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def recommender_config(network, **changes):
    return UTGRecConfig(
        **{**network.config.level_layout(), **changes}, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1
    )


def snapshot(index):
    return list(index.item_ids), index.codes.copy()


def assert_unchanged(index, before):
    assert index.item_ids == before[0]
    np.testing.assert_array_equal(index.codes, before[1])


def codes_one_by_one(network, processor, items):
    """Every item alone in its batch, without padding: `(codes, residuals)`."""
    outputs = []
    for item in items:
        images = (
            None if processor.image_processor is None else [item["image"] and processor.encode_image(item["image"])]
        )
        with torch.no_grad():
            outputs.append(network(**processor.collate(processor.encode_texts([item["text"]]), images)))
    return tuple(torch.cat([getattr(output, name) for output in outputs]).numpy() for name in ("codes", "residuals"))


def test_codes_are_those_of_each_item_alone_whatever_the_batches(tokenizer, tiny_items, records, tiny_network):
    expected, residuals = codes_one_by_one(*tiny_network, tiny_items)
    assert len(np.unique(expected, axis=0)) > 3, "the fixture must tell items apart"
    catalogue = Catalogue.from_records(records)
    for batch_tokens in (1, 60, 100_000):
        codes, found = tokenizer.compute_codes(catalogue, batch_tokens=batch_tokens, progress=False)
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_allclose(found, residuals, atol=1e-5)


def test_images_and_texts_both_count(tokenizer, records):
    catalogue = Catalogue.from_records(records)
    _, full = tokenizer.compute_codes(catalogue, progress=False)
    blind = Catalogue.from_records([{**record, "image": None} for record in records])
    _, text_only = tokenizer.compute_codes(blind, progress=False)
    with_image = np.array([record["image"] is not None for record in records])
    assert (np.abs(full - text_only).max((1, 2)) > 1e-3)[with_image].all()
    np.testing.assert_allclose(full[~with_image], text_only[~with_image], atol=1e-5)


def test_a_text_encoder_leaves_images_aside(make_network, tiny_bert, tiny_items, records):
    network, processor = spread_codebooks(*make_network(tiny_bert), tiny_items)
    tokenizer = UniversalItemTokenizer.from_network(network, processor)
    rows = [row for row, item in enumerate(tiny_items) if item["text"]]
    catalogue = Catalogue.from_records(records).select(rows)
    codes, _ = tokenizer.compute_codes(catalogue, batch_tokens=40, progress=False)
    assert len(np.unique(codes, axis=0)) > 3
    np.testing.assert_array_equal(codes, codes_one_by_one(network, processor, tiny_items)[0][rows])


def test_add_items_gives_the_nearest_codes_and_resolves_collisions(tokenizer, tiny_items, records, tiny_network):
    report = tokenizer.add_items(records)
    codes, _ = codes_one_by_one(*tiny_network, tiny_items)
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    alone = counts[inverse.reshape(-1)] == 1
    assert report.num_items == len(records) and report.items_sharing_codes == (~alone).sum()
    assert len(np.unique(tokenizer.index.codes, axis=0)) == len(records) == len(tokenizer)
    changed = (tokenizer.index.codes != codes).any(axis=1)
    assert changed.sum() == report.items_moved
    if not changed.any():
        np.testing.assert_array_equal(tokenizer.index.codes, codes)
    offsets = np.asarray(tiny_network[0].config.level_offsets)
    for row, record in enumerate(records):
        tokens = tokenizer.encode(record["item_id"])
        assert tokens == (tokenizer.index.codes[row] + offsets).tolist()
        assert tokenizer.decode(tokens) == record["item_id"] and record["item_id"] in tokenizer


@pytest.mark.parametrize("collisions", ["nearest_first", "digit"])
def test_other_ways_with_collisions(collisions, tokenizer, records, tmp_path):
    twins = [{**record, "item_id": f"twin-{row}"} for row, record in enumerate(records)]
    report = tokenizer.add_items(records + twins, collisions=collisions, progress=False)
    assert report.items_sharing_codes == 2 * len(records) == len(tokenizer)
    assert len(np.unique(tokenizer.index.codes, axis=0)) == len(tokenizer)
    np.testing.assert_array_equal(report.given_codes[: len(records)], report.given_codes[len(records) :])
    if collisions == "digit":
        np.testing.assert_array_equal(tokenizer.index.codes[:, :-1], report.given_codes)
        assert report.items_moved == 0 and tokenizer.index.num_levels == 1 + report.given_codes.shape[1]
    else:
        assert report.items_moved >= len(records)
    tokenizer.save_pretrained(tmp_path)
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path)
    more = loaded.add_items([{**records[0], "item_id": "third"}], collisions=collisions, progress=False)
    assert more.items_sharing_codes == 1 and more.largest_group == (3 if collisions == "digit" else 2)
    assert loaded.decode(loaded.encode("third")) == "third" and loaded.has_network
    if collisions == "digit":
        loaded.add_items([{**records[0], "item_id": "fourth"}], progress=False)  # by what the index has
        loaded.remove_items(["fourth"])
    given = loaded.encode("third")
    removal = loaded.remove_items([records[0]["item_id"]])
    assert removal.removed == [records[0]["item_id"]] and removal.assignment.num_items == 0
    assert len(loaded) == 2 * len(records) and loaded.encode("third") == given


def test_too_many_items_and_unknown_ways_are_refused_before_the_network_runs(tokenizer, records, monkeypatch):
    monkeypatch.setattr(UniversalItemTokenizer, "compute_codes", None)
    capacity = int(np.prod(tokenizer.index.level_sizes))
    with pytest.raises(CapacityError, match=f"{capacity + 1} new items .* capacity of {capacity}"):
        tokenizer.add_items([{**records[0], "item_id": str(row)} for row in range(capacity + 1)])
    with pytest.raises(ValueError, match="collisions must be one of least_distance, nearest_first, digit"):
        tokenizer.add_items(records, collisions="sinkhorn")
    monkeypatch.undo()
    tokenizer.add_items(records, progress=False)
    monkeypatch.setattr(UniversalItemTokenizer, "compute_codes", None)
    with pytest.raises(ValueError, match="items of the index have no level of digits"):
        tokenizer.add_items([{**records[0], "item_id": "new"}], collisions="digit")


def test_one_id_is_no_list_of_ids(tokenizer, records):
    tokenizer.add_items([{**records[0], "item_id": each} for each in ("1", "2", "12")], progress=False)
    for remove in (tokenizer.remove_items, tokenizer.index.remove):
        with pytest.raises(TypeError, match=r"several ids, such as \['12'\], got '12'"):
            remove("12")
    assert len(tokenizer) == 3 and tokenizer.remove_items(["2", "1", "2"]).removed == ["1", "2"]


def test_a_catalogue_is_checked_once(tokenizer, records, monkeypatch):
    calls, checked = [], Catalogue._item_problems
    monkeypatch.setattr(Catalogue, "_item_problems", lambda *given: calls.append(1) or checked(*given))
    catalogue = Catalogue.from_records(records)
    assert catalogue.check(images=[0, 1])["num_images_checked"] <= 2
    tokenizer.add_items(catalogue.select(np.arange(len(records))[::-1]), progress=False)
    assert len(calls) == 1 and len(tokenizer) == len(records)
    with pytest.raises(CatalogueError, match="duplicate item_id"):
        tokenizer.add_items(catalogue.select([0, 0]))


def test_identical_items_are_told_apart_at_the_least_distance(tokenizer, records, tiny_network):
    twin = {**records[0], "item_id": "twin"}
    report = tokenizer.add_items([records[0], twin])
    assert (report.items_sharing_codes, report.items_moved) == (2, 1)
    (first, second), network = tokenizer.index.codes, tiny_network[0]
    codes, residuals = tokenizer.compute_codes(Catalogue.from_records([records[0]]), progress=False)
    kept, moved = (first, second) if (first == codes[0]).all() else (second, first)
    np.testing.assert_array_equal(kept, codes[0])
    # The moved one takes the second nearest code of the last level, the cheapest way out.
    vectors = network.quantizer.level_vectors()[-1].detach().numpy()
    nearest = ((residuals[0, -1] - vectors) ** 2).sum(-1).argsort()
    np.testing.assert_array_equal(moved, [*codes[0, :-1], nearest[1]])


def test_adding_never_changes_identifiers_and_removing_frees_them(tokenizer, records):
    tokenizer.add_items(records[:5])
    before = {record["item_id"]: tokenizer.encode(record["item_id"]) for record in records[:5]}
    # Copies of known items want identifiers that are taken.
    tokenizer.add_items(records[5:] + [{**record, "item_id": f"copy-{i}"} for i, record in enumerate(records[:5])])
    assert {item_id: tokenizer.encode(item_id) for item_id in before} == before
    freed = before["item-2"]
    tokenizer.remove_items(["item-2", "copy-2"])
    assert "item-2" not in tokenizer and len(tokenizer) == len(records) + 3
    with pytest.raises(UnknownItemError, match="item-2"):
        tokenizer.encode("item-2")
    with pytest.raises(UnknownItemError):
        tokenizer.decode(freed)
    tokenizer.add_items([{**records[2], "item_id": "new"}])
    assert tokenizer.encode("new") == freed


def test_call_encodes_the_latest_items_padded_on_the_right(filled):
    histories = [["item-1", "item-3", "item-5", "item-7"], ["item-2"]]
    rows = [[token for item in history[-3:] for token in filled.encode(item)] for history in histories]
    expected = [rows[0], rows[1] + [0] * 6]
    batch = filled(histories)
    assert batch["input_ids"] == expected
    assert batch["attention_mask"] == [[1] * 9, [1] * 3 + [0] * 6]
    tensors = filled(histories, return_tensors="pt")
    assert tensors["input_ids"].dtype == torch.long and tensors["input_ids"].tolist() == expected
    assert filled(histories, max_history=1)["input_ids"] == [filled.encode("item-7"), filled.encode("item-2")]
    assert filled(histories, max_history=9, return_tensors="np")["input_ids"].shape == (2, 12)


def test_call_errors(filled):
    with pytest.raises(UnknownItemError, match="'nope'"):
        filled([["item-1", "nope"]])
    with pytest.raises(TypeError, match="list of item ids"):
        filled(["item-1"])
    with pytest.raises(TypeError, match="list of item ids"):
        filled("item-1")
    with pytest.raises(ValueError, match="empty histor"):
        filled([["item-1"], []])


def test_trie_holds_exactly_the_items(filled):
    assert filled.trie.num_items == len(filled)
    assert list(filled.trie.item_ids) == filled.index.item_ids
    filled.remove_items(["item-0"])
    assert "item-0" not in filled.trie.item_ids


@pytest.mark.parametrize("image", [b"\x89PNG\r\n\x1a\nbroken", "missing.png", "truncated"])
def test_broken_image_leaves_the_index_as_it_was(filled, records, tmp_path, image):
    if image == "truncated":
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "image.png")
        content = (tmp_path / "image.png").read_bytes()
        image = content[: len(content) // 2]
    before = snapshot(filled.index)
    new = [{**records[0], "item_id": "fine"}, {"item_id": "broken", "description": "text", "image": image}]
    with pytest.raises(CatalogueError, match="'broken'"):
        filled.add_items(new)
    assert_unchanged(filled.index, before)


def test_bad_catalogues_leave_the_index_as_it_was(filled, records, monkeypatch):
    before = snapshot(filled.index)
    monkeypatch.setattr(filled.network, "forward", lambda *_, **__: pytest.fail("checked too late"))
    with pytest.raises(CatalogueError, match="'twice': duplicate"):
        filled.add_items([{"item_id": "twice", "description": "a"}, {"item_id": "twice", "description": "b"}])
    with pytest.raises(CatalogueError, match="'bare'.*empty text and no image"):
        filled.add_items([{"item_id": "fine", "description": "a"}, {"item_id": "bare", "description": " "}])
    with pytest.raises(ValueError, match="1 items are in the index already.*item-3"):
        filled.add_items([{"item_id": "new", "description": "a"}, records[3]])
    assert_unchanged(filled.index, before)


@pytest.mark.parametrize("call", ["add_items", "update_items", "compute_codes"])
def test_a_picture_alone_is_nothing_to_a_network_that_reads_texts(call, make_network, tiny_bert, records, monkeypatch):
    network, processor = make_network(tiny_bert, lora=False)
    tokenizer = UniversalItemTokenizer.from_network(network, processor)
    tokenizer.add_items([record for record in records[:6] if record["description"]])
    before = snapshot(tokenizer.index)
    monkeypatch.setattr(network, "forward", lambda *_, **__: pytest.fail("checked too late"))
    with pytest.raises(CatalogueError, match="reads texts alone, and 1 of 2 items have no text.*\n  item 'item-4'"):
        getattr(tokenizer, call)([{**records[7], "item_id": "new"}, records[4]])
    assert_unchanged(tokenizer.index, before)


def test_no_items_are_no_error(tokenizer):
    assert tokenizer.add_items([]).num_items == 0
    assert len(tokenizer) == 0


def test_round_trip_is_exact(saved, filled, records):
    loaded = UniversalItemTokenizer.from_pretrained(saved)
    assert_unchanged(loaded.index, snapshot(filled.index))
    assert (loaded.fingerprint, loaded.max_history) == (filled.fingerprint, 3)
    assert loaded.has_network and loaded._network is None, "the network is read when it is needed"
    catalogue = Catalogue.from_records(records)
    for found, expected in zip(
        loaded.compute_codes(catalogue, progress=False), filled.compute_codes(catalogue, progress=False), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert network_fingerprint(loaded.network, loaded.processor) == filled.fingerprint
    loaded.add_items([{"item_id": "later", "description": "new strings"}])
    assert loaded.encode("item-5") == filled.encode("item-5") and "later" in loaded


def test_the_folder_is_a_model_folder_without_pickles_or_leftovers(saved, filled, records):
    names = sorted(path.name for path in saved.rglob("*"))
    assert {"config.json", "model.safetensors", TOKENIZER_FILE, "item_index.safetensors", "item_ids.json"} <= set(
        names
    )
    assert not [name for name in names if name.startswith(".") or name.endswith((".tmp", ".bin", ".pkl", ".pt"))]
    network = AutoModel.from_pretrained(saved).eval()
    assert isinstance(network, UTGRecTokenizerModel)
    again = UniversalItemTokenizer(filled.index, filled.fingerprint, 3, network, filled.processor)
    catalogue = Catalogue.from_records(records)
    expected, found = (t.compute_codes(catalogue, progress=False)[1] for t in (filled, again))
    np.testing.assert_array_equal(found, expected)


def test_codes_of_whatever_items_can_be_added(filled, records):
    expected = filled.compute_codes(Catalogue.from_records(records), progress=False)
    for found, same in zip(filled.compute_codes(records, progress=False), expected, strict=True):
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("change", [lambda n: n.half(), lambda n: n.adapter[0].weight.data.mul_(1.01)])
def test_a_network_that_has_changed_takes_no_other_s_place(folder, change):
    before = (folder / "model.safetensors").read_bytes()
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    change(loaded.network)
    loaded.add_items([{"item_id": "new", "description": "text"}])
    with pytest.raises(TokenizerMismatchError, match="trained further, or cast to another precision"):
        loaded.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    loaded.save_pretrained(folder, include_network=False)
    again = UniversalItemTokenizer.from_pretrained(folder)
    again.add_items([{"item_id": "newer", "description": "text"}])
    assert again.index.item_ids[-2:] == ["new", "newer"]


@pytest.mark.parametrize("load", [UniversalItemTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
def test_a_history_of_another_length(filled, tmp_path, load):
    UTGRecForConditionalGeneration(recommender_config(filled.network)).save_pretrained(tmp_path)
    filled.fingerprint = None
    filled.save_pretrained(tmp_path, include_network=False)
    histories = [filled.index.item_ids[:5]]
    lengths = [len(load(tmp_path, **given)(histories)["input_ids"][0]) for given in ({}, {"max_history": 2})]
    assert lengths == [3 * filled.index.num_levels, 2 * filled.index.num_levels]
    with pytest.raises(ValueError, match="max_history must be between 1 and .*, got 0"):
        load(tmp_path, max_history=0)


def test_a_failed_save_leaves_the_old_file(folder, filled, monkeypatch):
    before = (folder / TOKENIZER_FILE).read_bytes()
    filled.max_history = 7
    monkeypatch.setattr(module.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        filled.save_pretrained(folder, include_network=False)
    assert (folder / TOKENIZER_FILE).read_bytes() == before


def test_index_only_copy(filled, tmp_path, monkeypatch):
    filled.save_pretrained(tmp_path, include_network=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "item_ids.json",
        "item_index.safetensors",
        "item_provenance.safetensors",
        TOKENIZER_FILE,
    ]
    forbid_networks(monkeypatch)
    check_index_only(UniversalItemTokenizer.from_pretrained(tmp_path), filled)


def test_index_only_load_of_a_full_folder(saved, filled, monkeypatch):
    forbid_networks(monkeypatch)
    check_index_only(UniversalItemTokenizer.from_pretrained(saved, index_only=True), filled)
    # Without the flag nothing is read before it is needed, either.
    assert UniversalItemTokenizer.from_pretrained(saved).encode("item-3") == filled.encode("item-3")


def forbid_networks(monkeypatch):
    monkeypatch.setattr(UTGRecTokenizerModel, "from_pretrained", lambda *_, **__: pytest.fail("loads the network"))


def check_index_only(copied, original):
    assert_unchanged(copied.index, snapshot(original.index))
    assert not copied.has_network and copied.processor is None
    history = [["item-1", "item-9"]]
    assert copied(history)["input_ids"] == original(history)["input_ids"]
    assert copied.decode(copied.encode("item-6")) == "item-6"
    with pytest.raises(ValueError, match="item index only and cannot tokenize new items"):
        copied.add_items([{"item_id": "new", "description": "text"}])
    copied.remove_items(["item-0"])
    assert "item-0" not in copied


def test_an_index_only_copy_stays_one(saved, tmp_path):
    copied = UniversalItemTokenizer.from_pretrained(saved, index_only=True)
    copied.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert UniversalItemTokenizer.from_pretrained(tmp_path).encode("item-1") == copied.encode("item-1")


def test_a_loaded_tokenizer_saves_its_network(saved, filled, tmp_path):
    loaded = UniversalItemTokenizer.from_pretrained(saved)
    loaded.save_pretrained(tmp_path)
    again = UniversalItemTokenizer.from_pretrained(tmp_path)
    assert network_fingerprint(again.network, again.processor) == filled.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.quantizer.root.codes.data.add_(1e-3),
        lambda network: network.adapter[0].weight.data.mul_(1.01),
        lambda network: network.get_input_embeddings().code_tokens.data.neg_(),
    ],
    ids=["codebook", "adapter", "code tokens"],
)
def test_another_network_in_the_folder(folder, tiny_network, change):
    network = copy.deepcopy(tiny_network[0])
    with torch.no_grad():
        change(network)
    network.save_pretrained(folder)
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    assert loaded.encode("item-1"), "the index alone is still of use"
    with pytest.raises(TokenizerMismatchError, match=f"{folder}.*{loaded.fingerprint}"):
        loaded.add_items([{"item_id": "new", "description": "text"}])
    assert "new" not in loaded


def test_another_prompt_is_another_tokenizer(tiny_network):
    network, processor = tiny_network
    shorter = copy.copy(processor)
    shorter.max_text_tokens = 3
    assert network_fingerprint(network, shorter) != network_fingerprint(network, processor)
    assert network_fingerprint(copy.deepcopy(network), processor) == network_fingerprint(network, processor)


def test_truncated_network(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"{file} is truncated"):
        loaded.add_items([{"item_id": "new", "description": "text"}])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_network_file(folder, name):
    (folder / name).unlink()
    loaded = UniversalItemTokenizer.from_pretrained(folder)
    with pytest.raises((OSError, ValueError), match=f"(?s)no config.json|{name} is missing"):
        loaded.add_items([{"item_id": "new", "description": "text"}])


def test_missing_weights_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="model.safetensors is not of the same save"):
        assert UniversalItemTokenizer.from_pretrained(folder).network
    values = json.loads((folder / "config.json").read_text())
    del values["weights_fingerprint"]
    (folder / "config.json").write_text(json.dumps(values))  # as older ones
    with pytest.raises(ValueError, match=f"1 weights .* missing: .*{name}"):
        assert UniversalItemTokenizer.from_pretrained(folder).network


def test_a_recommender_in_the_networks_place(folder, tiny_network):
    UTGRecForConditionalGeneration(recommender_config(tiny_network[0])).save_pretrained(folder)
    with pytest.raises(TokenizerMismatchError, match="fingerprint of the tokenizer .* trained with None"):
        UniversalItemTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="Expected a configuration of model type 'utgrec_tokenizer', found 'utgrec'"):
        NetworkReference(str(folder)).load()


def test_truncated_or_missing_index(folder):
    file = folder / "item_index.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(ItemIndexError, match="item_index.safetensors is truncated"):
        UniversalItemTokenizer.from_pretrained(folder)
    file.unlink()
    with pytest.raises(ItemIndexError, match="item_index.safetensors is missing"):
        UniversalItemTokenizer.from_pretrained(folder)


def test_missing_truncated_or_newer_settings(folder):
    file = folder / TOKENIZER_FILE
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(ValueError, match=f"{TOKENIZER_FILE} has format version 99, expected 1: .*newer release"):
        UniversalItemTokenizer.from_pretrained(folder)
    file.write_text(json.dumps(values)[:-9])
    with pytest.raises(ValueError, match=f"{TOKENIZER_FILE} is truncated"):
        UniversalItemTokenizer.from_pretrained(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{TOKENIZER_FILE} is missing"):
        UniversalItemTokenizer.from_pretrained(folder)


def test_check_recommender(filled, tiny_network):
    network, _ = tiny_network
    fitting = UTGRecForConditionalGeneration(
        recommender_config(network, item_tokenizer_fingerprint=filled.fingerprint)
    )
    filled.check_recommender(fitting)
    for changes, named in [
        ({"root_codebook_size": 8}, "level sizes"),
        ({"num_levels": 2}, "level sizes"),
        ({"level_sizes": [7, 9, 9], "num_levels": None}, "level offsets"),
        ({"item_tokenizer_fingerprint": "another"}, "fingerprint"),
        ({}, "fingerprint"),
    ]:
        other = UTGRecForConditionalGeneration(recommender_config(network, **changes))
        with pytest.raises(TokenizerMismatchError, match=named):
            filled.check_recommender(other)


def test_a_recommender_of_another_training_beside_the_index(filled, tiny_network, tmp_path):
    fitting = recommender_config(tiny_network[0], item_tokenizer_fingerprint=filled.fingerprint)
    UTGRecForConditionalGeneration(fitting).save_pretrained(tmp_path)
    filled.save_pretrained(tmp_path)  # no network in a recommender's folder
    assert not UniversalItemTokenizer.from_pretrained(tmp_path).has_network
    with pytest.raises(ValueError, match="holds a model of type utgrec, which the item tokenizer's network would"):
        filled.save_pretrained(tmp_path, include_network=True)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "utgrec"
    for changes, named in (
        ({"item_tokenizer_fingerprint": "another"}, "fingerprint"),
        ({"num_levels": 2}, "level sizes"),
    ):
        recommender_config(tiny_network[0], **changes).save_pretrained(tmp_path)
        with pytest.raises(TokenizerMismatchError, match=f"{named} of the tokenizer .* recommender was trained with"):
            UniversalItemTokenizer.from_pretrained(tmp_path)


def test_an_index_of_another_save_or_network(folder, filled, tmp_path, make_network, tiny_bert):
    other = UniversalItemTokenizer.from_pretrained(folder)
    other.remove_items(["item-0"])
    other.save_pretrained(tmp_path / "other", include_network=False)
    for name in ("item_index.safetensors", "item_ids.json"):
        shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(
        TokenizerMismatchError, match=f"{folder}: .* belongs to the index with sha256 {filled.index.checksum}"
    ):
        UniversalItemTokenizer.from_pretrained(folder)
    filled.save_pretrained(folder, include_network=False)
    make_network(tiny_bert, root_codebook_size=8)[0].save_pretrained(folder)
    with pytest.raises(
        TokenizerMismatchError, match=r"index has the level sizes \[7, 9, 9\], the network \[8, 9, 9\]"
    ):
        UniversalItemTokenizer.from_pretrained(folder)


def test_settings_may_gain_entries(folder, filled):
    """Within a format version; those of the first release had no checksum of the index."""
    file = folder / TOKENIZER_FILE
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "new": 1}))
    assert_unchanged(UniversalItemTokenizer.from_pretrained(folder).index, snapshot(filled.index))
    del values["index_sha256"], values["network"]
    file.write_text(json.dumps(values))
    assert_unchanged(UniversalItemTokenizer.from_pretrained(folder).index, snapshot(filled.index))


# where the network is


def test_an_index_only_copy_knows_where_its_network_is(saved, records, tmp_path):
    shutil.copytree(saved, tmp_path / "run" / "tokenizer")
    UniversalItemTokenizer.from_pretrained(tmp_path / "run" / "tokenizer").save_pretrained(
        tmp_path / "run" / "recommender", include_network=False
    )
    (tmp_path / "run").rename(tmp_path / "moved")  # both together
    copied = UniversalItemTokenizer.from_pretrained(tmp_path / "moved" / "recommender")
    assert not copied.has_network and copied._network is None and copied.processor is None
    copied.add_items([{"item_id": "new", "description": "new strings"}])
    assert "new" in copied
    copied.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert UniversalItemTokenizer.from_pretrained(tmp_path / "again").network is not None
    assert str(tmp_path) not in (tmp_path / "again" / TOKENIZER_FILE).read_text()

    with pytest.raises(ValueError, match="item index only"):
        assert UniversalItemTokenizer.from_pretrained(tmp_path / "again", index_only=True).network
    shutil.rmtree(tmp_path / "moved" / "tokenizer")
    with pytest.raises(FileNotFoundError, match="moved/tokenizer was to hold the item tokenizer's network"):
        assert UniversalItemTokenizer.from_pretrained(tmp_path / "again").network


def test_another_network_where_the_index_says(saved, tiny_network, tmp_path):
    shutil.copytree(saved, tmp_path / "tokenizer")
    UniversalItemTokenizer.from_pretrained(tmp_path / "tokenizer").save_pretrained(
        tmp_path / "recommender", include_network=False
    )
    network = copy.deepcopy(tiny_network[0])
    with torch.no_grad():
        network.quantizer.root.codes.add_(1e-3)
    network.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(TokenizerMismatchError, match=f"{tmp_path}/tokenizer: the index was made by .*fingerprint"):
        assert UniversalItemTokenizer.from_pretrained(tmp_path / "recommender").network


def test_how_much_of_the_network_is_saved(filled, records, tmp_path):
    filled.save_pretrained(tmp_path, without_decoders=True)
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path)
    assert loaded.network.text_decoder is None
    catalogue = Catalogue.from_records(records)
    for found, expected in zip(
        loaded.compute_codes(catalogue, progress=False), filled.compute_codes(catalogue, progress=False), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="must hold the backbone"):
        filled.save_pretrained(tmp_path, save_backbone=False)


def test_titles_are_kept_for_people(tokenizer, records, tmp_path):
    tokenizer.add_items([{**record, "title": f"Title {row}"} for row, record in enumerate(records[:3])])
    tokenizer.save_pretrained(tmp_path, include_network=False)
    assert UniversalItemTokenizer.from_pretrained(tmp_path).index.titles == ["Title 0", "Title 1", "Title 2"]


def test_auto_classes(saved, tiny_network):
    processor = AutoProcessor.from_pretrained(saved)
    assert type(processor) is ItemProcessor and processor.prompt_key() == tiny_network[1].prompt_key()
    assert type(AutoConfig.from_pretrained(saved)) is type(tiny_network[0].config)


def test_images_count_as_tokens_of_a_batch(tokenizer, records, monkeypatch):
    sizes = []
    collate = tokenizer.processor.collate

    def spy(texts, images):
        batch = collate(texts, images)
        sizes.append(batch["input_ids"].numel())
        return batch

    monkeypatch.setattr(tokenizer.processor, "collate", spy)
    tokenizer.compute_codes(Catalogue.from_records(records), batch_tokens=120, progress=False)
    assert len(sizes) > 1 and max(sizes) <= 120 + 4, sizes


def test_new_items_are_read_from_the_fields_of_the_first(tokenizer, tmp_path):
    first = [{"item_id": str(row), "title": f"thing {row}", "categories": f"c{row % 3}"} for row in range(9)]
    tokenizer.add_items(Catalogue.from_records(first, ["categories", "title"]))
    tokenizer.save_pretrained(tmp_path / "full")
    tokenizer.save_pretrained(tmp_path / "index", include_network=False)
    new = {"item_id": "new", "title": "a new thing", "categories": "c1", "description": "of another field"}
    for folder in ("full", "index"):
        loaded = UniversalItemTokenizer.from_pretrained(tmp_path / folder)
        assert loaded.text_fields == ("categories", "title")
        read = []

        def compute_codes(catalogue, compute=loaded.compute_codes, read=read, **arguments):
            read += catalogue.texts
            return compute(catalogue, **arguments)

        loaded.compute_codes = compute_codes
        loaded.add_items([new])
        assert read == ["c1. a new thing"]
        loaded.add_items(Catalogue.from_records([new | {"item_id": "newer"}], ["title"]))
        assert loaded.text_fields == ("categories", "title")  # for all items to come


def test_tokenizers_of_all_fields_are_saved_as_before(folder, filled):
    assert "text_fields" not in json.loads((folder / TOKENIZER_FILE).read_text())
    assert UniversalItemTokenizer.from_pretrained(folder).text_fields == filled.text_fields == TEXT_FIELDS
