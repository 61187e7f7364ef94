"""What all methods' trainings share."""

import pytest
import torch
from transformers import EarlyStoppingCallback

from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.callbacks import TimeLimitCallback
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.methods.runs import (
    last_checkpoint,
    place_training,
    shared_identifiers,
    stopping,
    tokenize,
)


def test_last_checkpoint(tmp_path):
    training = ItemTokenizerTrainingArguments(str(tmp_path / "none"), use_cpu=True)
    assert last_checkpoint(training) is None
    for step in (9, 10):
        (tmp_path / "none" / f"checkpoint-{step}").mkdir(parents=True)
    assert last_checkpoint(training) == str(tmp_path / "none" / "checkpoint-10")


def test_shared_identifiers_are_counted_over_domains(tiny_network, domains):
    tokenizer = UniversalItemTokenizer.from_network(*tiny_network)
    tokenizers = {domain.name: tokenize(tokenizer, domain.catalogue)[0] for domain in domains}
    codes = [tuple(code) for t in tokenizers.values() for code in t.index.codes.tolist()]
    assert shared_identifiers(tokenizers) == sum(codes.count(code) > 1 for code in codes)
    assert len(tokenizer) == 0, "the shared tokenizer's own index stays empty"
    doubled = {"x": tokenizers["a"], "y": tokenizers["a"]}
    assert shared_identifiers(doubled) == 12


def test_what_ends_a_training_early():
    assert stopping() == []
    patience, limit = stopping(3, 0.5)
    assert isinstance(patience, EarlyStoppingCallback) and patience.early_stopping_patience == 3
    assert isinstance(limit, TimeLimitCallback) and limit.seconds == 30


def test_a_push_needs_a_name(tmp_path):
    training = ItemTokenizerTrainingArguments(str(tmp_path), use_cpu=True, push_to_hub=True)
    with pytest.raises(ValueError, match="repository of beauty: give its hub_model_id"):
        place_training(training, tmp_path / "beauty", 3)
    training.hub_model_id = "org/beauty"
    place_training(training, tmp_path / "beauty", 3)
    assert (training.output_dir, training.seed) == (str(tmp_path / "beauty"), 3)
    assert training.dataloader_pin_memory == torch.cuda.is_available()
