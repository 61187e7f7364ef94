"""Guards for checkpoints that others made: no pickles, no sizes that never end, and errors that say what was wrong."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

# Numbers of parts that are built one by one; far more than any model has.
MAX_PARTS = 1000
# Numbers that become lists: of names, of a noise schedule.
LISTED = {"num_labels": 10**6, "diffusion_steps": 10**5}
MAX_DEPTH = 50  # of dictionaries within dictionaries
# For models of other people: no code of theirs, and no pickles.
SAFELY: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
SHARDS = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")

_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state.*)\.pth?$")  # of a training: no weights of the model
_PART = re.compile(r"[^/\\\0]+\.safetensors")
_COUNT = re.compile(r"(^|_)(num_\w*(layers|experts|blocks)|n_layers?|num_levels|depth|diffusion_repeats)$")
_OTHERS = ("builtins", "json", "huggingface_hub", "transformers")  # whose ValueErrors name no file
# What transformers, torch and peft raise on values of a wrong kind. Files that are missing are OSErrors and stay.
_MALFORMED = (
    StrictDataclassError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)


def check_sizes(values: dict, depth: int = 0) -> None:
    """
    Raises:
        ValueError: if a configuration asks for more layers or levels than could be built in a lifetime, or holds
            dictionaries within dictionaries without end.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"The configuration is nested more than {MAX_DEPTH} deep.")
    for name, value in values.items():
        if isinstance(value, dict):
            check_sizes(value, depth + 1)
        elif isinstance(name, str) and isinstance(value, int):
            most = MAX_PARTS if _COUNT.search(name) else LISTED.get(name, math.inf)
            if value > most:
                raise ValueError(f"The configuration's {name} is {value}, more than {most}.")


@contextmanager
def errors_that_say_why(what: str) -> Iterator[None]:
    """Turns the many errors of malformed values into a `ValueError` that says what could not be read, and lets those
    of other libraries that do not name it do so."""
    try:
        yield
    except ValueError as error:
        if what in str(error) or type(error).__module__.partition(".")[0] not in _OTHERS:
            raise
        raise ValueError(f"{what}: {error}") from error
    except torch.OutOfMemoryError:  # of a device: nothing is malformed
        raise
    except Exception as error:
        # The package tokenizers raises Exception itself.
        if type(error) is not Exception and not isinstance(error, _MALFORMED):
            raise
        reason = str(error).strip() or "no reason given"
        raise ValueError(f"{what} cannot be used: {type(error).__name__}: {reason}") from error


def only_safetensors(source: Any, arguments: dict[str, Any]) -> None:
    """
    Makes a call of `from_pretrained` read safetensors alone.

    Args:
        source: folder or repository.
        arguments (`dict[str, Any]`): of the call; changed.

    Raises:
        ValueError: if pickles are asked for, a folder has its weights in nothing else, or its list of files names one
            that lies elsewhere.
    """
    if arguments.setdefault("use_safetensors", True) is not True:
        raise ValueError("Only safetensors are read: weights in a pickle can run any code when they are opened.")
    folder = None if source is None else Path(source, arguments.get("subfolder") or "")
    if folder is None or not folder.is_dir():  # the Hub's client keeps a repository's files within its cache
        return
    _check_shards(folder / SHARDS)
    if any(folder.glob("*model*.safetensors")):  # an item index is safetensors too
        return
    found = [name for name in PICKLES if (folder / name).is_file()]
    found += sorted(path.name for path in folder.glob("*.pt*") if not _STATE.match(path.name))
    if found:
        raise ValueError(
            f"{folder} has its weights in {found[0]}, a pickle: opening one can run any code, so it is not read. "
            "Ask for safetensors, or convert it where you trust it: model.save_pretrained writes them."
        )


def _check_shards(index: Path) -> None:
    """The names of a model's parts, which transformers takes as they are, must not lead out of the folder."""
    if not index.is_file():
        return
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        names = set(values["weight_map"].values())
        # transformers opens what is not named so as a pickle.
        odd = [name for name in names if not isinstance(name, str) or not _PART.fullmatch(name)]
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{index} does not say where the weights are: {error!r}") from error
    if odd:
        raise ValueError(f"{index}: {odd[0]!r} is no safetensors file of this folder, as a model's parts are.")


__all__ = ["SAFELY", "check_sizes", "errors_that_say_why", "only_safetensors"]
