"""`--log_level`: what is shown of this program's messages and of its libraries', in every command."""

import logging
import os
import subprocess
import sys

import pytest
import transformers

from trainers.arguments import parse_sections
from trainers.commands.publish import PublishArguments
from trainers.runtime.log_levels import LEVELS, LIBRARIES, OURS, set_log_level
from trainers.runtime.progress import lines_alone

# Says what each of two libraries thinks, one imported before and one after, and logs something itself.
CODE = """
import logging, sys, transformers
from trainers.runtime.log_levels import set_log_level
set_log_level(sys.argv[1])
set_log_level(sys.argv[1])
import datasets
print(transformers.utils.logging.get_verbosity(), datasets.utils.logging.get_verbosity())
logger = logging.getLogger("trainers.runtime.progress")
logger.info("read")
logger.warning("mind this")
"""


@pytest.fixture(autouse=True)
def levels_as_before(monkeypatch):
    loggers = {name: logging.getLogger(name) for name in (*OURS, *LIBRARIES)}
    before = {name: (each.level, list(each.handlers)) for name, each in loggers.items()}
    for variable in LIBRARIES.values():
        monkeypatch.setenv(variable, os.environ.get(variable, "warning"))
    yield
    for name, (level, handlers) in before.items():
        loggers[name].setLevel(level)
        loggers[name].handlers[:] = handlers


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("info", ["INFO trainers.runtime.progress: read", "WARNING trainers.runtime.progress: mind this"]),
        pytest.param("error", [], marks=pytest.mark.slow),
    ],
)
def test_levels_of_libraries_and_of_our_own(level, shown):
    done = subprocess.run([sys.executable, "-c", CODE, level], capture_output=True, text=True)
    number = getattr(logging, level.upper())
    assert done.returncode == 0 and done.stdout == f"{number} {number}\n", done.stderr
    assert [line for line in done.stderr.splitlines() if "trainers" in line] == shown


def test_every_command_line_has_it(capsys):
    parse_sections(PublishArguments, {}, "", ["--name", "a/b", "--log_level", "debug"])
    assert logging.getLogger("trainers.hub.upload").isEnabledFor(logging.DEBUG)
    assert transformers.utils.logging.get_verbosity() == logging.DEBUG
    parse_sections(PublishArguments, {}, "", ["--name", "a/b"])
    assert logging.getLogger("trainers").level == logging.DEBUG, "what is not said changes nothing"
    with pytest.raises(SystemExit, match=f"--log_level: log level loud: there are {', '.join(LEVELS)}"):
        parse_sections(PublishArguments, {}, "", ["--name", "a/b", "--log_level=loud"])
    with pytest.raises(SystemExit):
        parse_sections(PublishArguments, {}, "What it does.", ["--help"], shown=["name"])
    assert "--log_level LEVEL " in capsys.readouterr().out


def test_lines_that_stand_alone_do_not_hide_what_was_asked_for():
    before = transformers.utils.logging.get_verbosity()
    with lines_alone():
        assert transformers.utils.logging.get_verbosity() == logging.ERROR
    assert transformers.utils.logging.get_verbosity() == before
    set_log_level("info")
    with lines_alone():
        assert transformers.utils.logging.get_verbosity() == logging.INFO
