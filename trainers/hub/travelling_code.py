"""Code that travels: modules of ours gathered into one flat folder that needs none of our packages."""

import re
from collections.abc import Mapping
from pathlib import Path

from hub_cards import write_text

ROOT = Path(__file__).parents[2]
_OURS = re.compile(r"^(\s*)from (?:modeling_utgrec|trainers\.hub)?\.(\w+) import", re.MULTILINE)


def gather_code(modules: Mapping[str, str], folder: Path) -> list[str]:
    """
    Writes modules, and all of ours that they import, beside each other; they import each other as neighbours then.

    Args:
        modules (`Mapping[str, str]`): names in the folder, such as `"generate"`, to modules of `modeling_utgrec` or
            `trainers.hub`, such as `"modeling_utgrec.generation_plain"`, whose own imports are of these two, of
            packages that every user has, and of what the module is for.
        folder (`Path`): where they go.

    Returns:
        `list[str]`: names of the files.
    """
    waiting, written = dict(modules), {}
    while waiting:
        name, module = waiting.popitem()
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for match in _OURS.finditer(text):
            neighbour = match[2]
            room = "trainers.hub" if match[0].strip().startswith("from trainers") else "modeling_utgrec"
            if neighbour not in written:
                waiting[neighbour] = f"{room}.{neighbour}"
        written[name] = _OURS.sub(r"\1from .\2 import", text)
    for name, text in written.items():
        write_text(folder / f"{name}.py", text)
    return sorted(f"{name}.py" for name in written)
