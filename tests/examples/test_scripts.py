"""The example scripts: each is its docstring and the call of one command."""

import ast
import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_is_a_docstring_and_a_call(script):
    docstring, imported, guarded = ast.parse(script.read_text(encoding="utf-8")).body
    assert f"examples/{script.name} " in docstring.value.value.replace("\\\n", " ")
    assert isinstance(imported, ast.ImportFrom) and imported.module.startswith("trainers.commands.")
    assert ast.unparse(guarded) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(script), run_name="__main__")
    assert error.value.code == 0
    assert "--" in capsys.readouterr().out
