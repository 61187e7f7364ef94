"""Processors of networks that read embeddings: of embeddings that are given, and of a frozen encoder of texts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

from hub_cards import named
from modeling_utgrec import RecBaseTokenizerConfig, RQVAEConfig
from modeling_utgrec.modeling_embedding_autoencoder import EmbeddingAutoencoder
from tokenization_items.batching import BLOCK_ITEMS, blocks_of
from tokenization_items.catalogue import Catalogue
from tokenization_items.files import read_settings, write_json
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_files import CatalogueError
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_statistics import STATISTICS_NAME, FittedTextStatistics
from tokenization_items.text_template import TextTemplate

ENCODER_NAME = "text_encoder.json"
ENCODER_SETTINGS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "fingerprint": (str,),
    "settings": (dict,),
    "revision": (str, type(None)),
}
# Items of one forward pass of the network, which is small beside the text encoder.
ROWS_AT_A_TIME = 4096
# Tokens of one batch of the text encoder.
BATCH_TOKENS = 8192


class EncoderMismatchError(ValueError):
    """A text encoder, or embeddings, that the network was not trained with."""


class EmbeddingProcessor:
    """
    Gives embeddings that were computed before to a network that reads them, such as an [`RQVAEModel`]; with an encoder
    those of texts, too.

    Args:
        config ([`RQVAEConfig`] or [`RecBaseTokenizerConfig`]): the network's configuration.
        encoder ([`FittedTextStatistics`] or [`TextEncoder`], *optional*): the encoder of the texts that the network
            was made for. It is saved with the network: statistics whole, of another its name and fingerprint.
    """

    template: TextTemplate | None = None  # texts are joined by full stops, if they are read

    def __init__(
        self,
        config: RQVAEConfig | RecBaseTokenizerConfig,
        encoder: FittedTextStatistics | TextEncoder | None = None,
    ):
        self.config = config
        self._encoder = encoder
        self._saved: dict[str, Any] | None = None  # what a file says of an encoder that is not loaded yet

    @property
    def reads_texts(self) -> bool:
        """Whether there is an encoder."""
        return self._encoder is not None or self._saved is not None

    @property
    def encoder(self) -> FittedTextStatistics | TextEncoder | None:
        """The encoder, loaded when it is first asked for.

        Raises:
            OSError: if it is not where it was.
            EncoderMismatchError: if what is there has changed.
        """
        if self._encoder is None and self._saved is not None:
            settings = {name: value for name, value in self._saved["settings"].items() if name != "lower_case"}
            encoder = TextEncoder.from_pretrained(self._saved["name"], revision=self._saved["revision"], **settings)
            if encoder.fingerprint != self._saved["fingerprint"]:
                raise EncoderMismatchError(
                    f"The network was made for the text encoder {self._saved['name']} with files "
                    f"{self._saved['fingerprint']}; there are {encoder.fingerprint} now."
                )
            self._encoder = encoder
        return self._encoder

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, config: Any, **hub_arguments: Any) -> EmbeddingProcessor:
        """
        The processor of a network, with the encoder that was saved beside it.

        Args:
            name_or_path (`str` or `os.PathLike`): folder or Hub id of the network.
            config ([`RQVAEConfig`] or [`RecBaseTokenizerConfig`]): the network's configuration.
            hub_arguments: `revision`, `subfolder`, `token` and the like.

        Raises:
            ValueError: a file of the encoder is broken.
        """
        quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        statistics, encoder = (
            cached_file(name_or_path, file, **hub_arguments, **quietly) for file in (STATISTICS_NAME, ENCODER_NAME)
        )
        if statistics is not None:
            return cls(config, FittedTextStatistics.load(statistics))
        processor = cls(config)
        if encoder is not None:
            processor._saved = read_settings(Path(encoder), ENCODER_SETTINGS)
        return processor

    def codes_of(
        self,
        network: EmbeddingAutoencoder,
        catalogue: Catalogue | ContentEmbeddings,
        fingerprint: str,
        mean_of: Callable[[Callable[[], np.ndarray], str], np.ndarray | None] | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: bool | None = None,
        block_items: int = BLOCK_ITEMS,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The codes that a network gives to the items of a catalogue, before collisions are resolved.

        Args:
            network ([`RQVAEModel`] or [`RecBaseTokenizerModel`]): the network.
            catalogue ([`ContentEmbeddings`] or [`Catalogue`]): the items' embeddings, or items to embed.
            fingerprint (`str`): of the network; not used.
            mean_of (*optional*): gives what is taken off the embeddings `[items, E]` of a catalogue, see
                [`~UniversalItemTokenizer.mean_of`].
            batch_tokens (`int`, *optional*, defaults to 8192): tokens of one batch of the text encoder.
            progress (`bool`, *optional*): whether to show the text encoder's bar; by default if the output is a
                terminal.
            block_items (`int`, *optional*, defaults to `BLOCK_ITEMS`): items whose texts are embedded together.
            settings: of other processors; not used.

        Returns:
            Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.

        Raises:
            CatalogueError, EmbeddingError, EncoderMismatchError: as [`~EmbeddingProcessor.embeddings_of`].
        """
        embeddings = self._embeddings_by_block(catalogue, batch_tokens, progress, block_items)
        mean = None if mean_of is None else mean_of(lambda: embeddings, catalogue.name)
        if mean is not None:
            embeddings = embeddings - mean
        blocks = [codes_of_embeddings(network, embeddings[block]) for block in blocks_of(len(embeddings), block_items)]
        return np.concatenate([codes for codes, _ in blocks]), np.concatenate([residuals for _, residuals in blocks])

    def _embeddings_by_block(
        self, catalogue: Catalogue | ContentEmbeddings, batch_tokens: int, progress: bool | None, block_items: int
    ) -> np.ndarray:
        """[`~EmbeddingProcessor.embeddings_of`], of texts block by block."""
        if isinstance(catalogue, ContentEmbeddings) or len(catalogue) <= block_items:
            return self.embeddings_of(catalogue, batch_tokens, progress)
        blocks = blocks_of(len(catalogue), block_items)
        return np.concatenate(
            [self.embeddings_of(catalogue.select(np.r_[block]), batch_tokens, progress) for block in blocks]
        )

    def embeddings_of(
        self, catalogue: Catalogue | ContentEmbeddings, batch_tokens: int = BATCH_TOKENS, progress: bool | None = None
    ) -> np.ndarray:
        """The content embeddings of items, `float32 [items, input_dim]`.

        Raises:
            CatalogueError: if there are texts and images alone.
            EmbeddingError: if an embedding is not finite, or they are not as many as the items.
            EncoderMismatchError: if they have another width than the network reads.
        """
        if isinstance(catalogue, Catalogue):
            encoder = self.encoder
            if encoder is None:
                raise CatalogueError(
                    f"{catalogue.name}: the network reads embeddings, and no encoder of texts is known: give "
                    "ContentEmbeddings(item_ids, embeddings)"
                )
            found = encoder.embed(catalogue.texts, batch_tokens, progress)
            return self._fitting(np.asarray(found, dtype=np.float32), f"the vectors of {encoder.name}")
        catalogue.check(zeros=True)
        return self._fitting(np.asarray(catalogue.embeddings, dtype=np.float32), f"{catalogue.name}: the embeddings")

    def _fitting(self, embeddings: np.ndarray, whose: str) -> np.ndarray:
        if len(embeddings) and embeddings.shape[1] != self.config.input_dim:
            raise EncoderMismatchError(
                f"{whose} have width {embeddings.shape[1]}, the network reads {self.config.input_dim}."
            )
        return embeddings

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes what tells the encoder, if there is one, and removes what told that of another network that was in
        the folder; all else that is needed is in the network's configuration."""
        if isinstance(self._encoder, FittedTextStatistics):
            kept = self._encoder.save(folder).name
        elif self._encoder is not None:
            own = {name: getattr(self._encoder, name) for name in ENCODER_SETTINGS}
            kept = write_json(Path(folder) / ENCODER_NAME, own).name
        elif self._saved is not None:  # it is not loaded for this
            kept = write_json(Path(folder) / ENCODER_NAME, self._saved).name
        else:
            kept = ""
        for name in {STATISTICS_NAME, ENCODER_NAME} - {kept}:
            (Path(folder) / name).unlink(missing_ok=True)

    def prompt_key(self) -> str:
        """What the semantic IDs depend on besides the network: goes into the fingerprint."""
        return "embeddings, centred" if self.config.centre_domains else "embeddings"


class ContentProcessor(EmbeddingProcessor):
    """
    Turns items into the inputs of [`RecBaseTokenizerModel`]: their texts, by a template, and those into vectors. The
    text encoder is loaded when the first item comes. Takes embeddings that were computed before, too.

    Args:
        config ([`RecBaseTokenizerConfig`]): names the text encoder and the template.
        encoder ([`TextEncoder`], *optional*): the text encoder, if it is loaded already, or lies elsewhere than the
            configuration says.

    Raises:
        EncoderMismatchError: if the encoder given is another one.
    """

    def __init__(self, config: RecBaseTokenizerConfig, encoder: TextEncoder | None = None):
        super().__init__(config, None if encoder is None else check_encoder_of(config, encoder))
        self.config: RecBaseTokenizerConfig = config
        self.template = TextTemplate(config.introduction, config.max_field_characters)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, config: Any, **hub_arguments: Any) -> ContentProcessor:
        """The processor of a network, whose configuration names the encoder."""
        return cls(config)

    @property
    def reads_texts(self) -> bool:
        """Yes."""
        return True

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes nothing: the network's configuration names the encoder, which is not loaded for this."""

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder, loaded when it is first asked for.

        Raises:
            ValueError: if the configuration names none.
            OSError: if it is not where the configuration says.
            EncoderMismatchError: if what is there has changed since the network was trained.
        """
        if self._encoder is None:
            name = self.config.text_encoder
            if name is None:
                raise ValueError(
                    "The network's configuration names no text encoder (text_encoder): it was trained on embeddings "
                    "of unknown origin. Give the encoder: ContentProcessor(config, encoder)."
                )
            settings = dict(self.config.text_encoder_settings or {})
            settings.pop("lower_case", None)  # the encoder's own files say so
            encoder = TextEncoder.from_pretrained(name, revision=self.config.text_encoder_revision, **settings)
            self._encoder = check_encoder_of(self.config, encoder)
        return self._encoder  # type: ignore[return-value]  # statistics are no encoder of this processor

    def embeddings_of(
        self, catalogue: Catalogue | ContentEmbeddings, batch_tokens: int = BATCH_TOKENS, progress: bool | None = None
    ) -> np.ndarray:
        """The content embeddings of items, `float32 [items, input_dim]`.

        Args:
            catalogue ([`Catalogue`] or [`ContentEmbeddings`]): the items, with texts by a [`TextTemplate`], or their
                embeddings.
            batch_tokens (`int`, *optional*, defaults to 8192): tokens of one batch of the text encoder.
            progress (`bool`, *optional*): whether to show the text encoder's bar; by default if the output is a
                terminal.

        Raises:
            CatalogueError: if the texts are not by a template, no item has a text, or a vector is not finite or zero.
            EmbeddingError: if embeddings that are given are not finite or zero, or not as many as the items.
            EncoderMismatchError: if the vectors are of another encoder than the network was trained with, or have
                another width than it reads.
        """
        if isinstance(catalogue, ContentEmbeddings):
            catalogue.check()
            embeddings = self._fitting(np.asarray(catalogue.embeddings), f"{catalogue.name}: the embeddings")
            if catalogue.encoder is not None:
                encoder = catalogue.encoder
                check_encoder(self.config, encoder["name"], encoder["fingerprint"], encoder["settings"])
            return embeddings
        template = catalogue.template
        if template is None:
            raise CatalogueError(
                f"{catalogue.name}: the network reads texts by a template, and these fields are joined by full stops: "
                "read the items with Catalogue.from_records(..., template=TextTemplate(...)) or from_folder alike"
            )
        if len(catalogue) and all(map(template.is_bare, catalogue.texts)):
            raise CatalogueError(f"{catalogue.name}: none of the {len(catalogue)} items has a text")
        embeddings = self.encoder.embed(catalogue.texts, batch_tokens, progress)
        broken = np.flatnonzero(~np.isfinite(embeddings).all(1) | ~embeddings.any(1))
        if len(broken):
            items = named([catalogue.item_ids[row] for row in broken])
            raise CatalogueError(f"{catalogue.name}: {len(broken)} items have vectors with NaN or only zeros: {items}")
        return self._fitting(embeddings, f"the vectors of {self.encoder.name}")

    def prompt_key(self) -> str:
        """What the semantic IDs depend on besides the network: goes into the fingerprint."""
        config = self.config
        encoder = [config.text_encoder_fingerprint or config.text_encoder, config.text_encoder_settings]
        key = [encoder, config.introduction, config.max_field_characters]
        key += ["centre_domains"] if config.centre_domains else []
        return json.dumps(key, sort_keys=True)


def codes_of_embeddings(network: EmbeddingAutoencoder, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes that a network gives to embeddings, before collisions are resolved.

    Args:
        network ([`RQVAEModel`] or [`RecBaseTokenizerModel`]): the network.
        embeddings (`np.ndarray` of shape `(items, input_dim)`): float32.

    Returns:
        Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.
    """
    config = network.config
    codes = np.empty((len(embeddings), config.num_levels), dtype=np.int64)
    residuals = np.empty((len(embeddings), config.num_levels, config.codebook_dim), dtype=np.float32)
    was_training = network.training
    network.eval()
    try:
        for start in range(0, len(embeddings), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            with torch.inference_mode():
                part = np.ascontiguousarray(embeddings[rows], dtype=np.float32)
                output = network(torch.from_numpy(part).to(network.device))
            codes[rows] = output.codes.cpu().numpy()
            residuals[rows] = output.residuals.float().cpu().numpy()
    finally:
        network.train(was_training)
    return codes, residuals


def check_encoder(config: RecBaseTokenizerConfig, name: str, fingerprint: str | None, settings: dict | None) -> None:
    """
    Raises [`EncoderMismatchError`] unless a text encoder is the one whose embeddings a network was trained on. The
    digests of the files decide; if one of them is not known, the names do.
    """
    known = (config.text_encoder_fingerprint, fingerprint)
    if all(known):
        same = known[0] == known[1]
    else:
        same = config.text_encoder is None or config.text_encoder == name
    if not same:
        raise EncoderMismatchError(
            f"The network was trained on embeddings of {config.text_encoder} (files {known[0]}), these are of {name} "
            f"(files {known[1]})."
        )
    expected = config.text_encoder_settings
    if expected and settings and expected != settings:
        raise EncoderMismatchError(f"The network was trained on embeddings of {name} with {expected}, not {settings}.")


def check_encoder_of(config: RecBaseTokenizerConfig, encoder: TextEncoder) -> TextEncoder:
    """A text encoder, if it passes [`check_encoder`]."""
    check_encoder(config, encoder.name, encoder.fingerprint, encoder.settings)
    return encoder
