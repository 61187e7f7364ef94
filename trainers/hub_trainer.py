"""The Trainer that all others are: cards of the training, pushes without pickles, checkpoints that are whole, and
resuming from them, also from the Hub."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.state import AcceleratorState
from huggingface_hub import CommitInfo, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainingArguments,
)
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    HubStrategy,
    IntervalStrategy,
    SaveStrategy,
    TrainOutput,
    rotate_checkpoints,
)
from transformers.utils import PushInProgress, logging

from hub_cards import CARD_FILE, ModelCardValues, is_repository, save_card
from hub_cards.files import naming_the_file
from hub_cards.formatting import plain
from modeling_utgrec.checkpoint_fingerprint import check_folder
from modeling_utgrec.checkpoint_safety import only_safetensors
from trainers.hub.model_facts import codebook_rows, hardware, hyperparameters, last_entry, method_of, versions
from trainers.hub.upload import ALLOWED, LEFT_OUT, published_files, send_folder
from trainers.runtime.callbacks import BeginningCallback
from trainers.runtime.checkpoints import (
    LAST_CHECKPOINT,
    CheckpointError,
    describe,
    find_faults,
    hub_checkpoint,
    newest_checkpoint,
    resumes_partially,
    step_of,
    write_record,
)
from trainers.runtime.processes import is_on_cpu
from trainers.runtime.progress import LogBar, LogLines
from trainers.runtime.trainer_arguments import CHECKPOINTING, check_last_batch, check_optimization, refuse

logger = logging.get_logger(__name__)


@dataclass
class HubTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`] of a [`HubTrainer`].

    Args:
        allow_partial_resume (`bool`, *optional*, defaults to `False`): go on from a checkpoint whose state of
            optimizer, learning rate or random numbers is missing or damaged, with other results than those of an
            uninterrupted training; else that is an error.

    Raises:
        ValueError: an argument of transformers that this training cannot honour, see
            [`trainers.runtime.trainer_arguments`].
    """

    allow_partial_resume: bool = field(
        default=False,
        metadata={"help": "Resume though the state of optimizer, schedule or random numbers is missing or damaged."},
    )

    refused: ClassVar[Mapping[str, str]] = {}  # further arguments that the Trainer cannot honour, and why

    def __post_init__(self):
        refuse(self, self.refused)
        if is_on_cpu() and (self.bf16 or int(os.environ.get("WORLD_SIZE", 1)) > 1):
            self.use_cpu = True  # which transformers wants to be told; processes would not find each other
        super().__post_init__()
        if (self.use_cpu or is_on_cpu()) and (self.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
            raise ValueError(
                "fsdp has no effect on a CPU, where processes train with DDP: leave it out, of the launcher's "
                "configuration, too."
            )
        check_optimization(self)


class HubTrainer(Trainer):
    """
    A [`~transformers.Trainer`] that is at home on the Hub.

    Every save writes a card beside the weights, from what was measured so far: `README.md`, its pictures, and
    `card_values.json` with every number in full. Changes that people make to the card in `output_dir`, or on the Hub
    before the training starts, are kept (see [`hub_cards.edits`]). `push_to_hub`, `hub_model_id`, `hub_strategy` and
    the other `hub_*` arguments mean what they mean in transformers, but for pickles: `training_args.bin`, which would
    hold an access token if one was given, is neither kept nor sent.

    A checkpoint is written beside its place and renamed when it is complete, with a record of its files by which it is
    checked before a training goes on from it (see [`trainers.runtime.checkpoints`]). A loss that is not finite ends a
    training.

    `train(resume_from_checkpoint="org/name")` takes up a training where a push with `hub_strategy="checkpoint"` or
    `"all_checkpoints"` left it. Its weights must be safetensors. The state of optimizer and random numbers is in
    torch's own format, which is read by a loader that makes nothing but tensors and plain values.

    Attributes:
        card_facts (`dict`): what the card says that a training does not know, by the names of
            [`~hub_cards.ModelCardValues`]: `license`, `training_data`, `evaluations`, ...
    """

    model: PreTrainedModel
    # transformers gives them the type of their first value, None
    hub_model_id: str | None  # type: ignore[assignment]
    push_in_progress: PushInProgress | None  # type: ignore[assignment]
    card_class: type[ModelCardValues] = ModelCardValues

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._staging: Path | None = None  # where a checkpoint is being written
        self._lost: dict[str, str] = {}  # faults of the checkpoint that the training goes on from
        self.card_facts: dict[str, Any] = {}
        self._best_is_loaded = False
        self._was_stopped = False  # early, before the checkpoint that the training goes on from
        self._resumed_from: str | None = None
        self._random_goes_on = False  # what the checkpoint has of random numbers was loaded, and some were drawn
        self._seconds_before: float | None = None
        self._began: float | None = None
        super().__init__(*args, **kwargs)
        if not self.model.supports_gradient_checkpointing:
            refuse(self.args, CHECKPOINTING)
        for shown, lines in ((PrinterCallback, LogLines), (ProgressCallback, LogBar)):
            if self.pop_callback(shown) is not None:
                self.add_callback(lines)
        self.add_callback(BeginningCallback(self._end_epoch))

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers' method. A training has its own precision: accelerate keeps that of a process' first one and
        refuses another, such as fp32 for a recommender after bf16 for a backbone, and has no public way to forget."""
        AcceleratorState._reset_state()
        super().create_accelerator_and_postprocess()

    @property
    def output_folder(self) -> Path:
        """`args.output_dir` as a path."""
        assert self.args.output_dir is not None  # which has a default
        return Path(self.args.output_dir)

    @property
    def epoch_examples(self) -> int:
        """Examples of an epoch; 0 if those of a last, smaller batch are left out of it."""
        assert isinstance(self.train_dataset, Sized)
        return 0 if self.args.dataloader_drop_last else len(self.train_dataset)

    def card_values(self) -> ModelCardValues:
        """What the card says: what was measured, and `card_facts`."""
        config, logs = self.model.config, self.state.log_history
        name = getattr(config, "backbone_name_or_path", None)
        seconds = last_entry(logs, "train_seconds")
        measured: dict[str, Any] = {
            "name": (self.args.hub_model_id or self.output_folder.name).rpartition("/")[2],
            "repo_id": self.hub_model_id,
            "method": method_of(config),
            "base_model": name if name and "/" in name and is_repository(name) and not Path(name).exists() else None,
            "num_parameters": self.model.num_parameters() or None,
            "hyperparameters": hyperparameters(self.args, config, self.state.train_batch_size),
            "versions": versions(),
            "hardware": hardware(self.args),
            "training_seconds": seconds["train_seconds"] if seconds else None,
            "logs": [plain(entry) for entry in logs],
        }
        if hasattr(config, "level_sizes"):
            measured |= {"level_sizes": list(config.level_sizes), "codebooks": codebook_rows(logs, config.level_sizes)}
        return replace(self.card_class(**measured), **self.card_facts)

    def save_card(self, folder: str | os.PathLike | None = None) -> None:
        """Writes the card of the training so far to a folder, by default `output_dir`. A card that cannot be written
        is no reason to stop a training: a warning says why."""
        folder = self.output_folder if folder is None else Path(folder)
        try:
            # Of checkpoints, only those that are pushed get pictures: the others' cards are not read.
            draw = self.args.push_to_hub or step_of(folder.name) is None
            save_card(folder, self.card_values(), old=self.output_folder, draw=draw)
        except ValueError as error:
            logger.warning(f"{folder}: the card was not written. {error}")

    def create_model_card(  # type: ignore[override]  # without what this card has no place for
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset_tags: str | list[str] | None = None,
    ) -> None:
        """Writes the card to `output_dir`; a push calls this. Arguments are as transformers' and become `card_facts`,
        but for a name that is there."""
        if not self.is_world_process_zero():
            return
        given: dict[str, Any] = {"language": language, "license": license, "tags": _list(tags)}
        given |= {"name": model_name, "base_model": finetuned_from, "datasets": _list(dataset_tags)}
        if "name" in self.card_facts:
            del given["name"]
        self.card_facts |= {name: value for name, value in given.items() if value}
        self.save_card()

    def push_folder(
        self,
        folder: str | os.PathLike,
        commit_message: str = "End of training",
        network: Mapping[str, str] | None = None,
    ) -> CommitInfo:
        """
        Sends a finished folder to the training's repository, which is made if need be.

        Args:
            folder, network: see [`~trainers.hub.upload.send_folder`].
            commit_message (`str`, *optional*, defaults to `"End of training"`): of the commit.

        Raises:
            PublishingError: if the folder holds what must not be published.
        """
        if self.hub_model_id is None:
            self.init_hf_repo()
        assert self.hub_model_id is not None
        self._finish_current_push()
        args = self.args
        return send_folder(
            folder,
            self.hub_model_id,
            commit_message,
            revision=args.hub_revision,
            token=args.hub_token,
            network=network,
        )

    def init_hf_repo(self, token: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().init_hf_repo(token, *args, **kwargs)  # `private` is of transformers 5.17 and later
        card = self.output_folder / CARD_FILE
        if not self.is_world_process_zero() or card.exists():
            return
        try:  # sections that users edited there are kept
            token = token or self.args.hub_token
            assert self.hub_model_id is not None
            found = hf_hub_download(self.hub_model_id, CARD_FILE, revision=self.args.hub_revision, token=token)
        except HfHubHTTPError:  # neither a card nor the branch
            return
        card.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, card)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers' method.

        Raises:
            FloatingPointError: if an evaluation gave a number that is not finite.
        """
        broken = [name for name, value in logs.items() if name.startswith("eval_") and not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"Not finite at step {self.state.global_step}: {', '.join(broken)}. The training diverged: lower the "
                "learning rate."
            )
        if "train_loss" in logs and not self._made_steps:  # resumed at its end: 0 is the mean of no loss
            del logs["train_loss"]
        if self._began is not None:
            if self._seconds_before is None:  # those of the training that was resumed
                earlier = last_entry(self.state.log_history, "train_seconds")
                self._seconds_before = earlier["train_seconds"] if earlier else 0.0
            logs["train_seconds"] = round(self._seconds_before + time.perf_counter() - self._began, 2)
        super().log(logs, start_time)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As [`~transformers.Trainer.train`]; `resume_from_checkpoint` may also be a repository of the Hub. `True` is
        the newest whole checkpoint in `output_dir`. Without it the argument of that name holds.

        Raises:
            CheckpointError: the checkpoint is not whole; see `allow_partial_resume` of [`HubTrainingArguments`].
            FloatingPointError: the loss is not finite.
            ValueError: the checkpoint is neither a folder nor a repository with one, or its weights are pickles.
        """
        if self.args.should_save:
            for path in self.output_folder.glob(f".{PREFIX_CHECKPOINT_DIR}-*.unfinished"):  # of a run that was killed
                shutil.rmtree(path, ignore_errors=True)
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        if resume_from_checkpoint is True:
            newest = newest_checkpoint(self.output_folder, self.args.world_size, self._allows_partial)
            if newest is None:
                raise ValueError(f"{self.output_folder} holds no checkpoint to resume from.")
            resume_from_checkpoint = str(newest)
        if isinstance(resume_from_checkpoint, str) and not Path(resume_from_checkpoint).is_dir():
            with self.args.main_process_first(desc="download of the checkpoint"):
                resume_from_checkpoint = hub_checkpoint(
                    resume_from_checkpoint,
                    self.args.hub_revision,
                    self.args.hub_token,
                    self.args.world_size,
                    self._allows_partial,
                )
        self._lost = self._accepted_faults(resume_from_checkpoint) if resume_from_checkpoint else {}
        if isinstance(self.train_dataset, Sized):
            check_last_batch(self.args, len(self.train_dataset))
        self._was_stopped, self._made_steps = False, False
        self._resumed_from, self._random_goes_on = resume_from_checkpoint or None, False
        self._best_is_loaded, self._seconds_before, self._began = False, None, time.perf_counter()
        try:
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._began = None
        if resume_from_checkpoint and not self._made_steps:  # what comes now, as an evaluation, may draw
            self._load_rng_state(resume_from_checkpoint)
        self._rotate(self._get_output_dir(trial))  # which a kill may have cut off
        return output

    @property
    def seconds_before(self) -> float:
        """Seconds of the training that this one went on from; 0 if it began anew."""
        return self._seconds_before or 0.0

    @property
    def _allows_partial(self) -> bool:
        return getattr(self.args, "allow_partial_resume", False)

    def _accepted_faults(self, checkpoint: str) -> dict[str, str]:
        """What a checkpoint lacks, if the training may go on without it."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # which have formats of their own
            only_safetensors(checkpoint, {})
        faults = find_faults(checkpoint, self.args.world_size)
        if not faults:
            return {}
        if not (self._allows_partial and resumes_partially(faults)):
            raise CheckpointError(
                f"{checkpoint} is not whole: {describe(faults)}. "
                + (
                    "With allow_partial_resume the training goes on without it, and gives other results."
                    if resumes_partially(faults)
                    else "Resume from another one."
                )
            )
        logger.warning(
            f"{checkpoint} IS NOT WHOLE: {describe(faults)}. The training goes on without it, from the weights, and "
            "its results will differ from those of a training that was not interrupted."
        )
        return faults

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not {OPTIMIZER_NAME, SCHEDULER_NAME} & self._lost.keys():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if SCALER_NAME not in self._lost:
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if not self._random_goes_on and not any(name.startswith("rng_state") for name in self._lost):
            super()._load_rng_state(checkpoint)

    def _end_epoch(self) -> TrainerControl:
        """What came after the checkpoint of an epoch's last step, the evaluation at the epoch's end: transformers goes
        on with the next epoch."""
        state, epoch = self.state, self.state.epoch
        if not (self._resumed_from and self.args.eval_strategy == IntervalStrategy.EPOCH and epoch):
            return self.control
        last = [name for entry in state.log_history if entry["step"] == state.global_step for name in entry]
        is_at_an_end = epoch.is_integer() or state.global_step >= state.max_steps
        if not is_at_an_end or any(name.startswith("eval_") for name in last):
            return self.control
        self._load_rng_state(self._resumed_from)
        self._random_goes_on = True
        state.epoch = math.ceil(epoch) - 1.0  # where it began: data sets that draw by epoch are told which one ends
        self.control = self.callback_handler.on_epoch_begin(self.args, state, self.control)
        state.epoch = epoch
        self.control = self.callback_handler.on_epoch_end(self.args, state, self.control)
        if self.control.should_evaluate:  # not before eval_delay
            self._determine_best_metric(self._evaluate(None, None), None)
        return self.control

    def _evaluate(self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False) -> Any:
        """As transformers' method, but for `eval_on_start` of a training that goes on: early stopping would count one
        more evaluation without a better one."""
        if skip_scheduler and self._resumed_from:  # transformers says so at the start alone
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _load_callback_state(self) -> None:
        """As transformers' method; the evaluations without a better one that early stopping has counted go on, too,
        and the best checkpoint is known where the folder is now."""
        super()._load_callback_state()
        best = self.output_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        recorded = self.state.best_model_checkpoint  # transformers 5.16 keeps one that is gone
        if best.is_dir() and (recorded is None or not Path(recorded).is_dir()):
            self.state.best_model_checkpoint = str(best)
        states: Any = self.state.stateful_callbacks or {}  # by the callbacks' names, when it was read
        stored = states.get(EarlyStoppingCallback.__name__)
        stored = stored[-1] if isinstance(stored, list) and stored else stored
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and isinstance(stored, dict):
                counted = stored.get("attributes", {}).get("early_stopping_patience_counter", 0)
                callback.early_stopping_patience_counter = counted
                self._was_stopped |= counted >= callback.early_stopping_patience

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As transformers' method, but not if a training is resumed that had come to its end: it would go on for a
        step, or until it is stopped early for a second time."""
        is_over = self.state.global_step >= self.state.max_steps or self._was_stopped
        if is_over or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As transformers' method, of weights that are missing indeed: of those that are tied a checkpoint has one,
        which is in the others' place when it is loaded."""
        missing, tied = set(load_result.missing_keys), self.model.all_tied_weights_keys
        while found := {name for name in missing if name in tied and tied[name] not in missing}:
            missing -= found
        kept = [name for name in load_result.missing_keys if name in missing]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=kept))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            check_folder(self.state.best_model_checkpoint)
        super()._load_best_model()
        self._best_is_loaded = True

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        self._made_steps = True
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[arg-type]  # takes an int, too
        if not torch.isfinite(loss).all():  # transformers would log a mean without it
            raise FloatingPointError(
                f"Not finite at step {self.state.global_step + 1}: {', '.join(self._broken_parts())}. Lower the "
                "learning rate, or use bf16 instead of fp16; checkpoints before this step are unharmed."
            )
        return loss

    def _broken_parts(self) -> list[str]:
        """What of the loss is not finite."""
        return ["the loss"]

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As transformers' method, into a hidden folder that is renamed when every process has written its part."""
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = folder / f".{name}.unfinished"
        self._staging = staging
        try:
            with naming_the_file(staging):
                super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        # Judged just now, or after it was saved: transformers looked for it beside this one, which lies elsewhere yet.
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_model_checkpoint == str(staging / name) or (folder / best).is_dir():
            self.state.best_model_checkpoint = str(folder / best)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            write_record(staging / name)
            if (folder / name).exists():  # a damaged one, which this training did not go on from
                (folder / name).rename(staging / "replaced")
            (staging / name).rename(folder / name)
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and (staging / name).is_dir():  # on another machine's disk
            (folder / name).mkdir(exist_ok=True)
            for path in (staging / name).iterdir():
                path.rename(folder / name / path.name)
            shutil.rmtree(staging, ignore_errors=True)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder / name))
        self._rotate(str(folder))

    def _rotate(self, folder: str) -> None:
        """Removes checkpoints above `save_total_limit`."""
        if self.args.should_save and Path(folder).is_dir():
            rotate_checkpoints(
                output_dir=folder,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        token, self.args.hub_token = self.args.hub_token, None  # transformers writes the arguments as a pickle
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if self.args.should_save:
            folder = Path(output_dir or self.output_folder)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self.save_card(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As transformers' method, with all that a checkpoint holds (card, item index, processor) and no pickles but
        the state that a resumed training needs."""
        if self._staging is not None:  # sent when it is complete
            return
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        whole = self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if whole and self.args.save_total_limit is not None:
                self._finish_current_push()  # the checkpoint that is being sent may be deleted next
            elif not self.args.hub_always_push:
                return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder, output = Path(checkpoint_folder), self.output_folder
        for name in published_files(folder):
            if name != TRAINER_STATE_NAME:  # which names folders of this machine; the card has its numbers
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, output / name)
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        place = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch)}"
        message = f"Training in progress, {place}"
        push = partial(
            HfApi().upload_folder,
            repo_id=self.hub_model_id,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        jobs = [push(folder_path=output, commit_message=message, allow_patterns=ALLOWED, ignore_patterns=[*LEFT_OUT])]
        if whole:
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                push(
                    folder_path=folder,
                    path_in_repo=LAST_CHECKPOINT if last else folder.name,
                    commit_message=f"{message}, checkpoint",
                    ignore_patterns=[TRAINING_ARGS_NAME],
                )
            )
        if self.push_in_progress is None or self.push_in_progress.is_done():
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]  # takes a list, too
        else:
            self.push_in_progress.jobs.extend(jobs)  # type: ignore[union-attr]  # is always one


def _list(values: str | list[str] | None) -> list[str] | None:
    return [values] if isinstance(values, str) else values
