"""Pages of the site that are made of what is there already: help texts, notebooks, and parts of the project's pages.

A hook of mkdocs. A line `@include FILE` or `@include FILE "Heading"` of a page is replaced by a Markdown file of the
repository, or by what stands under one of its headings.
"""

import html
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from trainers.commands import COMMANDS, HELP, METHODS

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [
    ROOT / "examples" / "notebooks" / f"{name}.ipynb" for name in ("own_catalogue", "compare_models", "publish")
]
INCLUDE = re.compile(r'^@include (\S+)(?: "(.+)")?$', flags=re.MULTILINE)
# Where files of the repository are on the site; a link to another one becomes its name.
PLACES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/benchmarks/README.md": "results.md",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation of the pages that are made."""
    made = {"commands": command_pages(), "notebooks": notebook_pages()}
    for entry in config.nav or []:
        ((title, value),) = entry.items() if isinstance(entry, dict) else (("", None),)
        if isinstance(value, str) and value in made:
            entry[title] = list(made[value])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, text in (command_pages() | notebook_pages()).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return INCLUDE.sub(lambda found: included(*found.groups(), page.file.src_uri), markdown)


def included(name: str, heading: str | None, page: str) -> str:
    """A file of the repository, or what stands under one of its headings, with its links as they are on the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if heading is not None:
        text = section(text, heading)
        if not text:
            raise PluginError(f"{page}: {name} has no heading {heading!r}.")

    def relinked(link: re.Match) -> str:
        label, target = link.groups()
        if target.startswith("http"):
            return link[0]
        place = PLACES.get(posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))
        return f"`{label}`" if place is None else f"[{label}]({posixpath.relpath(place, posixpath.dirname(page))})"

    return re.sub(r"\[([^\]\n]+)\]\(([^)\s]+)\)", relinked, text)


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above; "" if there is none."""
    lines, level, in_code = [], 0, False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        marks, _, title = line.partition(" ")
        if not in_code and marks and not marks.strip("#"):  # in code, it is a comment
            if level and len(marks) <= level:
                break
            level = level or len(marks) * (title == heading)
            if title == heading:
                continue
        if level:
            lines.append(line)
    return "\n".join(lines).strip()


def command_pages() -> dict[str, str]:
    """A page for each command, with all its methods, and the list of them."""
    pages = {}
    for command in COMMANDS:
        modules = list(dict.fromkeys(METHODS.get(command, {command: command.replace("-", "_")}).values()))
        names = {
            module: ", ".join(name for name, each in METHODS[command].items() if each == module)
            for module in modules
            if command in METHODS
        }
        texts = [
            (f"## --model {names[module]}\n\n" if module in names else "")
            + command_page((HELP / f"{module}.txt").read_text(encoding="utf-8"))
            for module in modules
        ]
        title = f"---\nhide: [toc]\n---\n\n# utgrec {command}\n\n"  # lines of commands are long
        pages[f"commands/{command.replace('-', '_')}.md"] = title + "\n\n".join(texts)
    rows = "\n".join(f"| [{name}]({name.replace('-', '_')}.md) | {text} |" for name, text in COMMANDS.items())
    introduction = (
        "# Commands\n\nThe text of a page is what `utgrec NAME --help` says; `--help-all` shows further flags, and "
        "`--config` takes their values from a file ([how](../how_to/run_files.md)).\n\n| `utgrec` | |\n|---|---|\n"
    )
    return {"commands/index.md": introduction + rows + "\n", **pages}


def command_page(text: str) -> str:
    """A help text as Markdown: sentences, lists, commands, and the flags in tables."""
    return "\n\n".join(block for block in map(help_block, re.split(r"\n\s*\n", text.strip("\n"))) if block)


def help_block(block: str) -> str:
    lines = block.splitlines()
    if re.match(r"  --\w", block):
        return flag_list(lines)
    if all(line.startswith("    ") for line in lines) or all(re.match(r"utgrec \w", line) for line in lines):
        indent = len(lines[0]) - len(lines[0].lstrip())
        return "\n".join(["```bash", *(line[indent:] for line in lines), "```"])
    if lines[0].startswith("- "):
        return escaped(block)
    if any(re.search(r"^ |\S {3,}\S", line) for line in lines):
        return "\n".join(["```text", *lines, "```"])
    return escaped(block)


def flag_list(lines: list[str]) -> str:
    """`  --flag KIND    what it is`, with further lines indented, as a definition list."""
    flags: list[tuple[str, str]] = []
    for line in lines:
        found = re.match(r"  (--\S+(?: (?!\s)\S+)*)(?:\s{2,}(.*))?$", line)
        if found:
            flags.append((found[1], found[2] or ""))
        else:
            name, text = flags[-1]
            flags[-1] = (name, f"{text} {line.strip()}".strip())
    return "\n\n".join(f"`{name}`\n:   {escaped(text)}" for name, text in flags)


def escaped(text: str) -> str:
    """Text of a terminal as Markdown: what is not in backticks means what it says."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part if place % 2 else re.sub(r"([*_\[\]])", r"\\\1", html.escape(part, quote=False))
        for place, part in enumerate(parts)
    )


def notebook_pages() -> dict[str, str]:
    """The notebooks as pages, with their list."""
    pages, rows = {}, []
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        blocks = [
            text.replace(".ipynb)", ".md)") if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
            for cell, text in zip(cells, texts, strict=True)
        ]
        title, _, rest = blocks[0].partition("\n")
        note = f"`examples/notebooks/{path.name}`"
        pages[f"notebooks/{path.stem}.md"] = "\n\n".join([title, note, rest.strip(), *blocks[1:]])
        rows.append(f"- [{title.removeprefix('# ')}]({path.stem}.md)")
    index = "# Notebooks\n\nThey run as they are, with data that they draw, and on your files by one variable.\n\n"
    return {"notebooks/index.md": index + "\n".join(rows) + "\n", **pages}
