"""Command lines: plain flags, flags of a section (`--tokenizer.learning_rate 1e-4`), and a YAML file of defaults.

Light on purpose: transformers is imported when a command line is parsed, not before.
"""

import argparse
import difflib
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from trainers.runtime.log_levels import LEVELS, set_log_level

if TYPE_CHECKING:
    from transformers import HfArgumentParser

CONFIGS = Path(__file__).parent / "commands" / "configs"
WIDTH = 112  # columns of a help text
INDENT = 38  # where what a flag means begins

Classes = tuple[type, ...]


def parse_sections(
    main: type | Classes,
    sections: Mapping[str, Classes],
    description: str,
    argv: Sequence[str] | None = None,
    shown: Sequence[str] | None = None,
    default_config: str | None = None,
) -> tuple[Any, ...]:
    """Parses a command line into dataclasses.

    A YAML file given by `--config` sets defaults, a section's under the section's name; the command line wins.
    `--log_level` says which messages are shown, `--help` prints the flags that most people need, `--help-all` every
    one.

    Args:
        main (`type` or `tuple[type, ...]`): dataclass of the flags without prefix, or several.
        sections (`Mapping[str, Classes]`): dataclasses of each section; `{"tokenizer": (A, B)}` gives every field of A
            and B the flag `--tokenizer.<field>`.
        description (`str`): what the command is, shown by `--help`; its line breaks are kept.
        argv (`Sequence[str]`, *optional*): the command line, by default the program's.
        shown (`Sequence[str]`, *optional*): the flags that `--help` shows, such as `"data"` or `"tokenizer.backbone"`;
            by default all.
        default_config (`str`, *optional*): the packaged configuration that holds where no `--config` is given.

    Returns:
        An instance of `main`, or of each of its classes, then the instances of each section in order.

    Raises:
        SystemExit: on an unknown flag or key, or a value of a wrong type, which is named.
        ValueError: if a class refuses its values.
    """
    groups = {"": main if isinstance(main, tuple) else (main,), **sections}
    config_name, argv = take_flag("--config", sys.argv[1:] if argv is None else argv)
    config_name = default_config if config_name is None else config_name
    config = read_config(config_name) if config_name is not None else {}
    level, argv = take_flag("--log_level", argv)
    flags: dict[str, list[str]] = {name: [] for name in groups}
    target = flags[""]
    for argument in argv:
        if argument.startswith("--"):
            section, dot, name = argument[2:].partition(".")
            is_section = bool(dot) and section in sections
            target = flags[section if is_section else ""]
            argument = f"--{name}" if is_section else argument
        target.append(argument)
    if {"-h", "--help", "--help-all"} & set(flags[""]):
        print(format_help(groups, description, None if "--help-all" in flags[""] else shown))
        raise SystemExit(0)
    if level is not None:
        try:
            set_log_level(level)
        except ValueError as error:
            raise SystemExit(f"--log_level: {error}") from error

    values = {"": {key: value for key, value in config.items() if key not in sections}}
    values |= {name: config.get(name) or {} for name in sections}
    parsed: list[Any] = []
    for name in groups:
        if not isinstance(values[name], dict):
            raise SystemExit(f"{name} in the configuration file: expected keys with values, found {values[name]!r}.")
        parsed += _parse(name, groups, values[name], flags[name])
    return tuple(parsed)


def take_flag(flag: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of one flag, the last if it is given twice, and the command line without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value")
    found, rest = parser.parse_known_args(list(argv))
    return found.value, rest


def first_words(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The command line with its first words, which name no flag, as the values of these flags in their order."""
    argv, left = list(argv), list(flags)
    found: list[str] = []
    while argv and left and not argv[0].startswith("-"):
        found += [left.pop(0), argv.pop(0)]
    return [*found, *argv]


def read_config(name: str) -> dict[str, Any]:
    """The values of a YAML file, given by its path or the name of a packaged one (see `find_config`).

    Raises:
        SystemExit: if it cannot be read, or holds no keys with values.
    """
    path = find_config(name)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SystemExit(f"--config {name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise SystemExit(f"--config {name}: expected keys with values, found {type(config).__name__}.")
    return config


def find_config(name: str) -> Path:
    """The file of a configuration: a file that is there, or else the packaged one of that name.

    Args:
        name (`str`): a path, or a name as `small` or `small.yaml`; `examples/configs/small.yaml`, where it lay once,
            is the packaged one too.

    Raises:
        SystemExit: if there is neither; the packaged ones are named.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = CONFIGS / f"{path.name.removesuffix('.yaml')}.yaml"
    if packaged.is_file() and (path.parent == Path() or path.parts[-3:-1] == ("examples", "configs")):
        return packaged
    names = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
    raise SystemExit(f"--config {name}: no such file, and none of the packaged configurations: {names}.")


def format_help(groups: dict[str, Classes], description: str, shown: Sequence[str] | None = None) -> str:
    """The help text of a command.

    Args:
        groups (`dict[str, Classes]`): dataclasses of the flags of each section, `""` for the flags without prefix.
        description (`str`): what the command is; its line breaks are kept.
        shown (`Sequence[str]`, *optional*): the flags to show, such as `"data"` or `"tokenizer.backbone"`; by default
            all.
    """
    blocks = [description.strip()]
    for section, classes in groups.items():
        lines = []
        for field, kind in _fields(classes):
            name = f"{section}.{field.name}" if section else field.name
            if shown is None or name in shown:
                lines += _flag_lines(name, field, kind)
        if lines:
            blocks.append("\n".join(lines))
    names = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
    more = ["  --config FILE.yaml".ljust(INDENT) + "Defaults of the flags" + (":" if len(groups) > 1 else ".")]
    if len(groups) > 1:
        parts = textwrap.wrap(f"a path, or {names}.", WIDTH - INDENT, break_on_hyphens=False)
        more += [" " * INDENT + part for part in parts]
    more.append("  --log_level LEVEL".ljust(INDENT) + f"Messages to show: {', '.join(LEVELS)} (default: warning).")
    if shown is not None:
        more.append("  --help-all".ljust(INDENT) + "Show every flag.")
    return "\n\n".join([*blocks, "\n".join(more)])


def _fields(classes: Classes) -> Iterator[tuple[Field[Any], Any]]:
    for each in classes:
        kinds = get_type_hints(each)
        for field in fields(each):
            if field.init:
                yield field, kinds[field.name]


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _flag_lines(name: str, field: Field[Any], kind: Any) -> list[str]:
    """A flag with what it takes, what it means and its default; line breaks of its help are kept."""
    left = f"  --{name} {_metavar(kind)}".rstrip()
    help_text = str(field.metadata.get("help") or "").replace("%%", "%").strip()
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if _is_required(field):
        help_text = f"(required) {help_text}"
    elif default is True:
        help_text += f" (default: true; --{name.removesuffix(field.name)}no_{field.name})"
    elif default is not None and default is not False and default not in ([], ""):
        said = " ".join(map(str, default)) if isinstance(default, list | tuple) else getattr(default, "value", default)
        help_text += f" (default: {said})"
    right = [
        part
        for line in help_text.splitlines()
        for part in textwrap.wrap(line.strip(), WIDTH - INDENT, break_on_hyphens=False) or [""]
    ]
    if len(left) < INDENT and right:
        left, right = left.ljust(INDENT) + right[0], right[1:]
    return [left, *(" " * INDENT + line for line in right)]


def _metavar(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        known = [each for each in get_args(kind) if each is not type(None)]
        return _metavar(known[0]) if len(known) == 1 else "VALUE"
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is list:
        return f"{_metavar(get_args(kind)[0])} ..."
    return {bool: "", int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def _parse(section: str, groups: dict[str, Classes], defaults: dict[str, Any], argv: list[str]) -> tuple[Any, ...]:
    """The instances of one section's classes."""
    parser, prefix = _parser(section, groups[section]), f"{section}." if section else ""
    known = {field.name: field for field, _ in _fields(groups[section])}
    if unknown := sorted(set(defaults) - set(known)):
        raise SystemExit(
            f"Unknown in the configuration file: {', '.join(prefix + str(name) for name in unknown)}."
            + _suggestion(prefix + str(unknown[0]), groups, "")
        )
    # Through argparse's own conversion, so that 3e-4, which YAML reads as text, becomes a number.
    texts = []
    for name, value in defaults.items():
        preset = parser.get_default(name)
        if isinstance(value, list):
            if not value and not _is_required(known[name]):
                parser.set_defaults(**{name: []})
            else:
                texts += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            texts += [f"--{name}", json.dumps(value)]
        elif value is not None:
            texts.append(f"--{name}={value}")
        elif preset is not None:
            raise SystemExit(f"{prefix}{name} in the configuration file is empty; leave it out for {preset!r}.")
    try:
        *instances, left = parser.parse_args_into_dataclasses(texts + argv, return_remaining_strings=True)
    except ValueError as error:  # of a class, as two flags that contradict each other
        raise ValueError(f"Flags --{prefix}*: {error}" if prefix else str(error)) from error
    if left:
        flags = [f"--{prefix}{text[2:]}" if text.startswith("--") else text for text in left]
        named = next((flag for flag in flags if flag.startswith("--")), "")[2:].partition("=")[0]
        raise SystemExit(f"Unknown flag: {' '.join(flags)}.{_suggestion(named, groups, '--')} See --help-all.")
    return tuple(instances)


def _parser(section: str, classes: Classes) -> "HfArgumentParser":
    from transformers import HfArgumentParser

    if section:
        usage = f"flags --{section}.<flag>:"
        return HfArgumentParser(classes, prog=f"section --{section}.", usage=usage, add_help=False)  # type: ignore[arg-type]
    usage = "%(prog)s [--flag VALUE ...], see --help"
    return HfArgumentParser(classes, usage=usage, add_help=False)  # type: ignore[arg-type]


def _suggestion(name: str, groups: dict[str, Classes], dashes: str) -> str:
    """The known names that a wrong one may have meant: the same in a section, or else the nearest."""
    known: dict[str, list[str]] = {}
    for section, classes in groups.items():
        for field, _ in _fields(classes):
            known.setdefault(field.name, []).append(f"{section}.{field.name}" if section else field.name)
    every = [full for names in known.values() for full in names]
    bare = name.rpartition(".")[2].replace("-", "_")
    found = known.get(bare) or difflib.get_close_matches(name, every, n=1, cutoff=0.7)
    found = found or [
        full for match in difflib.get_close_matches(bare, known, n=1, cutoff=0.7) for full in known[match]
    ]
    return f" Did you mean {' or '.join(dashes + full for full in found)}?" if found else ""
