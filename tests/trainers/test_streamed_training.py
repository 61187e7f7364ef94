"""Training on a corpus that is streamed, of every kind of recommender: resumes within an epoch, bit by bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_utgrec import (
    BERT4RecConfig,
    BERT4RecForNextItem,
    ItemLevelConfig,
    ItemLevelForCausalLM,
    ItemTrie,
    RecBaseConfig,
    RecBaseForCausalLM,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from trainers.data.interactions import Interactions
from trainers.rankers.sequential import SequentialRanker
from trainers.recommender_trainer import RecommenderTrainer, RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.corpus import CORPUS, ITEM_IDS, ITEM_ROWS, OFFSETS, SequenceCorpus
from trainers.training_data.streamed_windows import StreamedData

CODES, ITEMS, SEQUENCES, BATCH = 6, 20, (60, 15), 16
SIZES = [CODES] * 3
KINDS = ("utgrec", "utgrec-causal", "item-level", "recbase", "sasrec", "bert4rec")


def make_corpus(folder: Path) -> SequenceCorpus:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 15, sum(SEQUENCES))
    rng.integers(0, ITEMS, lengths.sum()).astype(np.int32).tofile(folder / ITEM_ROWS)
    np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64).tofile(folder / OFFSETS)
    record = {"domains": ["a", "b"], "sequences": SEQUENCES, "items": [ITEMS, 0], "interactions": int(lengths.sum())}
    (folder / CORPUS).write_text(json.dumps(record))
    return SequenceCorpus.load(folder)


def make_model(kind: str, codes: np.ndarray, content: np.ndarray):
    if kind.startswith("utgrec"):
        sizes = dict(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_layers=1, num_decoder_layers=1)
        config = UTGRecConfig(level_sizes=SIZES, causal_encoder=kind == "utgrec-causal", dropout_rate=0.2, **sizes)
        return UTGRecForConditionalGeneration(config)
    if kind == "recbase":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 8, "attention_dropout": 0.2}
        return RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=SIZES, **sizes))
    if kind == "item-level":
        config = ItemLevelConfig.tiny(
            level_sizes=SIZES, content_size=4, num_item_residuals=ITEMS, horizon=3, max_history=5
        )
        model = ItemLevelForCausalLM(config)
        model.set_catalogue(ItemTrie(codes, SIZES, config.level_offsets, content=content))
        return model
    sizes = dict(num_items=ITEMS, max_history=5, hidden_size=16, num_layers=1)
    if kind == "sasrec":
        return SASRecForNextItem(SASRecConfig(**sizes))
    return BERT4RecForNextItem(BERT4RecConfig(**sizes))


def make_trainer(kind: str, corpus: SequenceCorpus, output: Path, **changes):
    set_seed(0)
    rng = np.random.default_rng(1)
    codes = np.stack(np.unravel_index(rng.permutation(CODES**3)[:ITEMS], SIZES), axis=1)
    content = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    model = make_model(kind, codes, content)
    values = dict(
        per_device_train_batch_size=BATCH,
        learning_rate=0.01,
        domain_temperature=2.0,
        buffer_targets=64,
        save_strategy="steps",
        save_only_model=False,
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        dataloader_pin_memory=False,
    )
    values = {**values, **changes}
    if kind in ("sasrec", "bert4rec"):
        return SequentialTrainer(model, SequentialTrainingArguments(str(output), **values), corpus)
    args = RecommenderTrainingArguments(str(output), max_history=5, **values)
    return RecommenderTrainer(model, args, StreamedData(corpus, codes + np.array(model.config.level_offsets), content))


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_resumes_in_the_middle_of_an_epoch(tmp_path, kind):
    """With dropout, under a temperature, and without reading what it skips."""
    corpus = make_corpus(tmp_path)
    steps = -(-len(make_trainer(kind, corpus, tmp_path / "out").train_dataset) // BATCH)
    saved = steps // 2 + 1  # inside of the first epoch; the end lies in the second
    changes = {"save_steps": saved, "max_steps": 2 * saved}
    whole = make_trainer(kind, corpus, tmp_path / "out", **changes)
    whole.train()
    resumed = make_trainer(kind, corpus, tmp_path / "out", **changes)
    rows, asked = resumed.train_dataset, []
    read = rows.__class__.__getitems__
    rows.__class__ = type(
        "Watched", (rows.__class__,), {"__getitems__": lambda s, i: asked.append(len(i)) or read(s, i)}
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{saved}"))
    assert losses_of(resumed) == losses_of(whole) and len(losses_of(whole)) == 2 * saved > steps
    assert sum(asked) <= (saved + 1) * BATCH  # one is read ahead
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("kind", ["utgrec", "recbase", "sasrec"])
def test_what_a_corpus_is_not_read_by(tmp_path, kind):
    corpus = make_corpus(tmp_path)
    with pytest.raises(ValueError, match="Persistent data loader workers"):
        make_trainer(kind, corpus, tmp_path, dataloader_persistent_workers=True, dataloader_num_workers=1)
    with pytest.raises(ValueError, match="buffer_targets must be at least 1"):
        make_trainer(kind, corpus, tmp_path, buffer_targets=0)
    with pytest.raises(ValueError, match="temperature .* must be above 0"):
        make_trainer(kind, corpus, tmp_path, domain_temperature=0.0)


def test_interactions_in_memory_are_one_domain(tmp_path):
    ids = [f"i{row}" for row in range(ITEMS)]
    interactions = Interactions.from_sequences([ids[:5], ids[3:9]], ids)
    with pytest.raises(ValueError, match="domain_temperature is 2.0, and interactions in memory are one domain"):
        make_trainer("sasrec", interactions, tmp_path)


def test_a_sequential_model_of_a_corpus_knows_its_items(tmp_path):
    """Of validation data with as many items in another order the rows would be mistaken."""
    ids = [f"i{row}" for row in range(ITEMS)]
    (tmp_path / "corpus").mkdir()
    assert make_corpus(tmp_path / "corpus").item_ids is None  # of an earlier release
    (tmp_path / "corpus" / ITEM_IDS).write_text(json.dumps(ids))
    corpus = SequenceCorpus.load(tmp_path / "corpus")
    trainer = make_trainer("sasrec", corpus, tmp_path / "run")
    trainer.save_model()
    assert SequentialRanker.from_pretrained(tmp_path / "run").item_ids == ids
    with pytest.raises(ValueError, match="their rows would be mistaken"):
        SequentialTrainer(trainer.model, trainer.args, corpus, Interactions.from_sequences([ids[:5]], ids[::-1]))
