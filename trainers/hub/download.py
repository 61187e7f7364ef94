"""Models that a command line names by folder or Hub id: where they are, and of which commit."""

from dataclasses import dataclass
from pathlib import Path

from transformers.utils import CONFIG_NAME

from tokenization_items.hub_folders import HubError, model_folder
from tokenization_items.tokenization_items import TOKENIZER_FILE

SETTINGS = (CONFIG_NAME, TOKENIZER_FILE)  # a model has one of them, whatever it is


@dataclass(frozen=True)
class ModelPlace:
    """
    Where a model is, for `from_pretrained(name, revision=revision)`.

    Args:
        name (`str`): folder or Hub id.
        revision (`str`, *optional*): the repository's commit, so that all that is read is of one; None for a folder.
        folder (`Path`): the folder, or what was downloaded.
    """

    name: str
    revision: str | None
    folder: Path


def find_model(name: str | Path, revision: str | None = None) -> ModelPlace:
    """
    Looks for a model before there is any work, and settles its commit.

    Args:
        name (`str` or `Path`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.

    Raises:
        HubError: no such model, or one that may not be read; a folder with a revision.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise HubError(f"{name} is a folder, and folders have no revision {revision!r}: leave it out.")
        return ModelPlace(str(name), None, Path(name))
    folder = model_folder(name, SETTINGS, revision)
    if not any((folder / file).is_file() for file in SETTINGS):
        raise HubError(f"{name} on the Hub holds no model: neither {' nor '.join(SETTINGS)}.")
    return ModelPlace(str(name), folder.name, folder)


def find_part(pretrained: str | Path, part: str, revision: str | None = None) -> ModelPlace:
    """
    Looks for one of the models that `utgrec pretrain` leaves.

    Args:
        pretrained (`str` or `Path`): its output folder, or the name that it pushed to.
        part (`str`): `"tokenizer"` or `"recommender"`: the folder within, or the repository with that at its end.
        revision (`str`, *optional*): branch or tag on the Hub.

    Raises:
        HubError: it is not there.
    """
    if Path(pretrained).is_dir():
        folder = Path(pretrained) / part
        if not folder.is_dir():
            raise HubError(f"{pretrained} is no output folder of pretrain: there is no folder {part} in it.")
        return find_model(folder, revision)
    try:
        return find_model(f"{pretrained}-{part}", revision)
    except HubError as error:
        raise HubError(
            f"{error} (`--pretrained {pretrained}` on the Hub is {pretrained}-tokenizer and {pretrained}-recommender.)"
        ) from error
