"""Baselines by name."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hub_cards import METHODS
from modeling_utgrec import ItemLevelConfig
from tokenization_items.catalogue import Catalogue
from tokenization_items.text_statistics import TextStatistics
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.hub.model_facts import method_of
from trainers.methods import baselines
from trainers.methods.baselines import (
    GIVEN,
    NAMES,
    ItemEmbeddings,
    NotApplicable,
    decoder_arguments,
    make_semantic_ids,
)
from trainers.methods.semantic_ids import SEMANTIC_IDS
from trainers.methods.sequential import SequentialArguments, new_sequential
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.utgrec import RecommenderArguments
from trainers.sequential_trainer import SequentialTrainingArguments


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_has_a_title_and_sources_for_its_card(name):
    """A sequential one under its configuration's `model_type`, a generative one under its name."""
    known = method_of(SEQUENTIAL[name].config_class) if name in SEQUENTIAL else name
    method = METHODS[method_of(ItemLevelConfig) if name == GIVEN else known]
    assert method.citation
    expected = known if name in SEQUENTIAL else name.replace("-", "") + "recommender" * (name == GIVEN)
    assert re.sub(r"[^a-z0-9]", "", method.title.lower()) == expected


def test_a_decoder_has_the_sizes_of_the_t5():
    sizes = RecommenderArguments(
        d_model=8, d_ff=12, num_layers=3, num_heads=2, d_kv=4, dropout_rate=0.2, normalize_over="items"
    )
    arguments = decoder_arguments(sizes)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    assert [getattr(arguments, name) for name in names] == [8, 12, 4, 2, 4], "a layer more, for the T5's encoder"
    assert (arguments.attention_dropout, arguments.embedding_dropout) == (0.2, 0.4)
    assert arguments.normalize_over == "items" and arguments.size == "tiny"


def test_semantic_ids_get_what_their_method_reads(monkeypatch, tmp_path):
    calls = []

    def function(*given, **config):
        calls.append((given, config))

    method = replace(SEMANTIC_IDS["letter"], function=function)
    monkeypatch.setitem(SEMANTIC_IDS, "letter", method)
    embeddings = SimpleNamespace(text="texts", collaborative="users", item_ids=["a"])
    training = EmbeddingTokenizerTrainingArguments(str(tmp_path), use_cpu=True, max_steps=7)
    make_semantic_ids("letter", embeddings, tmp_path / "ids", training, seed=3, num_levels=2)
    ((given, config),) = calls
    assert given == ("texts", "users", ["a"], tmp_path / "ids") and (config["seed"], config["num_levels"]) == (3, 2)
    own = config["training"]
    assert (own.seed, own.max_steps, own.output_dir) == (3, 7, str(tmp_path / "ids" / "training"))
    assert training.output_dir == str(tmp_path), "what was given stays as it is"
    training.resume_from_checkpoint = "elsewhere"
    for resume in (False, True):  # there is none in the folder
        make_semantic_ids("letter", embeddings, tmp_path / "ids", training, resume=resume)
        assert calls[-1][1]["training"].resume_from_checkpoint == "elsewhere"


def test_the_sasrec_of_the_collaborative_embeddings_stays_here(monkeypatch, domains, tmp_path):
    calls = []

    def train(name, domain, arguments, training, minutes, resume):
        calls.append((name, training.push_to_hub, training.output_dir, training.seed, minutes, resume))
        model = new_sequential("sasrec", domain.interactions.num_items, SequentialArguments(hidden_size=8), 0)
        return SimpleNamespace(model=model)

    monkeypatch.setattr(baselines, "train_sequential", train)
    training = SequentialTrainingArguments(str(tmp_path / "own"), use_cpu=True, seed=4, push_to_hub=True)
    embeddings = ItemEmbeddings(domains[0], tmp_path, collaborative_training=training, minutes=2, resume=True)
    assert embeddings.collaborative.shape == (6, 8)
    folder = tmp_path / "collaborative-embeddings-seed-4"
    assert calls == [("sasrec", False, str(folder / "sasrec" / "checkpoints"), 4, 2, True)]
    assert training.push_to_hub and training.output_dir == str(tmp_path / "own"), "what was given stays as it is"
    again = ItemEmbeddings(domains[0], tmp_path, collaborative_training=training)
    assert (again.collaborative == embeddings.collaborative).all() and len(calls) == 1


def test_texts_that_say_nothing_are_no_embeddings(tmp_path):
    catalogue = Catalogue.from_records([{"item_id": str(row), "title": f"unique{row}"} for row in range(4)])
    domain = SimpleNamespace(catalogue=catalogue, interactions=SimpleNamespace(item_ids=catalogue.item_ids))
    with pytest.raises(NotApplicable, match="No word is in two of the 4 texts, .*: take a text encoder instead"):
        _ = ItemEmbeddings(domain, tmp_path, text_encoder="tf-idf").text


def test_what_made_the_texts_embeddings(tmp_path):
    catalogue = Catalogue.from_records([{"item_id": str(row), "title": f"case {row % 2}0"} for row in range(4)])
    domain = SimpleNamespace(catalogue=catalogue, interactions=SimpleNamespace(item_ids=catalogue.item_ids))
    made = ItemEmbeddings(domain, tmp_path, text_encoder="tf-idf")
    assert made.text_encoder_fingerprint() == TextStatistics().fingerprint != made.text_encoder_fingerprint(True)
    given = ItemEmbeddings(domain, tmp_path / "other", text_folder=str(tmp_path / "text-embeddings"))
    assert given.text_encoder_fingerprint(True) == made.text_encoder_fingerprint(True)
