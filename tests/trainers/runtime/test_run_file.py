"""`run.yaml`: what a run was told comes back from it, whatever the defaults are then."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import yaml

from trainers.arguments import parse_sections
from trainers.commands import finetune, finetune_recbase, pretrain, pretrain_recbase, train_baseline
from trainers.commands.embed import EmbedArguments
from trainers.methods.recbase import RECBASE_SECTIONS
from trainers.methods.utgrec import FINETUNING_SECTIONS, SECTIONS
from trainers.runtime.run_file import RUN_FILE, run_values, write_run_file

COMMANDS = {
    "finetune": (finetune.FinetuneArguments, FINETUNING_SECTIONS, []),
    "finetune-recbase": (finetune_recbase.FinetuneArguments, RECBASE_SECTIONS, []),
    "pretrain": (pretrain.PretrainArguments, SECTIONS, []),
    "pretrain-recbase": (pretrain_recbase.PretrainArguments, RECBASE_SECTIONS, []),
    "train-baseline": (
        train_baseline.TrainBaselineArguments,
        train_baseline.SECTIONS,
        ["--model", "sasrec", "--config", "baseline"],
    ),
}
GIVEN = {
    "tokenizer": ["--tokenizer.learning_rate", "3e-6", "--tokenizer.save_strategy", "no"],
    "recommender": ["--recommender.lr_scheduler_type", "linear", "--recommender.hub_token", "hf_secret"],
    "sequential": ["--sequential.own", "alpha=0.5", "--sequential.use_cpu"],
    "item_level": ["--item_level.logging_steps", "7"],
}


def split(parsed, sections):
    """`run_values` of what `parse_sections` gives."""
    main, *rest = parsed
    found = {}
    for name, classes in sections.items():
        found[name], rest = tuple(rest[: len(classes)]), rest[len(classes) :]
    return run_values(main, **found)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_comes_back(command, tmp_path):
    main, sections, argv = COMMANDS[command]
    argv = ["--data", "a folder", "--output_dir", str(tmp_path / "run"), "--seed", "7", *argv]
    for name in sections:
        argv += GIVEN[name]
    of_one_call = ["--resume", "--allow_partial_resume", "--overwrite", "--dry_run"]
    parsed = parse_sections(main, sections, "", [*argv, *of_one_call, "--license", "mit"])
    values = split(parsed, sections)
    assert values["seed"] == 7 and values["license"] == "mit"
    assert not {"output_dir", *(flag[2:] for flag in of_one_call)} & {*values}
    write_run_file(tmp_path, "x", values)
    text = (tmp_path / RUN_FILE).read_text()
    assert "hf_secret" not in text and text.startswith(
        "# All that this run was told. Again: utgrec x --config run.yaml"
    )
    again = parse_sections(main, sections, "", ["--config", str(tmp_path / RUN_FILE), "--output_dir", "again"])
    for flag in of_one_call:
        setattr(parsed[0], flag[2:], False)
    recommender = [each for each in parsed if getattr(each, "hub_token", None)]
    for each in recommender:
        each.hub_token = None
    for here, there in zip(parsed, again, strict=True):
        for each in dataclasses.fields(here):
            wanted, found = (getattr(side, each.name) for side in (here, there))
            assert wanted == found or each.name == "output_dir", each.name
    assert split(again, sections) == values


def test_values_stay_when_defaults_change(tmp_path):
    @dataclass
    class Now:
        width: int = field(default=8, metadata={"help": "Width."})
        fields: list[str] = field(default_factory=lambda: ["title"], metadata={"help": "Fields."})
        own: list[str] = field(default_factory=lambda: ["a"], metadata={"help": "Own."})
        name: str | None = field(default=None, metadata={"help": "Name."})

    @dataclass
    class Later(Now):
        width: int = field(default=16, metadata={"help": "Width."})
        fields: list[str] = field(default_factory=list, metadata={"help": "Fields."})

    write_run_file(tmp_path, "x", run_values(Now(own=[])))
    (later,) = parse_sections(Later, {}, "", ["--config", str(tmp_path / RUN_FILE)])
    assert (later.width, later.fields, later.own, later.name) == (8, ["title"], [], None)


def test_texts_that_yaml_reads_as_something_else(tmp_path):
    arguments = EmbedArguments("data", "no", "out: put", prefix="é: 1", introduction="Describe: ")
    write_run_file(tmp_path, "embed", run_values(arguments))
    assert (
        parse_sections(
            EmbedArguments, {}, "", ["--config", str(tmp_path / RUN_FILE), "--output_dir", arguments.output_dir]
        )[0]
        == arguments
    )
    assert yaml.safe_load((tmp_path / RUN_FILE).read_text())["prefix"] == "é: 1"
