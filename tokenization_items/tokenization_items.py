"""`UniversalItemTokenizer`: processor, item index and network of an item tokenizer, the one object that users hold."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub import CommitInfo
from transformers import AutoConfig, BatchEncoding, PreTrainedConfig, PreTrainedModel
from transformers.utils import PushToHubMixin, logging

from hub_cards.item_ids import is_id
from modeling_utgrec import ItemTrie, RecBaseTokenizerConfig, RQVAEConfig
from modeling_utgrec.checkpoint_format import FORMAT_VERSION, Upload, check_format_version
from modeling_utgrec.configuration_levels import MAX_HISTORY
from modeling_utgrec.item_memory import ItemMemory
from tokenization_items.batching import BLOCK_ITEMS
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from tokenization_items.catalogue_codes import BATCH_TOKENS, NUM_WORKERS
from tokenization_items.catalogue_updates import (
    CatalogueDrift,
    CatalogueUpdate,
    check_ids,
    compare_items,
    updated_provenance,
    updated_titles,
)
from tokenization_items.collision_report import AssignmentReport, report_assignment
from tokenization_items.collisions import Collisions, check_capacity, check_way
from tokenization_items.domain_mean import domain_mean
from tokenization_items.files import read_json_object, read_numbers, read_settings, temporary_folder, write_json
from tokenization_items.histories import PAD_TOKEN_ID, encode_histories
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_index import CODES_NAME, ItemIndex
from tokenization_items.item_memory import MEMORY_NAME, ItemMemoryError, StoredMemory
from tokenization_items.item_provenance import content_digests
from tokenization_items.network_reference import (
    EMBEDDING_NETWORKS,
    NETWORK_CONFIGS,
    Network,
    NetworkReference,
    Processor,
    TokenizerMismatchError,
    fetch_items,
    model_config,
    network_fingerprint,
)
from tokenization_items.processing_items import PROCESSOR_FILE, ItemProcessor
from tokenization_items.sharded_index import MANIFEST_NAME, SHARDED_NAME, ShardedItemIndex
from tokenization_items.text_template import TextTemplate

logger = logging.get_logger(__name__)

TOKENIZER_FILE = "item_tokenizer_config.json"
# No fingerprint: semantic IDs of no item tokenizer, which a recommender without one was trained on.
SETTINGS: dict[str, tuple[type, ...]] = {"fingerprint": (str, type(None)), "max_history": (int,)}
SETTINGS |= {"index_sha256": (str, type(None)), "network": (dict, type(None)), "domain_mean": (list, type(None))}
SETTINGS |= {"text_fields": (list, type(None))}
SETTINGS |= {"introduction": (str, type(None)), "max_field_characters": (int, type(None))}
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")


class UniversalItemTokenizer(PushToHubMixin):
    """
    Turns items into semantic IDs and back (UTGRec, sections 2.2 and 2.4.1), with UTGRec's network, RecBase's, or an
    RQ-VAE (TIGER, LETTER).

    It holds an item index, and for tokenizing new items a network with its processor. A copy without them (an
    *index-only* copy, as a recommender's folder carries) encodes and decodes the items it knows; it may know where the
    network is, and fetches it when new items come.

    Args:
        index ([`ItemIndex`]): item ids and their semantic IDs.
        fingerprint (`str` or `None`): ties index, network and recommender together, see [`network_fingerprint`].
        max_history (`int`, *optional*, defaults to 20): items of a history that the recommender sees.
        network ([`UTGRecTokenizerModel`], [`RecBaseTokenizerModel`] or [`RQVAEModel`], *optional*): the item tokenizer
            network.
        processor ([`ItemProcessor`], [`ContentProcessor`] or [`EmbeddingProcessor`], *optional*): the network's
            processor.

    Example:

    ```python
    >>> tokenizer = UniversalItemTokenizer.from_pretrained("org/utgrec-tokenizer")
    >>> tokenizer.add_items([{"item_id": "B00NX0X2Q0", "title": "Stapler", "categories": ["Office"]}])
    >>> tokenizer.decode(tokenizer.encode("B00NX0X2Q0"))
    'B00NX0X2Q0'
    >>> batch = tokenizer([["B00NX0X2Q0"]], return_tensors="pt")
    ```

    Attributes:
        has_network (`bool`): whether this copy holds the network, and saves it by default.
        network_reference ([`NetworkReference`], *optional*): where the network is; index-only copies that are saved
            name it.
        domain_mean (`np.ndarray`, *optional*): float32 `[input_dim]`, what a network with `centre_domains` has
            taken off the vectors of the items, see [`~UniversalItemTokenizer.mean_of`].
        text_fields (`tuple[str, ...]`): fields that the texts of its items are put together from: those of the
            catalogue that it was given first.
        template ([`TextTemplate`], *optional*): what puts them together: that of the same catalogue, such as with an
            introduction of its domain, or else the processor's.
    """

    pad_token_id = PAD_TOKEN_ID  # of the histories; these two are what a transformers pipeline asks a tokenizer for
    padding_side = "right"

    def __init__(
        self,
        index: ItemIndex,
        fingerprint: str | None,
        max_history: int = 20,
        network: Network | None = None,
        processor: Processor | None = None,
    ):
        self.index = index
        self.fingerprint = fingerprint
        self.max_history = _checked(max_history)
        self.processor = processor
        self.has_network = network is not None
        self._network = network
        self._lacks_decoders = False
        self.network_reference: NetworkReference | None = None
        self.domain_mean: np.ndarray | None = None
        self.text_fields: tuple[str, ...] = TEXT_FIELDS
        self._template: TextTemplate | None = None  # where it is another than the processor's
        self._hub_arguments: dict[str, Any] = {}
        self._memory: StoredMemory | None = None
        self._memory_file: Path | None = None  # from which it is read when it is first asked for
        self._memory_index: str | None = None  # checksum of the index that it is of, which may have changed since
        self._has_no_memory = False  # as was said

    @classmethod
    def from_network(cls, network: Network, processor: Processor, max_history: int = 20) -> "UniversalItemTokenizer":
        """A tokenizer of a trained network, with an empty index."""
        index = ItemIndex(network.config.level_sizes, network.config.level_offsets)
        return cls(index, network_fingerprint(network, processor), max_history, network, processor)

    @property
    def network(self) -> Network:
        """The item tokenizer network, loaded when it is first asked for.

        Raises:
            ValueError: for an index-only copy, or a network that is incomplete.
            OSError: if the network is not where it should be.
            TokenizerMismatchError: if the network is not the one that gave the index its semantic IDs.
        """
        return self._loaded(without_decoders=False)

    @property
    def encoding_network(self) -> Network:
        """The network, without its decoders if it has to be loaded; errors as those of `network`."""
        return self._loaded(without_decoders=True)

    def _loaded(self, without_decoders: bool) -> Network:
        if self._network is None or (self._lacks_decoders and not without_decoders):
            if self.network_reference is None:
                raise ValueError(
                    "This tokenizer holds an item index only and cannot tokenize new items: load the folder or "
                    "repository that holds its network (config.json and model.safetensors) too."
                )
            device = None if self._network is None else self._network.device
            self._network = None  # there is room for one
            network, processor = self.network_reference.load(without_decoders, **self._hub_arguments)
            processor = self.processor or processor
            found = network_fingerprint(network, processor)
            if found != self.fingerprint:
                raise TokenizerMismatchError(
                    f"{self.network_reference}: the index was made by the network with fingerprint "
                    f"{self.fingerprint}, the network there has {found}."
                )
            if device is not None:
                network.to(device)  # type: ignore[arg-type]
            self._network, self.processor = network, processor
            self._lacks_decoders = without_decoders
        return self._network

    @property
    def trie(self) -> ItemTrie:
        """The semantic IDs that exist, for constrained generation."""
        return self.index.trie()

    @property
    def memory(self) -> ItemMemory | None:
        """The memory of transitions and content that lies beside the index, for `recommend`; `None` if there is none.

        Raises:
            ItemMemoryError: if it does not belong to the index, as after items were added or removed, or is broken.
        """
        stored = self.stored_memory
        return None if stored is None else stored.memory

    @property
    def stored_memory(self) -> StoredMemory | None:
        """That memory with what its file says, read when it is first asked for and saved with the tokenizer; errors as
        those of `memory`. What is set is that of the items as they are; None, and none is saved."""
        if self._memory is None and self._memory_file is None:
            return None
        if self._memory is None or self.index.checksum != self._memory_index:
            if self._memory_file is None:
                raise ItemMemoryError(
                    "The memory belongs to another item index: items were added or removed since it was set."
                )
            self._memory = StoredMemory.load(self._memory_file.parent, self.index)
        return self._memory

    @stored_memory.setter
    def stored_memory(self, stored: StoredMemory | None) -> None:
        self._memory, self._memory_file, self._memory_index = stored, None, self.index.checksum
        self._has_no_memory = stored is None

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.index

    def encode(self, item_id: str) -> list[int]:
        """The item's semantic ID as ids of the recommender's vocabulary."""
        return self.index.encode(item_id)

    def decode(self, tokens: Sequence[int]) -> str:
        """The item with this semantic ID."""
        return self.index.decode(tokens)

    def __call__(
        self, histories: Sequence[Sequence[str]], max_history: int | None = None, return_tensors: str | None = None
    ) -> BatchEncoding:
        """Histories of item ids, oldest first, as a recommender's inputs.

        Args:
            histories (`Sequence[Sequence[str]]`): one list of item ids for each user.
            max_history (`int`, *optional*): items kept of each, the latest; by default the tokenizer's `max_history`.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors, `"np"` for arrays, by default lists.

        Returns:
            `input_ids` and `attention_mask`, `[users, longest history * num_levels]`, padded on the right.
        """
        if isinstance(histories, str) or any(is_id(history) for history in histories):
            raise TypeError("histories must be a list with one list of item ids for each user")
        rows = [self.index.rows(history) for history in histories]
        input_ids, attention_mask = encode_histories(
            rows, self.index.token_table, self.max_history if max_history is None else max_history
        )
        values = {"input_ids": input_ids, "attention_mask": attention_mask}
        if return_tensors is None:
            values = {name: value.tolist() for name, value in values.items()}
        return BatchEncoding(values, tensor_type=return_tensors)

    def add_items(
        self,
        catalogue: Catalogue | ContentEmbeddings | Any,
        collisions: Collisions | None = None,
        content: np.ndarray | None = None,
        content_encoder: str | None = None,
        keep_residuals: bool = False,
        **arguments: Any,
    ) -> AssignmentReport:
        """Gives new items their semantic IDs; those given before never change.

        A digest of each item's content is kept beside the index, see [`~UniversalItemTokenizer.update_items`]; of
        [`ContentEmbeddings`] there is none.

        Args:
            catalogue (`Catalogue` or `ContentEmbeddings`): a [`Catalogue`], or what [`Catalogue.from_records`] takes:
                a `datasets.Dataset`, a data frame, or dicts with `item_id`, text fields and `image`. For RecBase's
                network a catalogue must have been made with a template ([`TextTemplate`]); other records get the
                `template` and `text_fields` of this tokenizer. Networks that read embeddings take
                [`ContentEmbeddings`], and an RQ-VAE nothing else.
            collisions (`str`, *optional*): how items to which the network gives the same codes are told apart, see
                [`~tokenization_items.collisions`]: `"least_distance"`, `"nearest_first"` (UTGRec's order) or `"digit"`
                (TIGER's further level, for all items of an index); by default the first, or the last if the index has
                such a level.
            content (`np.ndarray`, *optional*): content vectors of the items `[items, width]`, where the index has
                those of its items for a recommender that reads them, see [`ItemIndex.set_content`].
            content_encoder (`str`, *optional*): fingerprint of the encoder that made them, if it is known.
            keep_residuals (`bool`, *optional*, defaults to `False`): whether the report has what was quantized.
            arguments: passed on to [`~UniversalItemTokenizer.compute_codes`].

        Returns:
            [`AssignmentReport`]: how many items shared codes, how many moved how far, and the codebooks' usage.

        Raises:
            CatalogueError, EmbeddingError: if an item cannot be tokenized; it is named.
            CapacityError: if there are more items than semantic IDs.
            ValueError: if an item is in the index already, or `collisions` is no way, or not the index's.
        """
        num_codes = len(self.encoding_network.config.level_sizes)
        if collisions is None:
            collisions = "digit" if num_codes < self.index.num_levels else "least_distance"
        check_way(collisions)
        self.index.check_collisions(num_codes, collisions)
        titles, digests = None, None
        if not isinstance(catalogue, ContentEmbeddings):
            catalogue = self._as_catalogue(catalogue)
            catalogue.check(images=False)
            titles = catalogue.titles
            if not len(self.index):
                self.text_fields, self.template = catalogue.text_fields, catalogue.template
        self.index.check_new(catalogue.item_ids)
        self.index.check_content(catalogue.item_ids, content, content_encoder)
        if collisions != "digit":
            check_capacity(len(catalogue.item_ids), len(self.index), self.index.level_sizes)
        codes, residuals = self.compute_codes(catalogue, **arguments)
        if not isinstance(catalogue, ContentEmbeddings):
            digests = content_digests(catalogue, self.reads_images)
        report = self.index.assign(
            catalogue.item_ids, codes, residuals, self.level_vectors(), titles, collisions, content, content_encoder
        )
        if digests is not None:
            rows = np.arange(len(digests))
            provenance = updated_provenance(self.index, catalogue.item_ids, digests, rows, rows, codes)
            self.index.set_provenance(provenance)
        return replace(report, residuals=residuals) if keep_residuals else report

    def _as_catalogue(self, items: Any) -> Catalogue:
        """Items as the network reads them, of whatever [`Catalogue.from_records`] takes."""
        if isinstance(items, Catalogue):
            return items
        return Catalogue.from_records(items, self.text_fields, template=self.template)

    @property
    def loaded_processor(self) -> Processor:
        """The network's processor; a copy without any loads the network, with which it comes. Errors as those of
        `network`."""
        if self.processor is None:
            _ = self.encoding_network
        assert self.processor is not None
        return self.processor

    @property
    def template(self) -> TextTemplate | None:
        return self.loaded_processor.template if self._template is None else self._template

    @template.setter
    def template(self, template: TextTemplate | None) -> None:
        self._template = None if template == self.loaded_processor.template else template

    @property
    def reads_images(self) -> bool:
        """Whether the network reads images, too; errors as those of `network`."""
        return getattr(self.loaded_processor, "image_processor", None) is not None

    def level_vectors(self) -> list[np.ndarray]:
        """The network's code vectors of each level, float32 `[codes, dim]`; errors as those of `network`."""
        with torch.no_grad():
            return [vectors.float().cpu().numpy() for vectors in self.encoding_network.quantizer.level_vectors()]

    def update_items(
        self,
        catalogue: Catalogue | Any,
        retokenize: bool = False,
        remove_missing: bool = False,
        content_of: Callable[[Catalogue], np.ndarray] | None = None,
        content_encoder: str | None = None,
        state: PartialState | None = None,
        keep_residuals: bool = False,
        **arguments: Any,
    ) -> CatalogueUpdate:
        """Brings the index up to date with a catalogue: new items get semantic IDs, those given before stay.

        A digest of each item's content is kept beside the index, by which a later catalogue's changes are seen: of
        its text as the network reads it, and of its image's file if the network reads images.

        Args:
            catalogue (`Catalogue`): the items of today, or some of them, or what [`Catalogue.from_records`] takes;
                texts by the same fields as before, or all have changed.
            retokenize (`bool`, *optional*, defaults to `False`): whether items get new semantic IDs if their content
                is another than theirs was made of; by default they keep them.
            remove_missing (`bool`, *optional*, defaults to `False`): whether items are removed that the catalogue
                lacks, and their semantic IDs freed; by default they stay, so that a part of a catalogue loses nothing.
            content_of (`Callable[[Catalogue], np.ndarray]`, *optional*): gives content vectors `[items, width]` of a
                catalogue, where the index has those of its items, see [`ItemIndex.set_content`].
            content_encoder (`str`, *optional*): fingerprint of the encoder that makes them, if it is known.
            state (`PartialState`, *optional*): with several processes, see [`~UniversalItemTokenizer.compute_codes`].
            keep_residuals (`bool`, *optional*, defaults to `False`): whether the report of what was assigned has what
                was quantized.
            arguments: passed on to [`~UniversalItemTokenizer.compute_codes`].

        Returns:
            [`CatalogueUpdate`]: what was done, and how far the index has drifted. Collisions are resolved by the level
            of digits if the index has one, or else by the least distance.

        Raises:
            CatalogueError: if an item has no id or that of another, or all have those of the index in another way of
                writing, or one that is to be tokenized has neither text nor image, or a broken one; up to 10 are
                named.
            CapacityError, ValueError: as `add_items`, or if all items were to be removed. The index is as it was after
                any error.
        """
        self.index.check_changes()
        catalogue = self._as_catalogue(catalogue)
        catalogue.check(images=False, rows=())
        check_ids(self.index, catalogue.item_ids, catalogue.name)
        reads_images = self.reads_images
        digests = content_digests(catalogue, reads_images)
        changes = compare_items(self.index, catalogue.item_ids, digests)
        if remove_missing and 0 < len(self.index) == len(changes.missing):
            raise ValueError(
                f"{catalogue.name}: none of its {len(catalogue)} items is in the index, so that nothing would be left "
                f"of the {len(self)} that are. Are the ids written as they were? For another assortment make a new "
                "index."
            )
        again = changes.stale if retokenize else changes.stale[:0]
        assigned = np.concatenate([changes.added, again])
        rows = np.concatenate([assigned, np.setdiff1d(changes.changed, again)])  # whose codes are asked for
        mine = rows if state is None else rows[state.process_index :: state.num_processes]
        catalogue.check(images=mine if reads_images else False, rows=rows)

        index, removed = copy.copy(self.index), changes.missing if remove_missing else []
        if removed:  # what the copy holds is replaced, never changed
            index.remove(removed)
        chosen, content = catalogue.select(assigned), None
        if len(chosen) and content_of is not None and (index.content is not None or not len(index)):
            content = content_of(chosen)
        if len(chosen):
            index.check_content(chosen.item_ids, content, content_encoder)
        has_digits = len(rows) > 0 and len(self.encoding_network.config.level_sizes) < index.num_levels
        if not has_digits:
            check_capacity(len(changes.added), len(index), index.level_sizes)
        if not len(self.index):
            self.text_fields, self.template = catalogue.text_fields, catalogue.template
        codes, residuals, vectors = np.zeros((0, index.num_levels), np.int64), None, None
        if len(rows):
            codes, residuals = self.compute_codes(catalogue.select(rows), state=state, **arguments)
            residuals, vectors = residuals[: len(assigned)], self.level_vectors()
        again_ids = [catalogue.item_ids[row] for row in again.tolist()]
        codes_before = index.codes[index.rows(again_ids)]
        assignment = index.assign(
            chosen.item_ids,
            codes[: len(assigned)],
            residuals,
            vectors,
            chosen.titles,
            "digit" if has_digits else "least_distance",
            content,
            content_encoder,
            replace=True,
        )
        if keep_residuals:
            assignment = replace(assignment, residuals=residuals)
        is_other = (codes_before != index.codes[index.rows(again_ids)]).any(1)
        index.set_titles(updated_titles(index, catalogue.item_ids, catalogue.titles))
        index.set_provenance(updated_provenance(index, catalogue.item_ids, digests, assigned, rows, codes))
        checksum, self.index = self.index.checksum, index
        return CatalogueUpdate(
            name=catalogue.name,
            added=[catalogue.item_ids[row] for row in changes.added.tolist()],
            changed=[catalogue.item_ids[row] for row in changes.changed.tolist()],
            retokenized=again_ids,
            reassigned=[item_id for item_id, other in zip(again_ids, is_other.tolist(), strict=True) if other],
            removed=removed,
            missing=len(changes.missing) - len(removed),
            unknown=len(changes.unknown),
            assignment=assignment,
            drift=CatalogueDrift.of(index),
            fingerprint=self.fingerprint,
            index_sha256=(checksum, index.checksum),
        )

    def remove_items(self, item_ids: Sequence[str]) -> CatalogueUpdate:
        """Forgets items and frees their semantic IDs for items added later; says what has become of the index.

        Raises:
            UnknownItemError: one of them is not in the index; none is removed then.
        """
        index, checksum = self.index, self.index.checksum
        removed = [index.item_ids[row] for row in np.unique(index.rows(item_ids)).tolist()]
        index.remove(removed)
        none = index.codes[:0].astype(np.int64)
        return CatalogueUpdate(
            name="removal",
            removed=removed,
            assignment=report_assignment(none, none, index.codes.astype(np.int64), index.level_sizes),
            drift=CatalogueDrift.of(index),
            fingerprint=self.fingerprint,
            index_sha256=(checksum, index.checksum),
        )

    def compute_codes(
        self,
        catalogue: Catalogue | ContentEmbeddings | Any,
        batch_tokens: int = BATCH_TOKENS,
        progress: bool | None = None,
        num_workers: int = NUM_WORKERS,
        feature_cache: str | os.PathLike | None = None,
        resume_folder: str | os.PathLike | None = None,
        state: PartialState | None = None,
        block_items: int = BLOCK_ITEMS,
        domain_mean: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The codes that the network gives to items, before collisions are resolved.

        Args:
            catalogue: as in [`~UniversalItemTokenizer.add_items`].
            batch_tokens, ...: see [`~tokenization_items.catalogue_codes.codes_of_catalogue`]. Networks that read
                embeddings take `batch_tokens`, `progress` and `block_items` alone: texts are embedded by each process,
                without a cache.
            domain_mean (`np.ndarray`, *optional*): of the catalogue that these items are a part of, where the network
                has `centre_domains`; by default [`~UniversalItemTokenizer.mean_of`] these items.

        Returns:
            Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.

        Raises:
            CatalogueError: if an image cannot be opened; the item is named.
            EmbeddingError, EncoderMismatchError: as [`~EmbeddingProcessor.embeddings_of`].
            ValueError, TokenizerMismatchError: as [`~UniversalItemTokenizer.mean_of`].
        """
        network = self.encoding_network.eval()
        assert self.processor is not None and self.fingerprint is not None  # a network has both
        if not isinstance(catalogue, ContentEmbeddings):
            catalogue = self._as_catalogue(catalogue)
        return self.processor.codes_of(
            network,
            catalogue,
            fingerprint=self.fingerprint,
            mean_of=self.mean_of if domain_mean is None else lambda vectors, name: domain_mean,
            batch_tokens=batch_tokens,
            progress=progress,
            num_workers=num_workers,
            feature_cache=feature_cache,
            resume_folder=resume_folder,
            state=state,
            block_items=block_items,
        )

    def centre(self, embeddings: np.ndarray, name: str) -> np.ndarray:
        """Content embeddings `[items, input_dim]` of the catalogue `name` as RecBase's network reads them: without
        [`~UniversalItemTokenizer.mean_of`], whose errors it has."""
        mean = self.mean_of(lambda: embeddings, name)
        return embeddings if mean is None else embeddings - mean

    def mean_of(self, vectors: Callable[[], np.ndarray], name: str) -> np.ndarray | None:
        """What a network with `centre_domains` takes off the vectors of the items of the catalogue `name`, float32
        `[input_dim]`; `None` for another network. The first items that get semantic IDs are the domain.

        Args:
            vectors (`Callable[[], np.ndarray]`): gives vectors `[items, input_dim]` if their mean is not known.
            name (`str`): for errors.

        Raises:
            ValueError: one item is all of the domain.
            TokenizerMismatchError: the index has items, but not the mean that was taken off them.
        """
        config = self.encoding_network.config
        if not getattr(config, "centre_domains", False):
            return None
        if not len(self.index):
            self.domain_mean = domain_mean(vectors(), name)
        elif self.domain_mean is None or self.domain_mean.shape != (config.input_dim,):
            found = None if self.domain_mean is None else len(self.domain_mean)
            raise TokenizerMismatchError(
                f"{TOKENIZER_FILE}: domain_mean must be the {config.input_dim} numbers that were taken off the "
                f"vectors of the {len(self.index)} items of the index, found {found}: load the copy that has them."
            )
        return self.domain_mean

    def check_recommender(self, recommender: PreTrainedModel) -> None:
        """Raises [`TokenizerMismatchError`] unless the recommender was trained on this tokenizer's semantic IDs, and
        on content of the encoder that made that of the index."""
        self.check_config(recommender.config)

    def check_config(self, config: PreTrainedConfig) -> None:
        """As [`~UniversalItemTokenizer.check_recommender`], of a recommender's configuration."""
        found = (list(config.level_sizes), list(config.level_offsets), config.item_tokenizer_fingerprint)
        expected = (self.index.level_sizes, self.index.level_offsets, self.fingerprint)
        for name, a, b in zip(("level sizes", "level offsets", "fingerprint"), expected, found, strict=True):
            if a != b:
                raise TokenizerMismatchError(
                    f"Item tokenizer and recommender do not belong together: {name} of the tokenizer {a}, the "
                    f"recommender was trained with {b}. Load both from one training, or train the recommender anew."
                )
        trained, given = getattr(config, "content_encoder_fingerprint", None), self.index.content_encoder
        if None not in (trained, given) and trained != given:
            raise TokenizerMismatchError(
                f"The recommender was trained with content vectors of the encoder with fingerprint {trained}, those "
                f"of the item index are of {given}: give the index vectors of the same encoder by "
                "ItemIndex.set_content, or train the recommender anew."
            )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        include_network: bool | None = None,
        save_backbone: bool | None = None,
        without_decoders: bool = False,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Writes the tokenizer to a folder: index, memory and settings, and with it network and processor. A memory
        is not written if items were added or removed since.

        Args:
            save_directory (`str` or `os.PathLike`): the folder; made if need be.
            include_network (`bool`, *optional*): `False` for an index-only copy. By default the network is written if
                this copy has it and the folder is not a recommender's.
            save_backbone, without_decoders: how much of UTGRec's network, see
                [`UTGRecTokenizerModel.save_pretrained`]; RecBase's is small, and whole always.
            push_to_hub (`bool`, *optional*, defaults to `False`): whether to push it too, to the repository `repo_id`,
                by default the folder's name; further `kwargs` are those of [`~UniversalItemTokenizer.push_to_hub`].

        Raises:
            ValueError: if the folder holds another model, whose files the network's would replace.
            TokenizerMismatchError: if the network has changed since it gave the index its semantic IDs.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        place, kind = self.network_reference, model_config(folder).get("model_type")
        is_other = kind is not None and kind not in NETWORK_CONFIGS
        if include_network is None:
            include_network = self.has_network and not is_other
        if include_network:
            own = self.network.config.model_type
            if kind not in (None, own):
                raise ValueError(
                    f"{folder} holds a model of type {kind}, which the item tokenizer's network would replace: save "
                    "it to another folder, or with include_network=False."
                )
            assert self.processor is not None
            if (found := network_fingerprint(self.network, self.processor)) != self.fingerprint:
                raise TokenizerMismatchError(
                    f"The index was made by the network with fingerprint {self.fingerprint}, this one has {found}: it "
                    "was trained further, or cast to another precision, and could tokenize nothing more for this "
                    "index. Save the index alone (include_network=False), or make another one of the network "
                    "as it is (UniversalItemTokenizer.from_network)."
                )
            choices: dict[str, Any] = {"save_backbone": save_backbone, "without_decoders": without_decoders}
            self.network.save_pretrained(folder, **({} if own in EMBEDDING_NETWORKS else choices))
            self.processor.save_pretrained(folder)
            self.network_reference, place = NetworkReference(str(folder.absolute())), None
        memory = self.stored_memory if self.index.checksum == self._memory_index else None
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "index_sha256": self.index.checksum,
            "max_history": self.max_history,
            "network": None if place is None else place.as_seen_from(folder),
        }
        if self.domain_mean is not None:
            values["domain_mean"] = self.domain_mean.tolist()
        if self.text_fields != TEXT_FIELDS:
            values["text_fields"] = list(self.text_fields)
        if self._template is not None:
            values |= asdict(self._template)
        with temporary_folder(folder) as made:  # before the index, which without them would fit to nothing
            write_json(made / TOKENIZER_FILE, values)
            if memory is not None:
                memory.save(made, self.index)
            self.index.save(folder)
            if memory is not None:
                os.replace(made / MEMORY_NAME, folder / MEMORY_NAME)
            elif self._has_no_memory:
                (folder / MEMORY_NAME).unlink(missing_ok=True)
            os.replace(made / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        if push_to_hub:
            name = kwargs.pop("repo_id", folder.absolute().name)
            self.push_to_hub(name, include_network, save_backbone, without_decoders, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        include_network: bool | None = None,
        save_backbone: bool | None = None,
        without_decoders: bool = False,
        **kwargs,
    ) -> str:
        """Pushes what [`~UniversalItemTokenizer.save_pretrained`] writes.

        Index-only copies that are saved or pushed later name this repository and commit for their network.

        Args:
            repo_id (`str`): the repository; made if need be.
            include_network, save_backbone, without_decoders: as in `save_pretrained`. A backbone from a local folder
                is pushed along, as it is not on the Hub.
            kwargs: `commit_message`, `private`, `token`, `revision`, `create_pr` and the like, as in transformers.
        """
        include_network = self.has_network if include_network is None else include_network
        if include_network and save_backbone is None:
            save_backbone = os.path.isdir(getattr(self.network.config, "backbone_name_or_path", None) or "") or None
        place = self.network_reference
        if not include_network and place is not None and Path(place.name_or_path).is_dir():
            self.network_reference = None  # a local folder is of no use on the Hub
        upload = Upload(lambda folder: self.save_pretrained(folder, include_network, save_backbone, without_decoders))
        try:
            # said to be a string, which a CommitInfo is too
            pushed = cast(
                CommitInfo, upload.push_to_hub(repo_id, **{"commit_message": "Upload item tokenizer", **kwargs})
            )
        finally:
            self.network_reference = place
        if include_network and not kwargs.get("create_pr"):
            self.network_reference = NetworkReference(pushed.repo_url.repo_id, pushed.oid)
        return pushed

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        index_only: bool = False,
        subfolder: str = "",
        revision: str | None = None,
        network: str | os.PathLike | None = None,
        max_history: int | None = None,
        **kwargs,
    ) -> "UniversalItemTokenizer":
        """Loads a tokenizer from a folder or a Hub repository; its network is fetched and read when first needed.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id.
            index_only (`bool`, *optional*, defaults to `False`): leaves the network out even if there is one.
            subfolder (`str`, *optional*, defaults to `""`): folder within.
            revision (`str`, *optional*): branch, tag or commit of a Hub repository; the network will be of the same
                commit.
            network (`str` or `os.PathLike`, *optional*): folder or Hub id of the network that tokenizes new items,
                where it is not where an index-only copy says. A copy whose network is not there says so in a warning.
            max_history (`int`, *optional*): in place of the one that was saved.
            kwargs: `token`, `cache_dir`, `local_files_only`, `force_download`, as everywhere in transformers.

        Raises:
            HubError: if there is no such repository, or one that may not be read.
            FileNotFoundError: if there is no item tokenizer in it.
            ValueError: for another format version, or a file that is truncated.
            TokenizerMismatchError: if index, settings and the model beside them do not belong together.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        name, folder = str(pretrained_model_name_or_path), Path(pretrained_model_name_or_path)
        if folder.is_dir():
            name, revision = str(folder.absolute()), None
        else:
            folder = fetch_items(name, subfolder, index_only, revision=revision, **hub)
            revision = folder.name  # the commit
        folder = folder / subfolder
        tokenizer = cls._from_folder(folder)
        if max_history is not None:
            tokenizer.max_history = _checked(max_history)
        tokenizer._hub_arguments = hub
        if index_only:
            tokenizer.network_reference = None
            return tokenizer
        if network is not None:
            tokenizer.network_reference = NetworkReference(str(network))
            return tokenizer
        kind = model_config(folder).get("model_type")
        if kind in EMBEDDING_NETWORKS:
            config = NETWORK_CONFIGS[kind].from_pretrained(folder)
            assert isinstance(config, RQVAEConfig | RecBaseTokenizerConfig)
            tokenizer.processor = EMBEDDING_NETWORKS[kind][1].from_pretrained(folder, config)
        elif (folder / PROCESSOR_FILE).is_file():
            tokenizer.processor = ItemProcessor.from_pretrained(folder)
        if tokenizer.processor is not None:
            tokenizer.has_network = True
            tokenizer.network_reference = NetworkReference(name, revision, subfolder)
        elif tokenizer.network_reference is not None and tokenizer.network_reference.is_lost:
            logger.warning(f"{name} recommends by the ids of its items. {tokenizer.network_reference.why_lost}")
        return tokenizer

    @classmethod
    def _from_folder(cls, folder: Path) -> "UniversalItemTokenizer":
        """The index and settings of a folder, checked against the model there, if there is one."""
        if not (folder / TOKENIZER_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no item tokenizer: {TOKENIZER_FILE} is missing. Save one with "
                "UniversalItemTokenizer.save_pretrained, or make one with `utgrec tokenize`."
            )
        file = folder / TOKENIZER_FILE
        check_format_version(read_json_object(file).get("format_version"), str(file))
        values, index = read_settings(file, SETTINGS), _read_index(folder)
        wanted = values["index_sha256"] or index.checksum
        if wanted != index.checksum:
            raise TokenizerMismatchError(
                f"{folder}: {TOKENIZER_FILE} belongs to the index with sha256 {wanted}, found the one with "
                f"{index.checksum}: {CODES_NAME} comes from another save."
            )
        try:
            tokenizer = cls(index, values["fingerprint"], values["max_history"])
            if values["introduction"] is not None:
                given = (values["introduction"], values["max_field_characters"])
                tokenizer._template = TextTemplate(*(value for value in given if value is not None))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        if (folder / MEMORY_NAME).is_file():
            tokenizer._memory_file, tokenizer._memory_index = folder / MEMORY_NAME, index.checksum
        if values["network"] is not None:
            tokenizer.network_reference = NetworkReference.seen_from(folder, values["network"])
        if values["domain_mean"] is not None:
            tokenizer.domain_mean = read_numbers(file, "domain_mean", values["domain_mean"])
        if values["text_fields"] is not None:
            tokenizer.text_fields = tuple(map(str, values["text_fields"]))
        config = model_config(folder)
        if "item_tokenizer_fingerprint" in config:  # a recommender
            tokenizer.check_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        elif config.get("model_type") in NETWORK_CONFIGS:
            sizes = NETWORK_CONFIGS[config["model_type"]].from_pretrained(folder).level_sizes
            if sizes not in (index.level_sizes, index.level_sizes[:-1]):  # there may be a level of digits
                raise TokenizerMismatchError(
                    f"{folder}: the index has the level sizes {index.level_sizes}, the network {sizes}."
                )
        return tokenizer


def _checked(max_history: int) -> int:
    if isinstance(max_history, bool) or not 1 <= max_history <= MAX_HISTORY:
        raise ValueError(f"max_history must be between 1 and {MAX_HISTORY}, got {max_history}.")
    return max_history


def _read_index(folder: Path) -> ItemIndex:
    """The index of a folder, in shards if it has them."""
    return (ShardedItemIndex if (folder / SHARDED_NAME / MANIFEST_NAME).is_file() else ItemIndex).load(folder)
