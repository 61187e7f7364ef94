"""The command line `utgrec`: what it lists, what it says of a wrong name, its exit codes."""

import subprocess
import sys

import pytest

from trainers import __main__ as command_line
from trainers.commands import COMMANDS


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_lists_every_command_in_a_line(argv, capsys):
    assert command_line.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split() for line in lines if line.startswith("  ")]
    assert [words[0] for words in listed] == list(COMMANDS) and all(len(words) > 3 for words in listed)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name, near", [("pretrian", "pretrain"), ("fintune", "finetune"), ("tokenise", "tokenize")])
def test_an_unknown_command_names_the_nearest(name, near, capsys):
    assert command_line.main([name, "--data", "x"]) == 2
    assert f"no command {name!r}: did you mean {near}?" in capsys.readouterr().err


def test_a_command_like_no_other(capsys):
    assert command_line.main(["xyz"]) == 2
    assert "no command 'xyz': see utgrec --help." in capsys.readouterr().err


def test_flags_go_to_the_command(monkeypatch):
    calls = []
    monkeypatch.setattr(command_line, "run_command", lambda *arguments: calls.append(arguments))
    assert command_line.main(["pretrain", "--data", "x", "--help"]) == 0
    assert calls == [("pretrain", ["--data", "x", "--help"])]


def test_interrupted(monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run_command", interrupt)
    assert command_line.main(["demo"]) == 130
    assert capsys.readouterr().err == "\nutgrec: interrupted.\n"


@pytest.mark.parametrize("argv, code", [(["--help"], 0), (["recommend", "--help"], 0), (["nothing"], 2)])
def test_as_a_module(argv, code):
    process = subprocess.run([sys.executable, "-m", "trainers", *argv], capture_output=True, text=True)
    assert process.returncode == code and (process.stderr == "") == (code == 0)
