"""Training on two nodes: two launchers of torchrun on this machine, each with two processes. A recommender that reads
one corpus, an item tokenizer, and a sequential model train as one process does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer, set_seed

from modeling_utgrec import (
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from tokenization_items.catalogue import Catalogue
from tokenization_items.processing_items import ItemProcessor
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.interactions import Interactions
from trainers.item_tokenizer_trainer import ItemTokenizerTrainer, ItemTokenizerTrainingArguments
from trainers.methods.backbones import tiny_backbone
from trainers.recommender_trainer import RecommenderTrainer, RecommenderTrainingArguments
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments
from trainers.training_data.corpus import CORPUS, ITEM_ROWS, OFFSETS, SequenceCorpus
from trainers.training_data.item_pairs import ItemPairs
from trainers.training_data.streamed_windows import StreamedData

NODES, PROCESSES, GLOBAL_BATCH, STEPS = 2, 2, 32, 7
CODES, ITEMS, SEQUENCES = 6, 20, (60, 15)


def write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, sum(SEQUENCES))
    rng.integers(0, ITEMS, lengths.sum()).astype(np.int32).tofile(folder / ITEM_ROWS)
    np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64).tofile(folder / OFFSETS)
    record = {"domains": ["a", "b"], "sequences": SEQUENCES, "items": [ITEMS, 0], "interactions": int(lengths.sum())}
    (folder / CORPUS).write_text(json.dumps(record))


USUAL = dict(
    learning_rate=0.1,
    optim="sgd",
    max_grad_norm=1e9,
    max_steps=STEPS,
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
    logging_steps=1,
    dataloader_pin_memory=False,
)


def make_recommender_trainer(corpus: Path, output: Path, batch: int) -> RecommenderTrainer:
    set_seed(0)
    sizes = dict(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_layers=1, num_decoder_layers=1)
    config = UTGRecConfig(root_codebook_size=CODES, leaf_codebook_size=CODES, dropout_rate=0.0, **sizes)
    codes = np.stack(np.unravel_index(np.random.default_rng(1).permutation(CODES**3)[:ITEMS], (CODES,) * 3), axis=1)
    table = codes + np.array([2, 2 + CODES, 2 + CODES])
    values = dict(per_device_train_batch_size=batch, max_history=5, domain_temperature=2.0, buffer_targets=64)
    args = RecommenderTrainingArguments(str(output), **values, **USUAL)
    data = StreamedData(SequenceCorpus.load(corpus), table)
    return RecommenderTrainer(UTGRecForConditionalGeneration(config), args, data)


def make_sequences(num_items: int) -> Interactions:
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, num_items, rng.integers(5, 9)) for _ in range(80)]
    ids = [f"i{row}" for row in range(num_items)]
    return Interactions.from_sequences([[ids[row] for row in user] for user in rows], ids)


def make_sequential_trainer(_: Path, output: Path, batch: int) -> SequentialTrainer:
    set_seed(0)
    sizes = dict(num_items=ITEMS, hidden_size=16, num_layers=1, max_history=5)
    model = SASRecForNextItem(SASRecConfig(**sizes, hidden_dropout=0.0, attention_dropout=0.0))
    args = SequentialTrainingArguments(str(output), per_device_train_batch_size=batch, **USUAL)
    return SequentialTrainer(model, args, make_sequences(ITEMS).training_part())


def make_tokenizer_trainer(_: Path, output: Path, batch: int) -> ItemTokenizerTrainer:
    set_seed(0)
    words = ["oak body", "steel string", "drum skin", "violin bow"]
    titles = [f"{words[row % 4]} number {row}" + " of the kind" * (row % 5) for row in range(2 * GLOBAL_BATCH)]
    catalogue = Catalogue.from_records([{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)])
    backbone, tokenizer, image_processor = tiny_backbone(catalogue.texts, 56 * 56, hidden_size=48, vocab_size=300)
    sizes = dict(root_codebook_size=6, leaf_codebook_size=8, codebook_dim=8, adapter_hidden_size=16)
    config = UTGRecTokenizerConfig(
        backbone_config=backbone.config,
        lora_config={"r": 2, "lora_alpha": 4, "lora_dropout": 0.0},
        **sizes,
        max_text_tokens=24,  # of which the titles have some more and some fewer
        warmup_steps=0,
        adapter_dropout=0.0,
        decoder_dropout=0.0,
        codebook_centering=True,  # by the mean over all processes
    )
    network = UTGRecTokenizerModel(config, backbone=backbone)
    processor = ItemProcessor.for_model(config, tokenizer, image_processor, instruct=False)
    graph = CoOccurrenceGraph.from_interactions(make_sequences(2 * GLOBAL_BATCH))
    args = ItemTokenizerTrainingArguments(
        str(output), per_device_train_batch_size=batch, **{**USUAL, "learning_rate": 0.01}
    )
    return ItemTokenizerTrainer(network, args, ItemPairs(catalogue, graph, processor, None, seed=5))


MAKERS: dict[str, Callable[[Path, Path, int], Trainer]] = {
    "recommender": make_recommender_trainer,
    "sasrec": make_sequential_trainer,
    "item tokenizer": make_tokenizer_trainer,
}


def losses_of(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", MAKERS)
def test_two_nodes_train_as_one_process(tmp_path, name):
    write_files(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    launchers = []
    for node in range(NODES):
        rendezvous = ["--nnodes", NODES, "--node_rank", node, "--master_addr", "127.0.0.1", "--master_port", port]
        command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, "--nproc_per_node", PROCESSES]
        command += [__file__, tmp_path, name]
        launchers.append(
            subprocess.Popen(
                [*map(str, command)], env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    said = [launcher.communicate(timeout=900)[0].decode() for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(said)[-6000:]
    reports = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(NODES * PROCESSES)]
    assert [report["node"] for report in reports] == [0, 0, 1, 1]
    assert all(report["world_size"] == 4 and report["local"] == 2 for report in reports)
    single = MAKERS[name](tmp_path, tmp_path / "single", GLOBAL_BATCH)
    single.train()
    assert reports[0]["losses"] == pytest.approx(losses_of(single), rel=1e-4) and len(losses_of(single)) == STEPS
    for rank in range(NODES * PROCESSES):
        for name, weight in torch.load(tmp_path / f"rank{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(weight, weights_of(single)[name], rtol=1e-4, atol=1e-6)


def run_worker(folder: Path, name: str) -> None:
    trainer = MAKERS[name](folder, folder / "nodes", GLOBAL_BATCH // (NODES * PROCESSES))
    trainer.train()
    rank = trainer.accelerator.process_index
    report = {
        "world_size": trainer.accelerator.num_processes,
        "local": int(os.environ["LOCAL_WORLD_SIZE"]),
        "node": int(os.environ["GROUP_RANK"]),
        "losses": losses_of(trainer),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    torch.save(weights_of(trainer), folder / f"rank{rank}.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]), sys.argv[2])
    os._exit(0)  # the threads of gloo sometimes keep the interpreter from ending
