"""The example scripts: each is its docstring and the call of one command."""

import ast
import runpy
from pathlib import Path

import pytest

from trainers.commands import COMMANDS, METHODS

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = [*sorted(EXAMPLES.glob("*.py")), EXAMPLES / "space" / "app.py"]  # as a Space has it


def name_of(script):
    return script.parent.name if script.name == "app.py" else script.stem


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_script_is_a_docstring_and_a_call(script):
    docstring, imported, guarded = ast.parse(script.read_text(encoding="utf-8")).body
    assert f"examples/{script.relative_to(EXAMPLES)} " in docstring.value.value
    assert ast.unparse(imported) == "from trainers.commands import run_command"
    assert ast.unparse(guarded.test) == "__name__ == '__main__'"
    (statement,) = guarded.body
    assert statement.value.func.id == "run_command"


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_script_calls_its_command(script, monkeypatch):
    calls = []
    monkeypatch.setattr("trainers.commands.run_command", lambda command, method=None: calls.append((command, method)))
    runpy.run_path(str(script), run_name="__main__")
    ((command, method),) = calls
    assert command in COMMANDS and name_of(script).startswith(command.replace("-", "_"))
    assert method is None or (method in METHODS[command] and script.stem == f"{command}_{method}")


def test_every_command_has_a_script():
    names = {name_of(script).partition("_")[0] for script in SCRIPTS}
    assert names >= {command.partition("-")[0] for command in COMMANDS}


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_help(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(script), run_name="__main__")
    assert error.value.code == 0
    assert "(required)" in capsys.readouterr().out or script.stem == "demo"
