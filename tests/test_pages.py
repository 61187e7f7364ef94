"""Pages of the project: what they link to and name exists, and the first result of the README comes out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/benchmarks/README.md"]


def code(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    scripts = re.findall(r"\bexamples/[\w/]+\.py", text)
    assert missing + [script for script in scripts if not (ROOT / script).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_configurations_that_are_named_exist(page):
    names = re.findall(r"--config ([a-z_]+)\b", (ROOT / page).read_text(encoding="utf-8"))
    assert {name for name in names if not (ROOT / "trainers/commands/configs" / f"{name}.yaml").exists()} == set()


def test_the_first_result_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippet = next(block for block in code("README.md", "python") if "ItemTransitions" in block)
    exec(compile(snippet, "README.md", "exec"), {})
    said = re.search(r'\["ndcg@10"\]\)  # ([\d.]+);', snippet)[1]
    assert f"{float(capsys.readouterr().out):.3f}" == said
