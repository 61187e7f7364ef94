"""The documentation site: what its pages are made of is all there, and it is built without a warning."""

import html
import importlib
import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from trainers.commands import COMMANDS, HELP

for package in ("mkdocs", "griffe"):
    pytest.importorskip(package, reason="of utgrec[docs]")
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "examples" / "docs"
PAGES = DOCS / "pages"
made = runpy.run_path(str(DOCS / "generated_pages.py"))
names = runpy.run_path(str(DOCS / "public_names.py"))
PACKAGES = names["PACKAGES"]


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = re.findall(r"[\w/]+\.md", str(config["nav"]))
    assert sorted(entries) == sorted(path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md"))
    assert {"Commands": "commands"} in config["nav"] and {"Notebooks": "notebooks"} in config["nav"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_one_page(package):
    """But for constants, of which a page has those that say something."""
    texts = [page.read_text(encoding="utf-8") for page in (PAGES / "api").glob("*.md")]
    shown = [name for text in texts for name in re.findall(rf"^::: {package}\.(\w+)$", text, re.MULTILINE)]
    public = [name for name in importlib.import_module(package).__all__ if not name.isupper()]
    assert sorted(name for name in shown if not name.isupper()) == sorted(public)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_page_has_all_that_its_help_says(command):
    page = made["command_pages"]()[f"commands/{command.replace('-', '_')}.md"]
    texts = [HELP / f"{module}.txt" for module in dict.fromkeys(made["METHODS"].get(command, {"": command}).values())]
    for text in (path.with_stem(path.stem.replace("-", "_")).read_text(encoding="utf-8") for path in texts):
        plain = re.sub(r"^```\w*|^:  |[`\\]", "", html.unescape(page), flags=re.MULTILINE)
        assert set(re.sub(r"[`\\]", "", text).split()) - set(plain.split()) == set()


def test_help_text_as_markdown():
    text = (
        "A *thing* of <s_a_0>.\n\n    utgrec thing a_b\n\nGET /one      gives one\n\n- one\n- two\n\n"
        "  --some_flag TEXT ...                Says `this` and\n                                      that.\n"
        "  --a_flag_whose_name_is_far_too_long {a,b}\n                                      Further [on].\n"
    )
    assert made["command_page"](text) == (
        "A \\*thing\\* of &lt;s\\_a\\_0&gt;.\n\n```bash\nutgrec thing a_b\n```\n\n```text\nGET /one      gives one\n"
        "```\n\n- one\n- two\n\n`--some_flag TEXT ...`\n:   Says `this` and that.\n\n"
        "`--a_flag_whose_name_is_far_too_long {a,b}`\n:   Further \\[on\\]."
    )


def test_every_notebook_has_a_page():
    assert {f"notebooks/{path.stem}.md" for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")} == (
        set(made["notebook_pages"]()) - {"notebooks/index.md"}
    )


def test_what_stands_under_a_heading():
    page = "# A\n\none\n\n## B\n\n```bash\n# C\nx  # D\n```\n\n### E\n\ntwo\n\n## C\n\n#three\n\n# F\n"
    assert made["section"](page, "B") == "```bash\n# C\nx  # D\n```\n\n### E\n\ntwo"
    assert made["section"](page, "C") == "#three" and made["section"](page, "D") == ""
    text = made["included"]("README.md", "Results", "how_to/index.md")
    assert "| popularity |" in text and "## " not in text
    assert "[examples/benchmarks](../results.md)" in text
    assert made["included"]("CONTRIBUTING.md", None, "contributing.md").startswith("# Contributing")
    with pytest.raises(made["PluginError"], match="README.md has no heading 'Absent'"):
        made["included"]("README.md", "Absent", "index.md")


def test_docstring_as_markdown():
    text = """
    Says [`ItemMemory`], [`~trainers.Unknown.thing`] and `<`.

    Args:
        first (`int`, *optional*, defaults to 3): a number < 4,
            or more.
        second, third (`tuple`, *optional*, defaults to `(1, 2)`):
            two: or more.

            - one
        fourth (`str`), fifth (`str`), *optional*: of no usual form.

    Raises:
        ValueError: no.

    Example:

    ```python
    >>> [`a<b`]
    ```
    """
    assert names["as_markdown"](names["textwrap"].dedent(text)) == (
        "Says [`ItemMemory`][modeling_utgrec.ItemMemory], `thing` and `<`.\n\n**Parameters**\n\n"
        "- **`first`** (`int`, *optional*, defaults to 3): a number &lt; 4,\n    or more.\n"
        "- **`second, third`** (`tuple`, *optional*, defaults to `(1, 2)`): two: or more.\n\n    - one\n"
        "- fourth (`str`), fifth (`str`), *optional*: of no usual form.\n\n"
        "**Raises**\n\n- **`ValueError`**: no.\n\n**Example**\n\n```python\n>>> [`a<b`]\n```"
    )
    assert names["as_markdown"]("See [`~Recommender.recommend`].") == (
        "See [`recommend`][trainers.Recommender.recommend]."
    )
    assert names["as_markdown"]("See [`recommend`].", "trainers.methods.recommender.Recommender") == (
        "See [`recommend`][trainers.Recommender.recommend]."
    )


class Fetched(HTMLParser):
    """Addresses that a page fetches to be shown."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source") or (tag == "link" and given.get("rel") != "canonical"):
            self.found.append(given.get("src") or given.get("href") or "")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(DOCS / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert process.returncode == 0 and "WARNING" not in process.stderr, process.stderr[-4000:]
    built = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert {"index.html", "commands/train_baseline.html", "notebooks/publish.html", "api/items.html"} <= built.keys()
    assert 'href="api/index.html' in built["index.html"]
    outside = {address for page in built.values() for address in Fetched(page).found if "//" in address}
    assert outside == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(https?:)?//", styles)
