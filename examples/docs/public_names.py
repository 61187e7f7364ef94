"""Public names of the packages and their docstrings, as the site shows them.

An extension of griffe, which reads the packages for mkdocstrings. Docstrings are in transformers' form, ``name
(`type`, *optional*): ...`` under `Args:`; they become Markdown, and [`Name`] in them a link where the name is public.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache

import griffe

PACKAGES = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Examples?):[ \t]*$", flags=re.MULTILINE)
TITLES = {"Args": "Parameters", "Example": "Example", "Examples": "Examples"}
FENCED, CODE = re.compile(r"(```.*?```)", flags=re.DOTALL), re.compile(r"(`[^`\n]+`)")


class PublicNames(griffe.Extension):
    """Adds the names that `trainers` has lazily, and makes Markdown of every docstring."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        for name, module in lazy_names(pkg).items():
            pkg.set_member(name, griffe.Alias(name, f"{pkg.path}.{module}.{name}"))
        if pkg.path in PACKAGES:
            for each in with_docstring(pkg):
                within = each if each.is_class else each.parent
                owner = within.path if within is not None and within.is_class else ""
                each.docstring.value = as_markdown(each.docstring.value, owner)


def lazy_names(package: griffe.Module) -> dict[str, str]:
    """Names that a package imports when they are used, from its table `_MODULES`: name to module."""
    table = package.members.get("_MODULES")
    return ast.literal_eval(str(table.value)) if isinstance(table, griffe.Attribute) else {}


def with_docstring(each: griffe.Object) -> Iterator[griffe.Object]:
    if each.docstring is not None:
        yield each
    for member in each.members.values():
        if not member.is_alias:
            yield from with_docstring(member)


@cache
def public_names() -> dict[str, str]:
    """Where a name is on the site: names of the packages, what they have, and the modules' own path of both."""
    collection, found = griffe.ModulesCollection(), {}
    for package in map(griffe.GriffeLoader(modules_collection=collection).load, PACKAGES):
        aliases = {name: each.target_path for name, each in package.members.items() if each.is_alias}
        aliases |= {name: f"{package.path}.{module}.{name}" for name, module in lazy_names(package).items()}
        for name, path in aliases.items():
            if name.startswith("_") or path.partition(".")[0] != package.path:
                continue
            target, public = collection[path], f"{package.path}.{name}"
            found |= {name: public, path: public}
            for member, each in target.members.items() if target.is_class else ():
                if each.is_function and each.docstring is not None and not member.startswith("_"):
                    found |= {f"{name}.{member}": f"{public}.{member}", f"{path}.{member}": f"{public}.{member}"}
    return found


def as_markdown(text: str, owner: str = "") -> str:
    """A docstring as Markdown; `owner` is the path of the class that it is of, whose methods it may name alone."""
    before, *sections = SECTION.split(text)
    blocks = [linked(before.strip(), owner)]
    for kind, body in zip(sections[::2], sections[1::2], strict=True):
        indented, rest = split_indented(body)
        blocks.append(f"**{TITLES.get(kind, kind)}**")
        is_list = kind in ("Args", "Attributes", "Raises")
        blocks.append(linked(as_list(indented) if is_list else indented, owner))
        blocks.append(linked(rest, owner))
    return "\n\n".join(block for block in blocks if block)


def split_indented(body: str) -> tuple[str, str]:
    """What is indented under a heading, and what comes after it."""
    lines = body.strip("\n").splitlines()
    end = next((row for row, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[:end])).strip(), "\n".join(lines[end:]).strip()


def as_list(body: str) -> str:
    """Entries `name (type): what it is`, with further lines indented, as a list."""
    items = []
    for entry in re.split(r"\n(?=\S)", body):
        found = re.match(r"([\w*., ]+?)( \(.*?\))?:(?=\s)", entry, flags=re.DOTALL)  # a type may hold parentheses
        if found:
            entry = f"**`{found[1]}`**{found[2] or ''}: {entry[found.end() :].lstrip()}"
        first, _, rest = entry.partition("\n")
        further = textwrap.indent(textwrap.dedent(rest), "    ")
        items.append("\n".join(filter(str.strip, [f"- {first}", further])))
    return "\n".join(items)


def linked(text: str, owner: str) -> str:
    """Links in place of [`Name`] where the name is on the site; elsewhere `<` means what it says."""

    def link(found: re.Match) -> str:
        name = found[1].removeprefix("~")
        shown = name.rpartition(".")[2] if found[1].startswith("~") else name
        place = public_names().get(name) or public_names().get(f"{owner}.{name}")
        return f"`{shown}`" if place is None else f"[`{shown}`][{place}]"

    def outside_of_fences(part: str) -> str:
        pieces = CODE.split(re.sub(r"\[`([^`\]]+)`\](?!\()", link, part))
        return "".join(piece if place % 2 else piece.replace("<", "&lt;") for place, piece in enumerate(pieces))

    return "".join(part if place % 2 else outside_of_fences(part) for place, part in enumerate(FENCED.split(text)))
