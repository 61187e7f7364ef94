"""Pages of the project and of its site: what they link to and name exists, and the first result of the README comes
out."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from trainers.commands import run_command

ROOT = Path(__file__).parent.parent
SITE = ROOT / "examples" / "docs" / "pages"
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/benchmarks/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in SITE.rglob("*.md"))
# Pages of the site that are made when it is built, with what they are made of.
MADE = {"commands": ("trainers/commands/help", "txt"), "notebooks": ("examples/notebooks", "ipynb")}


def code(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 185


def source_of(path):
    """The file that a link leads to, or what it will be made of."""
    folder, ending = MADE.get(path.resolve().parent.name, (None, None))
    if folder is None or path.resolve().parent.parent != SITE:
        return path
    return ROOT / folder if path.stem == "index" else ROOT / folder / f"{path.stem}.{ending}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not source_of((ROOT / page).parent / link).exists()]
    scripts = re.findall(r"\bexamples/[\w/]+\.py", text)
    assert missing + [script for script in scripts if not (ROOT / script).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_configurations_that_are_named_exist(page):
    names = re.findall(r"--config ([a-z_]+)\b(?![/.])", (ROOT / page).read_text(encoding="utf-8"))
    assert {name for name in names if not (ROOT / "trainers/commands/configs" / f"{name}.yaml").exists()} == set()


def test_modules_that_the_changelog_names_exist():
    """What an import of version 0.1 is now: modules, or names in one; a name without dots is a sibling of the last."""
    _, _, table = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Imports of version 0.1")
    rows = re.findall(r"^\| `.*\| (.*) \|$", table.partition("## 0.1.0")[0], flags=re.MULTILINE)
    missing, room = [], ""
    for name in (name for row in rows for name in re.findall(r"`([a-z_]+(?:\.\w+)*)`", row)):
        name = name if "." in name or (ROOT / name).is_dir() else f"{room}.{name}"
        room, _, last = name.rpartition(".")
        path, within = ROOT / name.replace(".", "/"), ROOT / room.replace(".", "/")
        source = within / "__init__.py" if within.is_dir() else within.with_suffix(".py")
        named = source.is_file() and re.search(rf"\b{last}\b", source.read_text(encoding="utf-8"))
        if not (path.is_dir() or path.with_suffix(".py").is_file() or named):
            missing.append(name)
    assert len(rows) > 40 and missing == []


def commands(page):
    """Flags of each `utgrec NAME ...` in the shell blocks of a page, with its name and what else is said."""
    for block in code(page, "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            line = re.sub(r"^accelerate launch (-m trainers|examples/)", "utgrec ", line.partition(" #")[0])
            found = re.match(r"utgrec (?P<name>[a-z-]+)(?:\.py)? (?P<rest>.*)", line)
            if found:
                yield found["name"], shlex.split(found["rest"])


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_named_take_their_flags(page, capsys):
    for name, argv in commands(page):
        model = [] if "--model" not in argv else argv[(place := argv.index("--model")) : place + 2]
        with pytest.raises(SystemExit):
            run_command(name, [*model, "--help-all"])
        known = {flag.replace("-", "_") for flag in re.findall(r"--[\w.-]+", capsys.readouterr().out)}
        flags = {each.replace("-", "_") for each in argv if each.startswith("--")}
        assert flags <= known, f"{page}: {name} {' '.join(argv)}"


@pytest.mark.parametrize("page", PAGES)
def test_what_python_imports_exists(page):
    """Of this project; what a page shows of a name's use is tested where the name is."""
    for block in code(page, "python"):
        for node in ast.walk(ast.parse(re.sub(r"^(>>>|\.\.\.) ?", "", block, flags=re.MULTILINE))):
            if isinstance(node, ast.ImportFrom) and (ROOT / node.module.partition(".")[0]).is_dir():
                module = importlib.import_module(node.module)
                assert [each.name for each in node.names if not hasattr(module, each.name)] == [], page


def test_the_first_result_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["red", "steel", "soft", "large", "paper", "glass"]
    products = [f"sku-{n},{words[n % 6]} {words[n // 6 % 6]} thing" for n in range(36)]
    (tmp_path / "products.csv").write_text("\n".join(["sku,name", *products]))
    orders = [
        f"customer-{user},sku-{(user + 5 * place) % 36},2026-01-{place + 1:02}"
        for user in range(60)
        for place in range(6)
    ]
    (tmp_path / "orders.csv").write_text("\n".join(["customer,sku,date", *orders]))
    name, argv = next(each for each in commands("README.md") if each[0] == "quickstart")
    run_command(name, argv)
    snippet = next(block for block in code("README.md", "python") if "Recommender.from_pretrained" in block)
    *lines, last = snippet.strip().splitlines()
    scope: dict = {}
    exec(compile("\n".join(lines), "README.md", "exec"), scope)
    found = eval(compile(last, "README.md", "eval"), scope)
    assert len(found) == 10 and all(each["item_id"].startswith("sku-") and each["title"] for each in found)
