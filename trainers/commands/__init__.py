"""Commands: what a user runs, one module each, with `run` for Python and `main` for a command line.

Imports nothing heavy: the short help of a command is a text of the package, and its module is imported to run it.
"""

import importlib
import json
import linecache
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from trainers.arguments import read_config, take_flag

HELP = Path(__file__).parent / "help"  # what `main(["--help"])` of each module prints, see help_texts.py
COMMANDS = {
    "quickstart": "a recommender of your own orders and products, in about a minute",
    "demo": "UTGRec as a whole on a built-in catalogue, in minutes",
    "prepare": "make a data folder from Amazon Reviews, MovieLens, RecBole, tables, ...",
    "embed": "embed the texts or images of a catalogue with a frozen encoder",
    "pretrain": "pre-train an item tokenizer and a recommender on several domains",
    "finetune": "fine-tune both on a new domain, or train from scratch, and evaluate",
    "train-baseline": "train SASRec, HSTU, UniSRec, TIGER, LETTER, ... and evaluate",
    "tokenize": "give the items of a catalogue their semantic IDs",
    "memory": "give a recommender a memory of transitions and content",
    "evaluate": "evaluate and compare recommenders on a data folder",
    "recommend": "recommend items to users",
    "serve": "serve a recommender over HTTP: /recommend, /items, /metrics",
    "space": "a page that shows a recommender and its semantic IDs",
    "convert-autoencoder": "an AutoencoderKL of diffusers from published KL-16 weights",
    "export": "a plain Qwen3, ONNX, or the beam search for other programs",
    "convert-qwen3": "a plain Qwen3 that generates semantic IDs, as our recommender",
    "publish": "publish tokenizer, recommender and data on the Hub",
}
# Of a command that trains one of several methods: `--model` to the module. A further method is a row.
METHODS = {
    "pretrain": {
        "utgrec": "pretrain",
        "recbase": "pretrain_recbase",
        **dict.fromkeys(("unisrec", "vq-rec", "missrec"), "pretrain_sequential"),
        **dict.fromkeys(
            ("item-level", "rq-kmeans-item-level", "tiger-item-level", "letter-item-level"), "pretrain_item_level"
        ),
    },
    "finetune": {"utgrec": "finetune", "recbase": "finetune_recbase"},
}
TRACEBACK = "UTGREC_TRACEBACK"  # environment variable; set, errors in what was given show where they were found
PACKAGES = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")
# What checks of this project raise, and of workers elsewhere; of another type an error is a mistake in the program.
CHECKED = (ValueError, KeyError, ImportError, FloatingPointError, RuntimeError)


def run_command(command: str, argv: Sequence[str] | None = None, method: str | None = None) -> None:
    """Runs a command line.

    Args:
        command (`str`): a key of `COMMANDS`.
        argv (`Sequence[str]`, *optional*): the flags, by default the program's.
        method (`str`, *optional*): a key of the command's `METHODS`, for `--model`; by default what the flags say, see
            `choose_method`.

    Raises:
        SystemExit: after `--help`, on wrong flags, and on an error in what was given, see `says_what_is_wrong`, whose
            message it has; not with the environment variable `UTGREC_TRACEBACK`, which lets that error through.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = command.replace("-", "_")
    if command in METHODS:
        name = METHODS[command][choose_method(command, argv, method)]
    text = HELP / f"{name}.txt"
    if {"-h", "--help"} & set(argv) and text.is_file():
        print(text.read_text(encoding="utf-8"), end="")
        raise SystemExit(0)
    if {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():  # of torchrun and accelerate launch
        from trainers.runtime.processes import join_processes

        join_processes()
    main = importlib.import_module(f"trainers.commands.{name}").main
    from hub_cards.files import naming_the_file  # of what the command has imported

    try:
        with naming_the_file(f"a file of intermediate results in {tempfile.gettempdir()}, or of the output"):
            main(argv)
    except Exception as error:
        wrong = of_a_configuration(error)
        if os.environ.get(TRACEBACK) or not says_what_is_wrong(wrong):
            raise
        raise SystemExit(str(wrong) or repr(wrong)) from error


def of_a_configuration(error: Exception) -> Exception:
    """What a configuration's check raised, which comes wrapped by huggingface_hub; any other error as it is."""
    from huggingface_hub.errors import StrictDataclassClassValidationError

    wrapped = isinstance(error, StrictDataclassClassValidationError) and isinstance(error.__cause__, Exception)
    return error.__cause__ if wrapped else error  # type: ignore[return-value]


def says_what_is_wrong(error: Exception) -> bool:
    """Whether an error is of what was given, and its message is enough: one of files or of the network, or one that a
    `raise` statement of this project raised. What fails within an expression, as a key that a dictionary lacks, or in
    another library, may be a mistake in the program."""
    if isinstance(error, OSError):
        return True
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    statement = linecache.getline(frame.f_code.co_filename, line).strip()
    ours = frame.f_globals["__name__"].partition(".")[0] in PACKAGES
    return isinstance(error, CHECKED) and ours and statement.startswith("raise")


def choose_method(command: str, argv: Sequence[str], model: str | None = None) -> str:
    """The method that a command line means, on which its further flags depend.

    It is said by `model`, or else by `--model`, or else by the key `model` of the file of `--config`, or else by the
    recommender of `--pretrained`, a folder or Hub id; it is UTGRec where none says it.

    Raises:
        SystemExit: if there is no such method, or the pre-trained recommender is of another one.
    """
    methods = METHODS[command]
    given, rest = take_flag("--model", argv)
    config_name, rest = take_flag("--config", rest)
    config = {} if config_name is None else read_config(config_name)
    given = model or given or config.get("model")
    if given is not None and given not in methods:
        raise SystemExit(f"--model {given}: {command} knows {', '.join(methods)}.")
    pretrained, rest = take_flag("--pretrained", rest)
    revision, _ = take_flag("--revision", rest)
    pretrained, revision = pretrained or config.get("pretrained"), revision or config.get("revision")
    found = None if pretrained is None or command != "finetune" else method_of(pretrained, revision, methods)
    if given is not None and found is not None and given != found:
        raise SystemExit(
            f"--pretrained {pretrained} holds {found}, and {given} was asked for by --model or --config: give "
            f"--model {found} and a configuration for it, or the folder of a pre-trained {given}."
        )
    return given or found or "utgrec"


def method_of(pretrained: str, revision: str | None, methods: Sequence[str] | dict[str, str]) -> str:
    """The method of the recommender that `pretrain` wrote into a folder, or pushed."""
    from tokenization_items.hub_folders import HubError
    from trainers.hub.download import find_part

    try:
        path = find_part(pretrained, "recommender", revision).folder / "config.json"
    except HubError as error:
        raise SystemExit(f"--pretrained {pretrained}: {error}") from error
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SystemExit(f"--pretrained {pretrained}: no output folder of pretrain, {path} cannot be read.") from error
    if kind not in methods:
        raise SystemExit(f"--pretrained {pretrained}: {path} is of the type {kind!r}, none of {', '.join(methods)}.")
    return kind
