"""Arguments of transformers' Trainer that cannot be honoured are refused by name, before any work."""

import sys
from dataclasses import fields, replace

import pytest
from transformers import HfArgumentParser, TrainingArguments

from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.trainer_arguments import REFUSED, check_last_batch
from trainers.sequential_trainer import SequentialTrainingArguments

ALL = [
    ItemTokenizerTrainingArguments,
    EmbeddingTokenizerTrainingArguments,
    RecommenderTrainingArguments,
    SequentialTrainingArguments,
]
VALUES = {
    "label_smoothing_factor": 0.1,
    "eval_accumulation_steps": 1,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "liger_kernel_config": {"rope": True},
    "length_column_name": "size",
    "eval_do_concat_batches": False,
    "logging_nan_inf_filter": False,
    "average_tokens_across_devices": False,
    "neftune_noise_alpha": 5.0,
    "debug": "underflow_overflow",
    "optim_target_modules": ["all"],
}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, kind, name):
    assert name in {each.name for each in fields(TrainingArguments)}
    with pytest.raises(ValueError, match=f"{kind.__name__} cannot honour {name}: .*Leave it out"):
        kind(str(tmp_path), **{name: VALUES.get(name, True)})


@pytest.mark.parametrize("kind", ALL)
def test_shards_of_fsdp_that_a_cpu_would_not_have_are_refused(tmp_path, kind, monkeypatch):
    """accelerate trained with DDP, without a word."""
    with pytest.raises(ValueError, match="fsdp has no effect on a CPU"):
        kind(str(tmp_path), use_cpu=True, fsdp=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="fsdp has no effect on a CPU"):
        kind(str(tmp_path), use_cpu=True)


@pytest.mark.parametrize("kind", ALL)
def test_each_trainer_names_its_own_and_takes_the_defaults(tmp_path, kind):
    kind(str(tmp_path), use_cpu=True)
    known = {each.name for each in fields(kind)}
    assert kind.refused.keys() - known <= {"activation_checkpointing"}  # which transformers 5.16 lacks
    for name in kind.refused.keys() & known:
        with pytest.raises(ValueError, match=f"cannot honour {name}"):
            kind(str(tmp_path), **{name: VALUES.get(name, True)})
    for order in ("group_by_length", "batch_rebalance"):
        with pytest.raises(ValueError, match=f"train_sampling_strategy {order}: .*choose random or sequential"):
            kind(str(tmp_path), train_sampling_strategy=order)
    assert kind(str(tmp_path), train_sampling_strategy="sequential", use_cpu=True).train_sampling_strategy
    with pytest.raises(ValueError, match="cannot honour .*label_smoothing_factor.*; use_cache: "):
        HfArgumentParser(kind).parse_args_into_dataclasses(["--label_smoothing_factor", "0.1", "--use_cache", "true"])


def test_arguments_of_other_releases_are_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(REFUSED, "of_another_release", "there is none")
    for kind in ALL:
        kind(str(tmp_path), use_cpu=True)


def test_optimizers_and_schedules_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="lr_scheduler_type warmup_stable_decay: .*num_decay_steps"):
        RecommenderTrainingArguments(str(tmp_path), lr_scheduler_type="warmup_stable_decay")
    RecommenderTrainingArguments(
        str(tmp_path),
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": 2},
        use_cpu=True,
    )
    for name in ("polynomial", "cosine_with_restarts", "inverse_sqrt", "constant"):
        RecommenderTrainingArguments(str(tmp_path), lr_scheduler_type=name, use_cpu=True)
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ValueError, match="optim schedule_free_adamw: .*schedulefree"):
        RecommenderTrainingArguments(str(tmp_path), optim="schedule_free_adamw")
    with pytest.raises(ValueError, match="optim_target_modules: it is of GaLore and APOLLO"):
        SequentialTrainingArguments(str(tmp_path), optim_target_modules=["all"])


@pytest.mark.parametrize("metric", ["eval_loss", "loss", "ndcg@20", "office_ndcg"])
def test_metrics_that_no_validation_gives(tmp_path, metric):
    with pytest.raises(ValueError, match=f"metric_for_best_model is one of recall@5, .*; got '{metric}'"):
        RecommenderTrainingArguments(str(tmp_path), metric_for_best_model=metric, use_cpu=True)
    for known in ("mrr@5", "eval_recall@10", "my_shop_ndcg@10"):
        SequentialTrainingArguments(str(tmp_path), metric_for_best_model=known, use_cpu=True)


@pytest.mark.parametrize("kind", [EmbeddingTokenizerTrainingArguments, ItemTokenizerTrainingArguments])
def test_fewer_collisions_and_more_codes_in_use_are_better(tmp_path, kind):
    """transformers takes more of all but losses that are called so, as it does not here."""
    for metric in ("eval_loss", "text", "entropy", "collision_rate", "eval_collision_rate_office"):
        assert not kind(str(tmp_path), metric_for_best_model=metric, use_cpu=True).greater_is_better
    for metric in ("used_0", "eval_perplexity_1", "entropy_pairs"):
        assert kind(str(tmp_path), metric_for_best_model=metric, use_cpu=True).greater_is_better
    assert kind(str(tmp_path), metric_for_best_model="text", greater_is_better=True, use_cpu=True).greater_is_better
    assert kind(str(tmp_path), load_best_model_at_end=True, save_strategy="no").greater_is_better is False


def test_arguments_can_be_copied(tmp_path):
    """transformers changes some when they are made."""
    for kind in ALL:
        args = kind(str(tmp_path), use_cpu=True, eval_strategy="epoch", logging_steps=0.5)
        assert replace(args, seed=3).seed == 3


@pytest.mark.parametrize(("batch", "drop_last", "refused"), [(8, True, False), (9, True, True), (9, False, False)])
def test_a_batch_larger_than_the_data_is_refused_where_batches_are_whole(tmp_path, batch, drop_last, refused):
    args = SequentialTrainingArguments(
        str(tmp_path), per_device_train_batch_size=batch, dataloader_drop_last=drop_last, use_cpu=True
    )
    if refused:
        with pytest.raises(ValueError, match="8 examples are fewer than one batch of 9"):
            check_last_batch(args, 8)
    else:
        check_last_batch(args, 8)
