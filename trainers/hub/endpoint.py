"""Files by which Inference Endpoints serves a recommender's repository: its handler, and what that needs installed."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from hub_cards import write_text
from tokenization_items.network_reference import NETWORK_CONFIGS, model_config
from tokenization_items.tokenization_items import TOKENIZER_FILE

HANDLER = Path(__file__).parents[1] / "serving" / "endpoint_handler.py"  # only read here
HANDLER_FILE, REQUIREMENTS_FILE = "handler.py", "requirements.txt"  # the names that Inference Endpoints looks for


def endpoint_files(folder: str | os.PathLike) -> dict[str, str]:
    """The files that a folder lacks, name to text; none if it holds no recommender with its items. A file that is
    there, of whomever, stays."""
    folder = Path(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        return {}
    kind = model_config(folder).get("model_type")
    if kind is None or kind in NETWORK_CONFIGS:
        return {}
    try:
        version = f">={metadata.version('utgrec')}"
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        version = ""
    files = {HANDLER_FILE: HANDLER.read_text(encoding="utf-8"), REQUIREMENTS_FILE: f"utgrec{version}\n"}
    return {name: text for name, text in files.items() if not (folder / name).exists()}


def write_endpoint(folder: str | os.PathLike) -> None:
    """Writes [`endpoint_files`]."""
    for name, text in endpoint_files(folder).items():
        write_text(Path(folder) / name, text)
