"""Command lines of the examples: plain flags, flags of a section (`--tokenizer.learning_rate 1e-4`), a YAML file."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

CONFIGS = Path(__file__).parent / "commands" / "configs"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and a docstring as it was written."""


def parse_sections(
    main: type | tuple[type, ...],
    sections: dict[str, tuple[type, ...]],
    description: str,
    argv: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Parses a command line into dataclasses.

    A YAML file given by `--config` sets defaults, a section's under the section's name; the command line wins.

    Args:
        main: dataclass of the flags without prefix, or several.
        sections: dataclasses of each section; `{"tokenizer": (A, B)}` gives every field of A and B the flag
            `--tokenizer.<field>`.
        description: shown by `--help`.
        argv: the command line, by default the program's.

    Returns:
        An instance of `main`, or of each of its classes, then the instances of each section in order.

    Raises:
        SystemExit: on an unknown flag or key, or a value of a wrong type, which is named.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config, argv = _take_config(argv)
    own, rest = [], {name: [] for name in sections}
    target = own
    for argument in argv:
        if argument.startswith("--"):
            section, dot, name = argument[2:].partition(".")
            if dot and section in rest and "=" not in section:
                target, argument = rest[section], f"--{name}"
            else:
                target = own
        target.append(argument)

    usage = "%(prog)s [--config FILE.yaml] [--flag VALUE ...] "
    usage += " ".join(f"[--{name}.flag VALUE ...]" for name in sections)
    main_parser = HfArgumentParser(main, description=description, usage=usage, formatter_class=HelpFormatter)
    section_parsers = {
        name: HfArgumentParser(classes, prog=f"section --{name}.", usage=f"flags --{name}.<flag>:", add_help=False)
        for name, classes in sections.items()
    }
    if {"-h", "--help"} & set(own):
        main_parser.print_help()
        for name, parser in section_parsers.items():
            print(f"\n--{name}.<flag>, one of:\n")
            print(parser.format_help())
        raise SystemExit(0)

    parsed = []
    values = {key: value for key, value in config.items() if key not in sections}
    parsed += _parse(main_parser, values, own, "")
    for name, parser in section_parsers.items():
        values = config.get(name) or {}
        if not isinstance(values, dict):
            raise SystemExit(f"{name} in the configuration file: expected keys with values, found {values!r}.")
        parsed += _parse(parser, values, rest[name], f"{name}.")
    return tuple(parsed)


def given_value(name: str, argv: Sequence[str] | None = None) -> str | None:
    """The value of a flag without prefix, from the command line or else the YAML file of `--config`, before anything
    is parsed: for a flag that the sections of the others depend on. `None` if it is not given."""
    config, argv = _take_config(list(sys.argv[1:] if argv is None else argv))
    value = None if config.get(name) is None else str(config[name])
    for place, argument in enumerate(argv):
        flag, equals, after = argument.partition("=")
        if flag == f"--{name}":
            value = after if equals else next(iter(argv[place + 1 : place + 2]), None)
    return value


def find_config(name: str) -> Path:
    """The file of a configuration: a file that is there, or else the packaged one of that name.

    Args:
        name: a path, or a name as `small` or `small.yaml`; `examples/configs/small.yaml`, where it lay once, is the
            packaged one too.

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


def _take_config(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of the YAML file that the command line names, and the command line without it."""
    place = next((i for i, argument in enumerate(argv) if argument.partition("=")[0] == "--config"), None)
    if place is None:
        return {}, argv
    _, equals, path = argv[place].partition("=")
    given = [path] if equals else argv[place + 1 : place + 2]
    if not given:
        raise SystemExit("--config needs a YAML file.")
    try:
        config = yaml.safe_load(find_config(given[0]).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"--config {given[0]} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise SystemExit(f"--config {given[0]}: expected keys with values, found {type(config).__name__}.")
    return config, argv[:place] + argv[place + (1 if equals else 2) :]


def _parse(parser: HfArgumentParser, defaults: dict[str, Any], argv: list[str], prefix: str) -> tuple[Any, ...]:
    actions = {action.dest: action for action in parser._actions}
    unknown = sorted(set(defaults) - set(actions))
    if unknown:
        raise SystemExit(f"Unknown in the configuration file: {', '.join(prefix + name for name in unknown)}.")
    # Through argparse's own conversion, so that 3e-4, which YAML reads as text, becomes a number.
    texts = []
    preset = {name: action.default for name, action in actions.items()}
    for name, value in defaults.items():
        if isinstance(value, list):
            if not value and not actions[name].required:
                actions[name].nargs = "*"
            texts += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            texts += [f"--{name}", json.dumps(value)]
        elif value is not None:
            texts.append(f"--{name}={value}")
        elif preset[name] is not None:
            raise SystemExit(f"{prefix}{name} in the configuration file is empty; leave it out for {preset[name]!r}.")
    *instances, left = parser.parse_args_into_dataclasses(texts + argv, return_remaining_strings=True)
    if left:
        raise SystemExit(f"Unknown flag: {' '.join(prefix_flag(flag, prefix) for flag in left)}. See --help.")
    return tuple(instances)


def prefix_flag(flag: str, prefix: str) -> str:
    return f"--{prefix}{flag[2:]}" if flag.startswith("--") else flag
