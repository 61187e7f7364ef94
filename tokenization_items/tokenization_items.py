"""`UniversalItemTokenizer`: processor, item index and network of an item tokenizer, the one object that users hold."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import create_repo, snapshot_download
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import BatchEncoding, PreTrainedModel
from transformers.utils import CONFIG_NAME, PushToHubMixin

from modeling_utgrec import ItemTrie, UTGRecTokenizerModel
from tokenization_items.catalogue import Catalogue
from tokenization_items.histories import encode_histories
from tokenization_items.item_index import AssignmentReport, ItemIndex
from tokenization_items.processing_items import PROCESSOR_FILE, ItemProcessor

TOKENIZER_FILE = "item_tokenizer_config.json"
FORMAT_VERSION = 1
# Input tokens of one batch when tokenizing a catalogue: enough to keep two CPU cores busy, little enough for memory.
BATCH_TOKENS = 8192


class TokenizerMismatchError(ValueError):
    """A recommender, an item index and a network do not belong together."""


class UniversalItemTokenizer(PushToHubMixin):
    """
    Turns items into identifiers and back (UTGRec, sections 2.2 and 2.4.1).

    It holds an item index, and for tokenizing new items a network with its processor. A copy without them (an
    *index-only* copy, as a recommender's folder carries) encodes and decodes the items it knows.

    Args:
        index ([`ItemIndex`]): item ids and their identifiers.
        fingerprint (`str`): ties index, network and recommender together, see [`network_fingerprint`].
        max_history (`int`, *optional*, defaults to 20): items of a history that the recommender sees.
        network ([`UTGRecTokenizerModel`], *optional*): the item tokenizer network.
        processor ([`ItemProcessor`], *optional*): the network's processor.

    Example:

    ```python
    >>> tokenizer = UniversalItemTokenizer.from_pretrained("org/utgrec-tokenizer")
    >>> tokenizer.add_items([{"item_id": "B00NX0X2Q0", "title": "Stapler", "categories": ["Office"]}])
    >>> tokenizer.decode(tokenizer.encode("B00NX0X2Q0"))
    'B00NX0X2Q0'
    >>> batch = tokenizer([["B00NX0X2Q0"]], return_tensors="pt")
    ```
    """

    def __init__(
        self,
        index: ItemIndex,
        fingerprint: str,
        max_history: int = 20,
        network: UTGRecTokenizerModel | None = None,
        processor: ItemProcessor | None = None,
    ):
        self.index = index
        self.fingerprint = fingerprint
        self.max_history = max_history
        self.processor = processor
        self._network = network
        self._network_folder: Path | None = None

    @classmethod
    def from_network(
        cls, network: UTGRecTokenizerModel, processor: ItemProcessor, max_history: int = 20
    ) -> "UniversalItemTokenizer":
        """A tokenizer of a trained network, with an empty index."""
        index = ItemIndex(network.config.level_sizes, network.config.level_offsets)
        return cls(index, network_fingerprint(network, processor), max_history, network, processor)

    @property
    def network(self) -> UTGRecTokenizerModel:
        """The item tokenizer network, loaded when it is first asked for.

        Raises:
            ValueError: for an index-only copy, or a folder whose network is missing or incomplete.
            TokenizerMismatchError: if the folder's network is not the one that gave the index its identifiers.
        """
        if self._network is None:
            if self._network_folder is None:
                raise ValueError(
                    "This tokenizer holds an item index only and cannot tokenize new items: load the folder or "
                    "repository that holds its network (config.json and model.safetensors) too."
                )
            network = load_network(self._network_folder)
            found = network_fingerprint(network, self.processor)
            if found != self.fingerprint:
                raise TokenizerMismatchError(
                    f"{self._network_folder}: the index was made by the network with fingerprint {self.fingerprint}, "
                    f"the network in the folder has {found}."
                )
            self._network = network
        return self._network

    @property
    def has_network(self) -> bool:
        """Whether this copy can tokenize new items."""
        return self._network is not None or self._network_folder is not None

    @property
    def trie(self) -> ItemTrie:
        """The identifiers that exist, for constrained generation."""
        return self.index.trie()

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.index

    def encode(self, item_id: str) -> list[int]:
        """The item's identifier as ids of the recommender's vocabulary."""
        return self.index.encode(item_id)

    def decode(self, tokens: Sequence[int]) -> str:
        """The item with this identifier."""
        return self.index.decode(tokens)

    def __call__(
        self, histories: Sequence[Sequence[str]], max_history: int | None = None, return_tensors: str | None = None
    ) -> BatchEncoding:
        """Histories of item ids, oldest first, as a recommender's inputs.

        Args:
            histories: one list of item ids for each user.
            max_history: items kept of each, the latest; by default the tokenizer's `max_history`.
            return_tensors: `"pt"` for torch tensors, `"np"` for arrays, by default lists.

        Returns:
            `input_ids` and `attention_mask`, `[users, longest history * num_levels]`, padded on the right.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise TypeError("histories must be a list with one list of item ids for each user")
        rows = [self.index.rows(history) for history in histories]
        input_ids, attention_mask = encode_histories(
            rows, self.index.token_table, self.max_history if max_history is None else max_history
        )
        values = {"input_ids": input_ids, "attention_mask": attention_mask}
        if return_tensors is None:
            values = {name: value.tolist() for name, value in values.items()}
        return BatchEncoding(values, tensor_type=return_tensors)

    def add_items(self, catalogue: Catalogue | Any, **arguments) -> AssignmentReport:
        """Gives new items their identifiers; those given before never change.

        Args:
            catalogue: a [`Catalogue`], or what [`Catalogue.from_records`] takes: a `datasets.Dataset`, a data frame,
                or dicts with `item_id`, text fields and `image`.
            arguments: passed on to [`~UniversalItemTokenizer.compute_codes`].

        Returns:
            [`AssignmentReport`]: how many items shared codes, how many moved how far, and the codebooks' usage.
        """
        if not isinstance(catalogue, Catalogue):
            catalogue = Catalogue.from_records(catalogue)
        catalogue.check(images=False)
        known = [item_id for item_id in catalogue.item_ids if item_id in self.index]
        if known:
            raise ValueError(
                f"{len(known)} items are in the index already and keep their identifiers; leave them out: {known[:10]}"
            )
        codes, residuals = self.compute_codes(catalogue, **arguments)
        with torch.no_grad():
            vectors = [vectors.float().cpu().numpy() for vectors in self.network.quantizer.level_vectors()]
        return self.index.assign(catalogue.item_ids, codes, residuals, vectors)

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Forgets items and frees their identifiers for items added later."""
        self.index.remove(item_ids)

    def compute_codes(
        self, catalogue: Catalogue, batch_tokens: int = BATCH_TOKENS, progress: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The codes that the network gives to items, before conflicts are resolved.

        Items of like length share a batch, so that little is padded; the batches don't influence the codes.

        Args:
            catalogue: the items; images are opened batch by batch.
            batch_tokens: input tokens of one batch, with padding; an image counts as the largest one would.
            progress: whether to show a bar; by default if the output is a terminal.

        Returns:
            Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.
        """
        network, processor = self.network.eval(), self.processor
        texts = processor.encode_texts(catalogue.texts)
        config = network.config
        codes = np.empty((len(texts), config.num_levels), dtype=np.int64)
        residuals = np.empty((len(texts), config.num_levels, config.codebook_dim), dtype=np.float32)
        bar = tqdm(
            total=len(texts), desc="Tokenizing", unit="item", disable=None if progress is None else not progress
        )
        with torch.inference_mode(), bar:
            images = [catalogue.has_image(row) * processor.max_image_tokens for row in range(len(texts))]
            lengths = [len(text) + image for text, image in zip(texts, images, strict=True)]
            for rows in length_batches(lengths, processor.prompt_length, batch_tokens):
                images = None
                if processor.image_processor is not None:
                    opened = [catalogue.image(row) for row in rows]
                    images = [None if image is None else processor.encode_image(image) for image in opened]
                batch = processor.collate([texts[row] for row in rows], images)
                output = network(**{name: value.to(network.device) for name, value in batch.items()})
                codes[rows] = output.codes.cpu().numpy()
                residuals[rows] = output.residuals.float().cpu().numpy()
                bar.update(len(rows))
        return codes, residuals

    def check_recommender(self, recommender: PreTrainedModel) -> None:
        """Raises [`TokenizerMismatchError`] unless the recommender was trained on this tokenizer's identifiers."""
        config = recommender.config
        found = (list(config.level_sizes), list(config.level_offsets), config.item_tokenizer_fingerprint)
        expected = (self.index.level_sizes, self.index.level_offsets, self.fingerprint)
        for name, a, b in zip(("level sizes", "level offsets", "fingerprint"), expected, found, strict=True):
            if a != b:
                raise TokenizerMismatchError(
                    f"Item tokenizer and recommender do not belong together: {name} of the tokenizer {a}, the "
                    f"recommender was trained with {b}. Load both from one training, or train the recommender anew."
                )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        include_network: bool | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Writes the tokenizer to a folder: index and settings, and with it network and processor.

        Args:
            save_directory: the folder; made if need be.
            include_network: `False` for an index-only copy. By default the network is written if there is one.
            push_to_hub: whether to upload what was written too, to the repository `repo_id`, by default the folder's
                name, with `commit_message`; further `kwargs` are those of `huggingface_hub.create_repo`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if push_to_hub:
            commit_message = kwargs.pop("commit_message", None)
            repo_id = create_repo(kwargs.pop("repo_id", folder.name), exist_ok=True, **kwargs).repo_id
            files_timestamps = self._get_files_timestamps(folder)
        self.index.save(folder)
        if self.has_network if include_network is None else include_network:
            self.network.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        values = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint, "max_history": self.max_history}
        temporary = folder / f".{TOKENIZER_FILE}.tmp"
        temporary.write_text(json.dumps(values, indent=2) + "\n")
        os.replace(temporary, folder / TOKENIZER_FILE)
        if push_to_hub:
            self._upload_modified_files(
                folder, repo_id, files_timestamps, commit_message=commit_message, token=kwargs.get("token")
            )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, index_only: bool = False, subfolder: str = "", **kwargs
    ) -> "UniversalItemTokenizer":
        """Loads a tokenizer from a folder or a Hub repository; its network is read when first needed.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            index_only: leaves the network out even if there is one (and does not download it).
            subfolder: folder within.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` for a Hub repository.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            wanted = "*.json" if index_only else "*"
            patterns = [str(Path(subfolder) / name) for name in (wanted, "item_index.safetensors")]
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=patterns, **kwargs))
        folder = folder / subfolder
        if not (folder / TOKENIZER_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no item tokenizer: {TOKENIZER_FILE} is missing. Save one with "
                "UniversalItemTokenizer.save_pretrained, or make one with examples/tokenize_items.py."
            )
        values = _read_json(folder / TOKENIZER_FILE)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"{folder / TOKENIZER_FILE}: format version {FORMAT_VERSION} expected, found {version}.")
        tokenizer = cls(ItemIndex.load(folder), **values)
        if not index_only and (folder / PROCESSOR_FILE).is_file():
            tokenizer.processor = ItemProcessor.from_pretrained(folder)
            tokenizer._network_folder = folder
        return tokenizer


def load_network(folder: Path) -> UTGRecTokenizerModel:
    """The network of a folder, with all of its weights: codes of weights that were made up would look like any."""
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder} holds no network: {CONFIG_NAME} is missing.")
    # Before a model is built: that of another configuration would be one of the default size, which takes minutes.
    kind = _read_json(folder / CONFIG_NAME).get("model_type")
    if kind != UTGRecTokenizerModel.config_class.model_type:
        raise TokenizerMismatchError(f"{folder} holds a model of type {kind}, not an item tokenizer's network.")
    try:
        network, report = UTGRecTokenizerModel.from_pretrained(folder, output_loading_info=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder}: the network cannot be read: {error}") from error
    lacking = sorted([*report["missing_keys"], *report["mismatched_keys"]], key=str)
    if lacking:
        raise ValueError(f"{folder}: {len(lacking)} weights of the network are missing or misshapen: {lacking[:5]}.")
    return network


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is truncated or not JSON: {error}") from error


def network_fingerprint(network: UTGRecTokenizerModel, processor: ItemProcessor) -> str:
    """A digest of what identifiers are made of: codebooks, adapter, the backbone's trained weights, levels, prompt."""
    digest = hashlib.sha256(json.dumps([network.config.level_sizes, network.config.level_offsets]).encode())
    digest.update(processor.prompt_key().encode())
    tensors = [*network.quantizer.parameters(), *network.adapter.parameters()]
    # With LoRA the backbone's own weights are whoever published them's, and large.
    adapted = network.config.lora_config is not None
    for name, parameter in network.backbone.named_parameters():
        if not adapted or "lora_" in name or name.endswith("code_tokens"):
            tensors.append(parameter)
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def length_batches(lengths: Sequence[int], prompt_length: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Rows of items in batches of like length, each of at most `batch_tokens` tokens (or of one item), longest first:
    what does not fit into memory shows at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // (lengths[order[start]] + prompt_length))
        yield order[start : start + size]
        start += size
