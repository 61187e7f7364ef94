"""What is loaded from files, in small: indexes, memories, weights, cards, items and interactions."""

import json
from pathlib import Path

import numpy as np
import torch

from hub_cards import Evaluation, RecommenderCardValues, load_values, save_card
from hub_cards.cards import CardError, render_card
from modeling_utgrec import SASRecConfig, SASRecForNextItem, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import UniversalItemTokenizer
from tokenization_items.catalogue import Catalogue
from tokenization_items.catalogue_updates import JOURNAL_NAME, read_journal
from tokenization_items.item_embeddings import load_embeddings, save_embeddings
from tokenization_items.item_index import ItemIndex
from tokenization_items.item_memory import StoredMemory
from tokenization_items.text_statistics import FittedTextStatistics
from trainers import Interactions, Recommender
from trainers.data.splits import PARTS
from trainers.hub.sid_tokens import read_sid2pid
from trainers.methods.memory import build_memory, for_index
from trainers.rankers.generative import load_model

from .fuzz import Subject, digest

IDS = [f"i{row}" for row in range(8)]


def weights(model):
    return digest(*(tensor.numpy() for _, tensor in sorted(model.state_dict().items())))


def of_index(index):
    return index.item_ids, digest(index.codes), index.level_sizes, index.level_offsets


def small_index():
    index = ItemIndex([4, 4, 4], [2, 6, 10])
    codes = np.stack(np.unravel_index(np.arange(8) * 7, (4, 4, 4)), 1)
    index.assign(IDS, codes, titles=[f"title {row} é" for row in range(8)])
    return index


def make_subjects(root: Path) -> dict[str, Subject]:
    """Everything that is loaded, each in a folder of its own, by name."""
    found: list[Subject] = []
    index = small_index()

    def add(name, load, weight=1.0, **files):
        files = {path.replace("__", "."): exact for path, exact in files.items()}
        found.append(Subject(name, root / name, load, files, weight))
        (root / name).mkdir(exist_ok=True)
        return root / name

    # what programs write, and people do not edit: it loads as it was, or not at all
    folder = add("index", lambda place: of_index(ItemIndex.load(place)), 3, item_ids__json=True,
                 item_index__safetensors=True)  # fmt: skip
    index.save(folder)
    interactions = Interactions.from_sequences([IDS[start : start + 5] for start in range(4)] * 2, IDS)
    content = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    folder = add("memory", of_memory, 2, item_memory__safetensors=True)
    index.save(folder)
    for_index(build_memory(interactions, content), IDS, index).save(folder, index)
    folder = add("embeddings", lambda place: digest(load_embeddings(place, IDS)), 2, embeddings__npy=True,
                 embeddings__safetensors=True, item_ids__json=True)  # fmt: skip
    save_embeddings(folder, IDS, content)
    folder = add("statistics of texts", of_statistics, 1, content__safetensors=True)
    words = ["red", "pen", "ink", "steel"]
    texts = [f"{words[row % 4]} {words[row // 2 % 4]} {row}" for row in range(8)]
    FittedTextStatistics.fit(texts)[1].save(folder).rename(folder / "content.safetensors")
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "d_kv": 4, "num_layers": 1, "num_decoder_layers": 1}
    config = UTGRecConfig(root_codebook_size=4, leaf_codebook_size=4, item_tokenizer_fingerprint="f00d", **sizes)
    folder = add("weights", lambda place: weights(load_model(place)), 0.3, model__safetensors=True)
    UTGRecForConditionalGeneration(config).save_pretrained(folder)
    # what people may edit: it loads as something that works
    folder = add("configuration", lambda place: weights(load_model(place)), 0.3, config__json=False,
                 generation_config__json=False)  # fmt: skip
    UTGRecForConditionalGeneration(config).save_pretrained(folder)
    load = SASRecForNextItem.from_pretrained
    folder = add("configuration, sequential", lambda place: weights(load(place)), 0.3, config__json=False,
                 model__safetensors=True)  # fmt: skip
    load.__self__(SASRecConfig(num_items=8, hidden_size=8, num_layers=1, num_heads=2)).save_pretrained(folder)
    folder = add("item tokenizer", of_tokenizer, 1, item_tokenizer_config__json=False, item_titles__json=False)
    UniversalItemTokenizer(index, "f00d", max_history=5).save_pretrained(folder)
    folder = add("card", of_card, 1, card_values__json=False)
    evaluation = Evaluation.from_result("office", {"recall@10": 0.25, "part": "test", "num_users": 3})
    save_card(folder, RecommenderCardValues(name="Office", num_items=6, fingerprint="f00d", evaluations=[evaluation]))
    folder = add("journal", lambda place: list(map(dict, read_journal(place))), 0.5, catalogue_journal__jsonl=False)
    (folder / JOURNAL_NAME).write_text('{"added": 1, "removed": []}\n{"added": 2, "removed": ["a"]}\n')
    folder = add("semantic IDs", lambda place: read_sid2pid(place / "sid2pid.json", [4, 4, 4]).item_ids, 1,
                 sid2pid__json=False)  # fmt: skip
    entries = {
        ",".join(map(str, row)): [{"pid": name, "count": 1}] for row, name in zip(index.codes, IDS, strict=True)
    }
    (folder / "sid2pid.json").write_text(json.dumps(entries))
    rows = [{"item_id": name, "title": f"title {name}", "brand": "é", "categories": ["a", "b"]} for name in IDS]
    folder = add("items, jsonl", of_catalogue, 2, items__jsonl=False)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = add("items, csv", of_catalogue, 2, items__csv=False)
    lines = [f"{name},title {name},\u00e9" for name in IDS]
    (folder / "items.csv").write_text("item_id,title,brand\n" + "\n".join(lines) + "\n", encoding="utf-8")
    folder = add("sequences", of_interactions, 2, sequences__jsonl=False)
    rows = [{"user_id": f"u{user}", "items": IDS[user : user + 4], "ratings": [1, 2, None, 4.5]} for user in range(3)]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = add("interactions, csv", of_interactions, 2, interactions__csv=False)
    lines = [f"u{user},{IDS[user + at]},{100 * at},{at}.5,train" for user in range(3) for at in range(4)]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp,rating,split\n" + "\n".join(lines) + "\n")
    folder = add("interactions, jsonl", of_interactions, 1, interactions__jsonl=False)
    rows = [
        {"user_id": f"u{user}", "item_id": IDS[user + at], "timestamp": at} for user in range(3) for at in range(4)
    ]
    (folder / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = add("quick start", of_recommender, 0.1, recommender__json=False)
    orders = [{"user": f"u{user}", "item": IDS[(user + at) % 8], "time": at} for user in range(12) for at in range(4)]
    goods = [{"id": name, "title": f"pen {row % 3} red"} for row, name in enumerate(IDS)]
    Recommender.from_interactions(orders, goods).save_pretrained(folder)
    for subject in found:
        subject.files = {name: exact for name, exact in subject.files.items() if (subject.folder / name).is_file()}
        assert subject.files, subject.name
    return {subject.name: subject for subject in found}


def of_card(folder):
    values = load_values(folder)
    try:
        return render_card(values)
    except CardError as error:  # of a value, whichever file it came from
        raise CardError(f"{folder}: {error}") from error


def of_memory(folder):
    stored = StoredMemory.load(folder, ItemIndex.load(folder))
    tensors = digest(*(tensor.numpy() for _, tensor in sorted(stored.memory.tensors().items())))
    return tensors, stored.memory.settings, stored.facts


def of_statistics(folder):
    return digest(FittedTextStatistics.load(folder / "content.safetensors").embed(["red pen of steel", "ink"]))


def of_tokenizer(folder):
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    batch = tokenizer([IDS[:3], IDS[2:]], return_tensors="pt")
    return tokenizer.fingerprint, tokenizer.max_history, tokenizer.index.titles, digest(batch["input_ids"].numpy())


def of_catalogue(folder):
    catalogue = Catalogue.from_folder(folder)
    catalogue.check()
    assert len(set(catalogue.item_ids)) == len(catalogue) and all(catalogue.item_ids)
    assert all(isinstance(text, str) for text in [*catalogue.item_ids, *catalogue.texts, *catalogue.titles])
    return catalogue.item_ids, catalogue.texts, catalogue.titles


def of_interactions(folder):
    found = Interactions.from_folder(folder, IDS)
    assert ((found.items >= 0) & (found.items < len(IDS))).all() and len(set(found.user_ids)) == found.num_users
    assert found.ratings is None or found.ratings.shape == found.items.shape
    assert found.parts is None or ((found.parts >= 0) & (found.parts < len(PARTS))).all()
    return digest(found.items, [*found.user_ids], found.ratings, found.parts)


def of_recommender(folder):
    return Recommender.from_pretrained(folder).recommend([IDS[:2]], top_k=3)
