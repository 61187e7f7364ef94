"""Short help texts of the commands, written by `python -m trainers.commands.help_texts` after flags have changed.

A command's `--help` prints its text and imports nothing: the classes of its flags take transformers and torch.
"""

import contextlib
import importlib
import io
from collections.abc import Iterator

from trainers.commands import COMMANDS, HELP, METHODS


def command_modules() -> Iterator[str]:
    """The module of each command, and of each of its methods."""
    for command in COMMANDS:
        name = command.replace("-", "_")
        yield from dict.fromkeys(METHODS.get(command, {name: name}).values())


def help_text(module: str) -> str:
    """What `--help` says of a command, from the classes of its flags."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        importlib.import_module(f"trainers.commands.{module}").main(["--help"])
    return text.getvalue()


if __name__ == "__main__":
    for each in command_modules():
        (HELP / f"{each}.txt").write_text(help_text(each), encoding="utf-8")
