"""`run.yaml`, which a command leaves in its output folder: what it was told, as `--config` reads it."""

from __future__ import annotations

import tempfile
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from hub_cards import write_text

RUN_FILE = "run.yaml"
OF_ONE_CALL = {"output_dir", "resume", "allow_partial_resume", "overwrite", "dry_run"}  # not of what it makes
PLACED = {"output_dir", "seed", "dataloader_pin_memory"}  # of a training: follow from the command's own flags
SECRET = {"hub_token"}


def run_values(arguments: Any, **sections: tuple[Any, ...]) -> dict[str, Any]:
    """
    The values of a command's arguments as a YAML file has them. To be called before a run changes any.

    Every value is there whose default this project chose, whatever it will be one day; of those that have
    transformers' defaults, those that differ. What is None is left out, and so are access tokens.

    Args:
        arguments: the dataclass of the flags without prefix.
        sections: the dataclasses of each section, by its name.
    """
    values = {name: each for name, each in _plain_fields(arguments).items() if name not in OF_ONE_CALL}
    for name, classes in sections.items():
        values[name] = {key: value for each in classes for key, value in _plain_fields(each).items()}
    return values


def write_run_file(folder: str | Path, command: str, values: dict[str, Any]) -> None:
    """
    Writes [`RUN_FILE`] to the output folder of a command.

    Args:
        folder (`str` or `Path`): the folder.
        command (`str`): the command's name.
        values (`dict`): of [`run_values`].
    """
    head = f"# All that this run was told. Again: utgrec {command} --config {RUN_FILE} --output_dir <another folder>\n"
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    write_text(Path(folder) / RUN_FILE, head + text)


def read_run_file(folder: str | Path) -> dict[str, Any]:
    """What [`write_run_file`] has written to a folder; nothing where there is no such file, or a broken one."""
    try:
        values = yaml.safe_load((Path(folder) / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _plain_fields(arguments: Any) -> dict[str, Any]:
    from transformers import TrainingArguments

    left_out, usual = SECRET, {}
    if isinstance(arguments, TrainingArguments):
        left_out = SECRET | PLACED
        with tempfile.TemporaryDirectory() as folder:
            made = TrainingArguments(folder, use_cpu=arguments.use_cpu)
        defaults = {each.name: each.default for each in fields(TrainingArguments)}
        # those that have transformers' default in our class too
        usual = {
            each.name: getattr(made, each.name)
            for each in fields(arguments)
            if each.name in defaults and each.default == defaults[each.name] and each.name != "use_cpu"
        }
    found = {}
    for each in fields(arguments):
        value = getattr(arguments, each.name)
        is_usual = each.name in usual and usual[each.name] == value
        if each.init and each.name not in left_out and value is not None and not is_usual:
            found[each.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value
