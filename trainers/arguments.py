"""Command lines of the examples: plain flags, flags of a section (`--tokenizer.learning_rate 1e-4`), a YAML file."""

import sys
from collections.abc import Sequence
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_sections(
    main: type, sections: dict[str, tuple[type, ...]], description: str, argv: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Parses a command line into dataclasses.

    A YAML file given by `--config` sets defaults, a section's under the section's name; the command line wins.

    Args:
        main: dataclass of the flags without prefix.
        sections: dataclasses of each section; `{"tokenizer": (A, B)}` gives every field of A and B the flag
            `--tokenizer.<field>`.
        description: shown by `--help`.
        argv: the command line, by default the program's.

    Returns:
        An instance of `main`, then the instances of each section in order.

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
    main_parser = HfArgumentParser(main, description=description, usage=usage)
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
        parsed += _parse(parser, config.get(name) or {}, rest[name], f"{name}.")
    return tuple(parsed)


def _take_config(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of the YAML file that the command line names, and the command line without it."""
    if "--config" not in argv:
        return {}, argv
    place = argv.index("--config")
    if place + 1 == len(argv):
        raise SystemExit("--config needs a YAML file.")
    with open(argv[place + 1], encoding="utf-8") as file:
        config = yaml.safe_load(file) or {}
    return config, argv[:place] + argv[place + 2 :]


def _parse(parser: HfArgumentParser, defaults: dict[str, Any], argv: list[str], prefix: str) -> tuple[Any, ...]:
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise SystemExit(f"Unknown in the configuration file: {', '.join(prefix + name for name in unknown)}.")
    # Through argparse's own conversion, so that 3e-4, which YAML reads as text, becomes a number.
    texts = []
    for name, value in defaults.items():
        if isinstance(value, list):
            texts += [f"--{name}", *map(str, value)]
        elif value is not None:
            texts += [f"--{name}", str(value)]
    *instances, left = parser.parse_args_into_dataclasses(texts + argv, return_remaining_strings=True)
    if left:
        raise SystemExit(f"Unknown flag: {' '.join(prefix_flag(flag, prefix) for flag in left)}. See --help.")
    return tuple(instances)


def prefix_flag(flag: str, prefix: str) -> str:
    return f"--{prefix}{flag[2:]}" if flag.startswith("--") else flag
