"""Folders of models: those of this machine and those of the Hub, and in plain words why one cannot be had."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# What the client lets through where a connection is cut, too: its HTTP library's own, another one in each release.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


class HubError(OSError):
    """A model that is no folder and cannot be had from the Hub; the message says why, and what to do."""


def model_folder(
    name_or_path: str | os.PathLike[str], files: Iterable[str], revision: str | None = None, **hub_arguments: Any
) -> Path:
    """
    The folder of a model: the one of that path, or else a repository of the Hub, downloaded unless the cache has it.

    Args:
        name_or_path (`str` or `Path`): folder or Hub id.
        files (`Iterable[str]`): patterns of the files that are downloaded.
        revision (`str`, *optional*): branch, tag or commit of the repository.
        hub_arguments: `token`, `cache_dir`, `local_files_only`, `force_download`, `local_dir`, as everywhere.

    Returns:
        The folder; unless there is a `local_dir`, a downloaded one has the commit's name.

    Raises:
        HubError: no such repository or revision, one that may not be read, or the Hub cannot be reached.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    name, place = str(name_or_path), f"{constants.ENDPOINT}/{name_or_path}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files), **hub_arguments))
    except HFValidationError as error:
        raise HubError(f"{name} is neither a folder nor the id of a repository: {error}") from error
    except GatedRepoError as error:
        reason = "is gated: ask for access on that page, and log in with `hf auth login`."
        raise HubError(f"{place} {reason}") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{name} is no folder here, and {place} no repository that can be read: mind the spelling; for a private "
            "one log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{place} has no branch, tag or commit {revision!r}.") from error
    except LocalEntryNotFoundError as error:
        what = name if revision is None else f"revision {revision} of {name}"
        raise HubError(
            f"{name} is no folder here, and {what} is not in this machine's cache while the Hub cannot be reached: "
            f"run `hf download {name}` where it can, and unset HF_HUB_OFFLINE if that is why."
        ) from error
    except (HTTP_ERROR, OSError) as error:  # it has no time, or sends other files than it said
        raise HubError(f"{place} cannot be downloaded: {str(error).strip()}. Try again later.") from error
