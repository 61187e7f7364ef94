"""References to the network of an item tokenizer, and the fingerprint that tells that it made an index."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from modeling_utgrec import (
    RecBaseTokenizerConfig,
    RecBaseTokenizerModel,
    RQVAEConfig,
    RQVAEModel,
    UTGRecTokenizerConfig,
    UTGRecTokenizerModel,
)
from tokenization_items.files import read_json_object
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_index import CODES_NAME, CONTENT_NAME
from tokenization_items.item_memory import MEMORY_NAME
from tokenization_items.item_provenance import PROVENANCE_NAME
from tokenization_items.processing_content import ContentProcessor, EmbeddingProcessor
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.sharded_index import SHARDED_NAME
from tokenization_items.text_statistics import STATISTICS_NAME

INDEX_FILES = ("*.json", CODES_NAME, CONTENT_NAME, PROVENANCE_NAME, MEMORY_NAME, f"{SHARDED_NAME}/*")
PROCESSOR_FILES = ("*.txt", "*.model", "*.jinja", STATISTICS_NAME)

Network = UTGRecTokenizerModel | RecBaseTokenizerModel | RQVAEModel
Processor = ItemProcessor | EmbeddingProcessor
# The networks that make semantic IDs, by the model type that their configuration states.
NETWORK_CONFIGS = {
    config.model_type: config for config in (UTGRecTokenizerConfig, RecBaseTokenizerConfig, RQVAEConfig)
}
# Those of them that read embeddings, and their processors, whose settings are in the configuration.
EMBEDDING_NETWORKS: dict[str, tuple[type[RecBaseTokenizerModel | RQVAEModel], type[EmbeddingProcessor]]] = {
    RecBaseTokenizerConfig.model_type: (RecBaseTokenizerModel, ContentProcessor),
    RQVAEConfig.model_type: (RQVAEModel, EmbeddingProcessor),
}


class TokenizerMismatchError(ValueError):
    """A recommender, an item index and a network do not belong together."""


@dataclass(frozen=True)
class NetworkReference:
    """
    A folder, or a repository of the Hub, that holds a network and its processor.

    Args:
        name_or_path (`str`): the folder or the repository.
        revision (`str`, *optional*): commit of the repository.
        subfolder (`str`): folder within.
    """

    name_or_path: str
    revision: str | None = None
    subfolder: str = ""

    def __str__(self) -> str:
        place = "/".join(filter(None, (self.name_or_path, self.subfolder)))
        return place + (f" at revision {self.revision}" if self.revision else "")

    @property
    def is_lost(self) -> bool:
        """Whether it is a folder that is not there, as after the folder that names it was copied without it."""
        return self.name_or_path.startswith((".", os.sep)) and not Path(self.name_or_path).is_dir()

    @property
    def why_lost(self) -> str:
        """What the lack of the folder means, and what to do."""
        return (
            f"{self} was to hold the item tokenizer's network, but there is no such folder: without it, items "
            "that the index does not know cannot be tokenized. Copy it there, or name its place: "
            "UniversalItemTokenizer.from_pretrained(..., network=<folder or Hub id>)."
        )

    def as_seen_from(self, folder: Path) -> dict[str, Any]:
        """Values for a file in `folder`; a folder is relative to it, so that both may move together."""
        values = asdict(self)
        if Path(self.name_or_path).is_dir():
            values["name_or_path"] = os.path.join(".", os.path.relpath(self.name_or_path, folder))
        return values

    @classmethod
    def seen_from(cls, folder: Path, values: dict[str, Any]) -> "NetworkReference":
        """The place that a file in `folder` names.

        Raises:
            ValueError: if it names none.
        """
        keys = ("name_or_path", "revision", "subfolder")
        places = [values.get(key) for key in keys] if isinstance(values, dict) else [None]
        if not isinstance(places[0], str) or not all(isinstance(part, str | None) for part in places):
            raise ValueError(f"{folder}: the place of the network must be texts, found {str(values)[:60]!r}.")
        name = places[0]
        if name.startswith("."):  # no repository does
            name = os.path.normpath(folder / name)
        return cls(name, values.get("revision"), values.get("subfolder") or "")

    def load(self, without_decoders: bool = False, **hub_arguments) -> tuple[Network, Processor]:
        """
        Loads network and processor.

        Args:
            without_decoders (`bool`, *optional*, defaults to `False`): leaves out what only training uses.
            hub_arguments: `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            OSError: if there is no network, or a file is missing.
            ValueError: if the network cannot be read, or the place holds another kind of model.
        """
        if self.is_lost:
            raise FileNotFoundError(self.why_lost)
        arguments = {"revision": self.revision, "subfolder": self.subfolder, **hub_arguments}
        kind = PreTrainedConfig.get_config_dict(self.name_or_path, **arguments)[0].get("model_type")
        if kind in EMBEDDING_NETWORKS:
            network_class, processor_class = EMBEDDING_NETWORKS[kind]
            network = network_class.from_pretrained(self.name_or_path, **arguments)
            return network, processor_class.from_pretrained(self.name_or_path, network.config, **arguments)
        parts = {"with_decoders": False} if without_decoders else {}
        network = UTGRecTokenizerModel.from_pretrained(self.name_or_path, **parts, **arguments)
        return network, ItemProcessor.from_pretrained(self.name_or_path, **arguments)


def fetch_items(repo_id: str, subfolder: str, index_only: bool, **hub_arguments) -> Path:
    """Downloads an item index, its memory if there is one and, unless `index_only`, the files of a processor, but no
    network.

    Returns:
        A folder that has the commit's name.

    Raises:
        HubError: if there is no such repository, or one that may not be read.
    """
    files = INDEX_FILES if index_only else INDEX_FILES + PROCESSOR_FILES
    return model_folder(repo_id, [str(Path(subfolder) / file) for file in files], **hub_arguments)


def model_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model that a folder holds; empty if it holds none."""
    file = folder / CONFIG_NAME
    return read_json_object(file) if file.is_file() else {}


def network_fingerprint(network: Network, processor: Processor) -> str:
    """A digest of what semantic IDs are made of: the levels, the prompt or template, and what of the network codes
    depend on."""
    digest = hashlib.sha256(json.dumps([network.config.level_sizes, network.config.level_offsets]).encode())
    digest.update(processor.prompt_key().encode())
    for tensor in network.code_tensors():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
