"""The notebooks: kept without output, and each runs from its first cell to its last, in small."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
SMALL = {
    "own_catalogue": {"NUM_PRODUCTS": 64, "NUM_CUSTOMERS": 80},
    "compare_models": {"NUM_ITEMS": 260, "NUM_USERS": 200, "MINUTES": 0.02},
    "publish": {"NUM_PRODUCTS": 64, "NUM_CUSTOMERS": 80},
}


def read(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def in_small(name):
    """The notebook with other values of its first code cell, which is tagged `parameters`."""
    notebook = read(name)
    (cell,) = [each for each in notebook["cells"] if "parameters" in each["metadata"].get("tags", [])]
    assert cell is next(each for each in notebook["cells"] if each["cell_type"] == "code")
    scope: dict = {}
    exec("".join(cell["source"]), scope)
    assert SMALL[name].keys() <= scope.keys()
    cell["source"] += ["\n", *(f"{key} = {value!r}\n" for key, value in SMALL[name].items())]
    return notebook


def run(name):
    """Runs the code cells in this process and returns what they print."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        scope = {"__name__": "__main__"}
        for number, cell in enumerate(in_small(name)["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), scope)
    return said.getvalue()


def test_all_are_here():
    assert {path.stem for path in NOTEBOOKS.iterdir() if path.suffix} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_kept_without_output(name):
    """And as `json.dump` writes it, so that a change shows in a diff as what it is."""
    notebook = read(name)
    assert (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8") == (
        json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    )
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert {"tags"} >= {key for cell in notebook["cells"] for key in cell["metadata"]}
    assert {"kernelspec", "language_info"} >= notebook["metadata"].keys()


@pytest.mark.parametrize("name", SMALL)
def test_links_exist(name):
    text = "".join(line for cell in read(name)["cells"] for line in cell["source"])
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    assert [link for link in links if not (NOTEBOOKS / link).exists()] == []


def test_own_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("own_catalogue")
    assert "added: ['new-1']  in all: 65 products" in said and "| recommender |" in said
    assert (tmp_path / "runs" / "notebook-shop" / "recommender.json").is_file()


def test_publish_sends_nothing_of_its_own_accord(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("publish")
    assert "model org/shop-recommender" in said and "handler.py" in said and "Nothing was sent" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_in_a_kernel(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="of utgrec[dev]")
    nbformat = pytest.importorskip("nbformat", reason="of utgrec[dev]")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.reads(json.dumps(in_small(name)), as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, 1 + len(code)))
