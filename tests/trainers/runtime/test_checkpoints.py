"""Checkpoints are whole or not there, damage of any file is found, and a resumed training is the uninterrupted one."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, set_seed

from modeling_utgrec import SASRecConfig, SASRecForNextItem
from trainers.data.interactions import Interactions
from trainers.methods.runs import check_output, last_checkpoint
from trainers.runtime.checkpoints import (
    RECORD,
    CheckpointError,
    find_faults,
    newest_checkpoint,
    resumes_partially,
)
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

IDS = [f"item{row}" for row in range(10)]
STATE = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]
FILES = [*STATE, "model.safetensors", "trainer_state.json", "config.json"]


def make_trainer(folder, **changes):
    rng = np.random.default_rng(0)
    interactions = Interactions.from_sequences([[IDS[i] for i in rng.permutation(10)[:6]] for _ in range(24)], IDS)
    set_seed(0)
    model = SASRecForNextItem(SASRecConfig(num_items=10, hidden_size=8, num_heads=2, max_history=4))
    values = dict(max_steps=6, save_strategy="steps", save_steps=2, per_device_train_batch_size=8, seed=1)
    quiet = dict(use_cpu=True, disable_tqdm=True, logging_steps=1, dataloader_pin_memory=False, report_to="none")
    args = SequentialTrainingArguments(str(folder), **values | quiet | changes)
    evaluation = None if args.eval_strategy == "no" else interactions
    return SequentialTrainer(model, args, interactions.training_part(), evaluation)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training that was not interrupted: its folder and its last weights."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(folder)
    trainer.train()
    return folder, trainer.model.state_dict()


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {"flipped": flip, "cut": cut, "missing": lambda path: path.unlink()}


def same(weights, trainer):
    return all(torch.equal(tensor, weights[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_checkpoint_knows_its_files(folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {"checkpoint-2", "checkpoint-4", "checkpoint-6"} and not [n for n in names if n.startswith(".")]
    record = json.loads((folder / "checkpoint-6" / RECORD).read_text())["files"]
    assert {*record} >= {*FILES} and not {"README.md", "training_args.bin"} & {*record}
    assert find_faults(folder / "checkpoint-6") == {}
    (folder / "checkpoint-6" / "README.md").write_text("edited")
    assert newest_checkpoint(folder) == folder / "checkpoint-6"
    assert newest_checkpoint(folder / "nowhere") is None and newest_checkpoint(None) is None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_the_checkpoint_before_is_taken(folder, name, damage, caplog):
    DAMAGES[damage](folder / "checkpoint-6" / name)
    faults = find_faults(folder / "checkpoint-6")
    assert name in faults and resumes_partially(faults) == (name in STATE)
    logging.getLogger("transformers").propagate = True
    logging.getLogger("trainers").propagate = True
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(folder) == folder / "checkpoint-4"
    assert newest_checkpoint(folder, allow_partial=True) == folder / "checkpoint-4"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*STATE, "model.safetensors", "trainer_state.json"])
def test_damage_is_found_without_a_record_too(folder, name, damage):
    """As of checkpoints that an older release wrote; but for a flipped byte that leaves the state JSON, or that lies
    between the parts of an archive."""
    (folder / "checkpoint-6" / RECORD).unlink()
    assert find_faults(folder / "checkpoint-6") == {}
    DAMAGES[damage](folder / "checkpoint-6" / name)
    found = find_faults(folder / "checkpoint-6")
    assert name in found or (damage == "flipped" and name in ("trainer_state.json", "scheduler.pt"))


def test_a_resumed_training_is_the_uninterrupted_one(finished, folder):
    cut(folder / "checkpoint-6" / "optimizer.pt")
    shutil.rmtree(folder / "checkpoint-2")
    trainer = make_trainer(folder)
    trainer.train(resume_from_checkpoint=True)
    assert same(finished[1], trainer)
    assert find_faults(folder / "checkpoint-6") == {}  # written anew


def test_a_training_that_had_ended_does_not_go_on(finished, folder):
    """Not by a step, as when it was killed while its model was saved; but one that is to be longer does."""
    trainer = make_trainer(folder)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6 and same(finished[1], trainer)
    longer = make_trainer(folder, max_steps=8, lr_scheduler_type="constant")
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 8


def test_a_kill_before_the_oldest_is_removed(folder):
    trainer = make_trainer(folder, save_total_limit=2)
    trainer.train(resume_from_checkpoint=True)
    assert {path.name for path in folder.glob("*checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}


def test_early_stopping_goes_on_counting(tmp_path):
    """And the best weights are found where the folder is now."""
    settings = dict(eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True, learning_rate=1e-9)
    ends = {}
    for name in ("whole", "resumed"):
        trainer = make_trainer(tmp_path / name, **settings, max_steps=20)
        trainer.add_callback(EarlyStoppingCallback(3, early_stopping_threshold=10))
        trainer.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-3") if name == "resumed" else None)
        ends[name] = trainer.state.global_step
        if name == "whole":
            shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
            shutil.move(tmp_path / "whole", tmp_path / "moved")
    assert ends["whole"] == ends["resumed"] < 20
    trainer = make_trainer(tmp_path / "moved", **settings, max_steps=20)
    trainer.add_callback(EarlyStoppingCallback(3, early_stopping_threshold=10))
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == ends["whole"]
    assert trainer.state.best_model_checkpoint.startswith(str(tmp_path / "moved"))


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_lost_state_is_an_error_or_a_loud_warning(finished, folder, name, damage):
    DAMAGES[damage](folder / "checkpoint-4" / name)
    checkpoint = str(folder / "checkpoint-4")
    with pytest.raises(CheckpointError, match=rf"checkpoint-4 is not whole: {name}.*allow_partial_resume"):
        make_trainer(folder).train(resume_from_checkpoint=checkpoint)
    trainer = make_trainer(folder, allow_partial_resume=True)
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("trainers.hub_trainer").addHandler(handler)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        logging.getLogger("trainers.hub_trainer").removeHandler(handler)
    assert any("IS NOT WHOLE" in text and name in text for text in said)
    assert trainer.state.global_step == 6 and (name == "scheduler.pt" or not same(finished[1], trainer))


def test_lost_weights_are_an_error(folder):
    flip(folder / "checkpoint-4" / "model.safetensors")
    with pytest.raises(CheckpointError, match="Resume from another one"):
        make_trainer(folder, allow_partial_resume=True).train(resume_from_checkpoint=str(folder / "checkpoint-4"))


def test_none_whole(folder):
    for step in (2, 4, 6):
        (folder / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-6: .*checkpoint-2: .*--allow_partial_resume"):
        newest_checkpoint(folder)
    assert newest_checkpoint(folder, allow_partial=True) == folder / "checkpoint-6"
    args = SequentialTrainingArguments(str(folder), use_cpu=True, allow_partial_resume=True)
    assert last_checkpoint(args) == str(folder / "checkpoint-6")
    for step in (2, 4, 6):
        (folder / f"checkpoint-{step}" / "trainer_state.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint") as error:
        newest_checkpoint(folder, allow_partial=True)
    assert "allow_partial" not in str(error.value)


def test_another_number_of_processes(folder):
    assert set(find_faults(folder / "checkpoint-6", world_size=2)) == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.parametrize("place", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_kill_within_a_save_leaves_nothing_that_looks_whole(finished, tmp_path, monkeypatch, place):
    written = getattr(SequentialTrainer, place)

    def killed(self, folder):
        written(self, folder)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(SequentialTrainer, place, killed)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path).train()
    monkeypatch.undo()
    assert {path.name for path in tmp_path.glob("*checkpoint-*")} == {"checkpoint-2", ".checkpoint-4.unfinished"}
    trainer = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=last_checkpoint(trainer.args))
    assert same(finished[1], trainer)
    assert {path.name for path in tmp_path.glob("*checkpoint-*")} == {f"checkpoint-{step}" for step in (2, 4, 6)}


def test_the_best_checkpoint_is_named_where_it_is(tmp_path):
    best = dict(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, save_total_limit=2)
    trainer = make_trainer(tmp_path, **best)
    trainer.train()
    at = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(at) and at.is_dir()
    last = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert last["best_model_checkpoint"] == str(at)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {at.name, "checkpoint-6"}


def test_a_training_that_diverges_ends(tmp_path):
    with pytest.raises(FloatingPointError, match=r"Not finite at step \d: the loss"):
        make_trainer(tmp_path, learning_rate=1e20, save_steps=1, max_grad_norm=0).train()
    for path in tmp_path.glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in SASRecForNextItem.from_pretrained(path).state_dict().values())


def test_a_token_never_touches_the_disk(tmp_path, monkeypatch):
    tokens, save = [], torch.save

    def spy(value, *args, **kwargs):
        tokens.append(getattr(value, "hub_token", None))
        return save(value, *args, **kwargs)

    monkeypatch.setattr(torch, "save", spy)
    trainer = make_trainer(tmp_path, hub_token="hf_secret")
    trainer.save_model(str(tmp_path))
    assert tokens == [None] and trainer.args.hub_token == "hf_secret"
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


class Flags:
    def __init__(self, folder, **flags):
        self.output_dir, self.resume, self.overwrite, self.allow_partial_resume = str(folder), False, False, False
        self.dry_run = False
        vars(self).update(flags)


def test_what_an_output_folder_holds_is_not_replaced_unasked(folder):
    output, stages = folder.parent, [folder.name]
    check_output(Flags(output / "new"), ["recommender"], stages)
    with pytest.raises(SystemExit, match="--resume goes on from the last one"):
        check_output(Flags(output), ["recommender"], stages)
    check_output(Flags(output), ["recommender"], [])
    check_output(Flags(output, resume=True), ["recommender"], stages)
    (output / "recommender").mkdir()
    with pytest.raises(SystemExit, match="recommender is there, of a run that finished"):
        check_output(Flags(output), ["recommender"], stages)
    args = SequentialTrainingArguments(str(folder), use_cpu=True)
    check_output(Flags(output, resume=True, allow_partial_resume=True), ["recommender"], stages, [args])
    assert args.allow_partial_resume
    for wrong in ({"resume": True, "overwrite": True}, {"allow_partial_resume": True}):
        with pytest.raises(SystemExit):
            check_output(Flags(output, **wrong), [], [])
    check_output(Flags(output, overwrite=True), ["recommender"], stages)
    assert not folder.exists() and (output / "recommender").is_dir()  # until the new one is complete
