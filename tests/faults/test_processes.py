"""Processes that train together train as one does on the same global batch, over whole epochs: with a last batch of
which some have less or none, with gradients of several batches in a step, and when they go on from the middle of an
epoch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    RecBaseConfig,
    RecBaseForCausalLM,
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
    RQVAEModel,
    SASRecConfig,
    SASRecForNextItem,
)
from tokenization_items.item_index import ItemIndex
from trainers.data.interactions import Interactions
from trainers.embedding_tokenizer_trainer import (
    EmbeddingRows,
    EmbeddingTokenizerTrainer,
    EmbeddingTokenizerTrainingArguments,
)
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.next_item_windows import TrainingData

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
GLOBAL_BATCH, NUM_USERS, NUM_ITEMS, SIZES = 12, 41, 20, [6, 6, 6]  # 41 users: five in the last batch, or none
KINDS = ("sasrec", "rqvae", "letter", "recbase tokenizer", "item-level", "recbase")
SHARDED = ("sasrec", "recbase")
TOKENIZERS = {  # k-means of the first batch, codes that start anew, and what is a function of a whole batch
    "rqvae": {"restart_passes": 2},
    "letter": {"collaborative_weight": 0.1, "collaborative_dim": 3, "diversity_weight": 0.01, "diversity_clusters": 2,
               "sinkhorn_epsilon": 0.05, "restart_passes": 2},
    "recbase tokenizer": {"curriculum_passes": 2, "restart_passes": 2, "entropy_weight": 0.1, "kl_weight": 1e-3},
}  # fmt: skip


def interactions():
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(NUM_ITEMS, size=NUM_USERS), rng.integers(5, 12, size=NUM_USERS)
    ids = [f"item{row}" for row in range(NUM_ITEMS)]
    walks = [[ids[(start + step) % NUM_ITEMS] for step in range(length)]
             for start, length in zip(starts, lengths, strict=True)]  # fmt: skip
    return Interactions.from_sequences(walks, ids)


def make_trainer(kind, folder, processes, accumulation, **changes):
    values = dict(num_train_epochs=2, max_steps=-1, optim="sgd", learning_rate=0.05, max_grad_norm=1e9, seed=7)
    values |= dict(lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, save_strategy="no", use_cpu=True)
    values |= dict(per_device_train_batch_size=GLOBAL_BATCH // processes, gradient_accumulation_steps=accumulation)
    values |= dict(disable_tqdm=True, report_to="none", dataloader_pin_memory=False, weight_decay=0.0)
    values |= changes
    set_seed(0)
    sequential = dict(num_items=NUM_ITEMS, hidden_size=16, num_layers=1, max_history=5)
    sequential |= dict(hidden_dropout=0.0, attention_dropout=0.0)
    if kind == "sasrec":
        args = SequentialTrainingArguments(str(folder), eval_strategy="no", **values)
        return SequentialTrainer(SASRecForNextItem(SASRecConfig(**sequential)), args, interactions().training_part())
    if kind in TOKENIZERS:
        sizes = dict(input_dim=8, hidden_sizes=[8], codebook_dim=4, num_levels=2, codebook_size=6, **TOKENIZERS[kind])
        is_recbase = kind == "recbase tokenizer"
        network = RecBaseTokenizerModel(RecBaseTokenizerConfig(**sizes)) if is_recbase else None
        network = network or RQVAEModel(RQVAEConfig(**sizes))
        rng = np.random.default_rng(1)
        matrices = [rng.normal(size=(NUM_USERS, width)).astype(np.float32) for width in (8, 3)]
        rows = EmbeddingRows(*matrices[: 2 if kind == "letter" else 1])
        return EmbeddingTokenizerTrainer(network, EmbeddingTokenizerTrainingArguments(str(folder), **values), rows)
    small = dict(hidden_size=16, intermediate_size=16, head_dim=8, num_attention_heads=2, level_sizes=SIZES)
    if kind == "recbase":
        model = RecBaseForCausalLM(RecBaseConfig.tiny(**small))
    else:
        small = dict(hidden_size=16, num_layers=1, num_heads=2, level_sizes=SIZES, max_history=5)
        model = ItemLevelForCausalLM(ItemLevelConfig(**small, hidden_dropout=0.0, attention_dropout=0.0))
    data = interactions()
    index = ItemIndex(SIZES, model.config.level_offsets)
    codes = np.random.default_rng(0).permutation(6**3)[:NUM_ITEMS]
    index.assign(data.item_ids, np.stack(np.unravel_index(codes, SIZES), axis=1))
    table = EvaluationData(data, index).token_table
    args = RecommenderTrainingArguments(str(folder), eval_strategy="no", max_history=5, horizon=1, **values)
    return RecommenderTrainer(model, args, TrainingData(data.training_part(), table))


def trained(kind, folder, processes, accumulation):
    trainer = make_trainer(kind, folder, processes, accumulation)
    trainer.train()
    return logs_of(trainer), state_of(trainer, kind)


def logs_of(trainer):
    """Losses with their parts, and the use of codes."""
    return [
        {name: value for name, value in entry.items() if name.startswith(("loss", "codes/"))}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def state_of(trainer, kind):
    state = trainer.model.state_dict() if kind in TOKENIZERS else dict(trainer.model.named_parameters())
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_train_as_one(run_two_processes, tmp_path, monkeypatch, processes, accumulation):
    monkeypatch.setenv("PROCESSES", str(processes))
    run_two_processes(__file__, tmp_path, str(processes), str(accumulation))
    for kind in KINDS:
        logs, weights = trained(kind, tmp_path / "single", 1, accumulation)
        assert len(logs) >= 4 and (kind not in TOKENIZERS or weights["restarts"] > 0)
        for rank in range(processes):
            report = json.loads((tmp_path / f"{kind}{rank}.json").read_text())
            for found, entry in zip(report, logs, strict=True):
                assert found == pytest.approx(entry, rel=1e-4, abs=2e-5), kind  # parts are rounded to 1e-5
            found = torch.load(tmp_path / f"{kind}{rank}.pt", weights_only=True)
            for name, weight in weights.items():
                torch.testing.assert_close(
                    found[name], weight, rtol=1e-4, atol=1e-6, msg=lambda text, k=kind, n=name: f"{k} {n}: {text}"
                )


@pytest.mark.parametrize("stage", [2, 3])
def test_processes_that_share_out_a_training_by_zero_train_and_resume_as_one(
    run_two_processes, tmp_path, monkeypatch, stage
):
    """DeepSpeed's ZeRO: gradients and optimizer are in parts, and with stage 3 the weights. What is saved is whole."""
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    run_two_processes(__file__, tmp_path, "zero", str(stage))
    for kind in SHARDED:
        single = make_trainer(kind, tmp_path / "single", 1, 1)
        single.train()
        logs = json.loads((tmp_path / f"{kind}.json").read_text())
        for found, entry in zip(logs, logs_of(single), strict=True):
            assert found["loss"] == pytest.approx(entry["loss"], rel=1e-4), kind
        for name in ("whole", "resumed"):
            saved = type(single.model).from_pretrained(tmp_path / f"{kind}-{name}").state_dict()
            for key, weight in single.model.state_dict().items():
                torch.testing.assert_close(
                    saved[key], weight, rtol=1e-4, atol=1e-6, msg=lambda text, k=key: f"{k}: {text}"
                )


def run_zero(folder: Path, stage: int) -> None:
    zero = {"stage": stage, "overlap_comm": False, "stage3_gather_16bit_weights_on_model_save": stage == 3}
    config = {"zero_optimization": zero, "zero_allow_untested_optimizer": True}
    config |= dict.fromkeys(
        ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto"
    )
    for kind in SHARDED:
        for name in ("whole", "resumed"):
            saving = {"save_strategy": "steps", "save_steps": 4, "deepspeed": config}
            trainer = make_trainer(kind, folder / f"{kind}-{name}-training", 2, 1, **saving)
            trainer.train(str(folder / f"{kind}-whole-training" / "checkpoint-4") if name == "resumed" else None)
            trainer.save_model(str(folder / f"{kind}-{name}"))
            if name == "whole" and trainer.is_world_process_zero():
                (folder / f"{kind}.json").write_text(json.dumps(logs_of(trainer)))


def test_weights_in_shards_are_saved_and_loaded_whole(run_two_processes, tmp_path):
    """torch's FSDP2, whose shards a CPU has, too: a model in shards computes what it did, what is saved of it loads as
    it was, and is put into shards again."""
    run_two_processes(__file__, tmp_path, "shards", "")
    for kind in KINDS:
        model = make_trainer(kind, tmp_path, 1, 1).model
        found = type(model).from_pretrained(tmp_path / kind).state_dict()
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items()), kind


def run_shards(folder: Path) -> None:
    from torch.distributed.checkpoint import state_dict as states
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    whole = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    for kind in KINDS:
        trainer = make_trainer(kind, folder / "training", 2, 1)
        model = trainer.model.eval()
        batch = {name: values[:2] for name, values in next(iter(trainer.get_train_dataloader())).items()}
        with torch.no_grad():
            expected = model(**batch).loss
            before = {name: value.clone() for name, value in model.state_dict().items()}
            fully_shard(model, mesh=mesh)
            torch.testing.assert_close(model(**batch).loss, expected)
        weights = states.get_model_state_dict(model, options=whole)
        if trainer.is_world_process_zero():
            model.save_pretrained(folder / kind, state_dict=weights)
        torch.distributed.barrier()
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
        states.set_model_state_dict(model, type(model).from_pretrained(folder / kind).state_dict(), options=whole)
        for name, value in states.get_model_state_dict(model, options=states.StateDictOptions()).items():
            found = value.full_tensor() if hasattr(value, "full_tensor") else value
            assert torch.equal(found, before[name]), (kind, name)


def run_worker(folder: str, processes: str, accumulation: str) -> None:
    from accelerate import PartialState

    PartialState(cpu=True)
    if processes in ("zero", "shards"):
        run_zero(Path(folder), int(accumulation)) if processes == "zero" else run_shards(Path(folder))
        torch.distributed.barrier()
        return
    rank = PartialState(cpu=True).process_index
    step = {"1": 5, "2": 3}[accumulation]  # in the middle of an epoch
    saving = {"save_strategy": "steps", "save_steps": step, "save_total_limit": 9}
    for kind in KINDS:
        output = Path(folder) / f"{kind}-together"
        trainer = make_trainer(kind, output, int(processes), int(accumulation), **saving)
        trainer.train()
        logs, weights = logs_of(trainer), state_of(trainer, kind)
        torch.save(weights, Path(folder) / f"{kind}{rank}.pt")
        (Path(folder) / f"{kind}{rank}.json").write_text(json.dumps(logs))
        resumed = make_trainer(kind, Path(folder) / f"{kind}-resumed", int(processes), int(accumulation))
        resumed.train(str(output / f"checkpoint-{step}"))
        assert [entry["loss"] for entry in logs_of(resumed)] == [entry["loss"] for entry in logs], kind
        different = [name for name, value in state_of(resumed, kind).items() if not torch.equal(value, weights[name])]
        assert not different, (kind, different)
    torch.distributed.barrier()
