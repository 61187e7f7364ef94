"""A repository of the beam search over items, for `model.generate(..., custom_generate="org/name", trie=...)`."""

from importlib import resources
from pathlib import Path

from hub_cards import write_text
from tokenization_items.files import replacing_folder
from trainers.hub.travelling_code import gather_code

FOLDER = "custom_generate"  # where transformers looks for generate.py and requirements.txt
REQUIREMENTS = "torch>=2.6\ntransformers>=5.16,<6\n"


def export_custom_generate(folder: str | Path, overwrite: bool = False) -> list[str]:
    """
    Writes the repository: `custom_generate/generate.py` with what it imports, the requirements and a README.

    Args:
        folder (`str` or `Path`): where it goes, whole or not at all.
        overwrite (`bool`, *optional*, defaults to `False`): whether an earlier one there is replaced.

    Returns:
        `list[str]`: paths of the files in the folder.

    Raises:
        FileExistsError: the folder is not empty, or holds something else.
    """
    with replacing_folder(folder, overwrite, mark=f"{FOLDER}/generate.py") as working:
        (working / FOLDER).mkdir()
        gather_code({"generate": "modeling_utgrec.generation_plain"}, working / FOLDER)
        write_text(working / FOLDER / "requirements.txt", REQUIREMENTS)
        card = resources.files("hub_cards").joinpath("templates/custom_generate.md").read_text(encoding="utf-8")
        write_text(working / "README.md", card)
        return sorted(path.relative_to(working).as_posix() for path in working.rglob("*") if path.is_file())


__all__ = ["FOLDER", "export_custom_generate"]
