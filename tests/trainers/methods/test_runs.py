"""Steps that all methods' trainings share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback

from hub_cards import METHODS, render_card
from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods import runs
from trainers.methods.runs import (
    check_output,
    finish_model,
    last_checkpoint,
    place_training,
    shared_semantic_ids,
    stopping,
    tokenize,
    train_recommender,
)
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime import checkpoints
from trainers.runtime.callbacks import TimeLimitCallback


@pytest.fixture
def all_whole(monkeypatch):
    """Every checkpoint counts as whole."""
    monkeypatch.setattr(checkpoints, "find_faults", lambda *_: {})


def test_last_checkpoint(tmp_path, all_whole):
    training = ItemTokenizerTrainingArguments(str(tmp_path / "none"), use_cpu=True)
    assert last_checkpoint(training) is None
    for step in (9, 10):
        (tmp_path / "none" / f"checkpoint-{step}").mkdir(parents=True)
    assert last_checkpoint(training) == str(tmp_path / "none" / "checkpoint-10")


def test_last_checkpoint_of_a_new_machine_is_the_repositorys(tmp_path, monkeypatch, all_whole):
    pushed = {"hub_model_id": "o/m", "hub_revision": "dev", "hub_token": "t"}
    training = ItemTokenizerTrainingArguments(str(tmp_path / "none"), use_cpu=True, push_to_hub=True, **pushed)
    monkeypatch.setattr(runs, "hub_checkpoint", lambda *given: f"{'-'.join(map(str, given))}/last-checkpoint")
    assert last_checkpoint(training) == "o/m-dev-t-1-False/last-checkpoint"
    (tmp_path / "none" / "checkpoint-3").mkdir(parents=True)
    assert last_checkpoint(training) == str(tmp_path / "none" / "checkpoint-3"), "what is here is later"


def test_a_run_of_other_data_or_seed_is_not_gone_on_with(tmp_path):
    """Its checkpoints fit: their weights would be taken without a word."""
    flags = {"output_dir": str(tmp_path), "allow_partial_resume": False, "overwrite": False, "dry_run": False}
    told = {"model": "utgrec", "data": ["x/a", "y/b"], "seed": 1}

    def check(resume: bool, **changes) -> None:
        check_output(SimpleNamespace(**flags, resume=resume), (), (), (), ("pretrain", told | changes))

    check(False)
    check(True, data=["moved/a", "b/"], recommender={"num_train_epochs": 3})
    for changes, said in (
        ({"seed": 2}, "--seed was 1, is 2"),
        ({"data": ["x/a"]}, "--data was a b, is a"),
        ({"model": "recbase"}, "--model was utgrec, is recbase"),
    ):
        kept = (tmp_path / "run.yaml").read_bytes()
        with pytest.raises(SystemExit, match=f"another one: {said}[.] Give what it was given"):
            check(True, **changes)
        assert (tmp_path / "run.yaml").read_bytes() == kept


def test_shared_semantic_ids_are_counted_over_domains(tiny_network, domains):
    tokenizer = UniversalItemTokenizer.from_network(*tiny_network)
    tokenizers = {domain.name: tokenize(tokenizer, domain.catalogue)[0] for domain in domains}
    codes = [tuple(code) for t in tokenizers.values() for code in t.index.codes.tolist()]
    assert shared_semantic_ids(tokenizers) == sum(codes.count(code) > 1 for code in codes)
    assert len(tokenizer) == 0, "the shared tokenizer's own index stays empty"
    doubled = {"x": tokenizers["a"], "y": tokenizers["a"]}
    assert shared_semantic_ids(doubled) == 12


def test_what_ends_a_training_early(tmp_path, caplog):
    training = ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="epoch")
    assert stopping(training) == []
    patience, limit = stopping(training, 3, 0.5)
    assert isinstance(patience, EarlyStoppingCallback) and patience.early_stopping_patience == 3
    assert isinstance(limit, TimeLimitCallback) and limit.seconds == 30
    assert not caplog.text
    training = ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True)
    (limit,) = stopping(training, 3, 0.5)
    assert isinstance(limit, TimeLimitCallback)
    assert "Nothing is validated (eval_strategy no), so no patience of 3 ends the training." in caplog.text


def test_a_push_needs_a_name(tmp_path):
    training = ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True, push_to_hub=True)
    with pytest.raises(ValueError, match="repository of beauty: give its hub_model_id"):
        place_training(training, tmp_path / "beauty", 3)
    training.hub_model_id = "org/beauty"
    place_training(training, tmp_path / "beauty", 3)
    assert (training.output_dir, training.seed) == (str(tmp_path / "beauty"), 3)
    assert training.dataloader_pin_memory == torch.cuda.is_available()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="No files can be written to .*file/beauty"):
        place_training(training, tmp_path / "file" / "beauty", 3)


@pytest.mark.parametrize(
    ("decoder", "method", "title", "cited"),
    [
        (False, "utgrec", "UTGRec recommender for a", "utgrec"),
        (False, "tiger", "TIGER recommender for a", "tiger"),
        (False, "letter", "LETTER recommender for a", "letter"),
        (False, None, "Recommender for a", None),
        (True, None, "RecBase recommender for a", "recbase"),
        (True, "tiger-decoder", "TIGER (decoder) recommender for a", "tiger-decoder"),
    ],
)
def test_the_card_of_a_recommender_is_its_methods(domains, tmp_path, decoder, method, title, cited):
    """A T5 on codes of 6 items is UTGRec's, TIGER's or LETTER's: its training says so."""
    config = RecBaseConfig.tiny(level_sizes=[2, 3]) if decoder else UTGRecConfig(level_sizes=[2, 3], num_layers=1)
    config.item_tokenizer_fingerprint = "0" * 32
    model = (RecBaseForCausalLM if decoder else UTGRecForConditionalGeneration)(config)
    index = ItemIndex(config.level_sizes, config.level_offsets)
    index.assign(domains[0].catalogue.item_ids, np.array([[row // 3, row % 3] for row in range(6)]))
    tokenizer = UniversalItemTokenizer(index, "0" * 32)
    args = RecommenderTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
    trainer = train_recommender(model, domains[:1], {"a": tokenizer}, args, method=method)
    values = trainer.card_values()
    assert (values.name, values.method, trainer.domain) == (title, cited, "a")
    card = render_card(values)
    assert ("bibtex" in card) == (cited is not None)
    own = "" if cited is None else METHODS[cited].citation
    for entry in "\n\n".join(each.citation for each in METHODS.values()).split("\n\n"):
        assert (entry in card) == (entry in own)


def test_walks_are_trained_on_and_told_as_items_alone(domains, tmp_path):
    config = UTGRecConfig(level_sizes=[2, 3], num_layers=1, item_tokenizer_fingerprint="0" * 32)
    codes, tokenizers = np.array([[row // 3, row % 3] for row in range(6)]), {}
    for domain in domains[:2]:
        index = ItemIndex(config.level_sizes, config.level_offsets)
        index.assign(domain.catalogue.item_ids, codes)
        tokenizers[domain.name] = UniversalItemTokenizer(index, "0" * 32)
    args = RecommenderTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
    model = UTGRecForConditionalGeneration(config)
    trainer = train_recommender(model, domains[:1], tokenizers, args, walks=domains[1:2])
    first, second = (domain.interactions.training_part() for domain in domains[:2])
    assert len(trainer.train_dataset) == sum(np.maximum(part.lengths - 1, 0).sum() for part in (first, second))
    rows = trainer.card_values().training_data
    assert [row["Domain"] for row in rows] == [domain.name for domain in domains[:2]]
    assert rows[1] == {"Domain": domains[1].name, "Items": 6, "Users": 0, "Interactions": 0} and rows[0]["Users"] > 0


@pytest.mark.parametrize("push", [False, True])
def test_a_finished_model_has_its_card_and_is_sent(push):
    calls, network = [], {"name_or_path": "o/tokenizer", "revision": "1"}
    trainer = SimpleNamespace(card_facts={"license": "mit"}, hub_model_id="o/m")
    trainer.args = SimpleNamespace(push_to_hub=push)
    trainer.save_card = lambda folder: calls.append((folder, dict(trainer.card_facts)))
    trainer.push_folder = lambda folder, **more: calls.append((folder, more)) or SimpleNamespace(oid="c0ffee")
    sent = finish_model(trainer, "folder", {"num_items": 3}, network)
    assert calls[0] == ("folder", {"license": "mit", "num_items": 3})
    assert calls[1:] == ([("folder", {"network": network})] if push else [])
    assert sent == ({"name_or_path": "o/m", "revision": "c0ffee"} if push else None)
