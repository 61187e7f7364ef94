"""From items to the inputs of RecBase's tokenizer: one template for the texts, and the vectors of a frozen encoder."""

import json

import numpy as np
import torch

from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_files import CatalogueError
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_template import TextTemplate

# Items of one forward pass of the network, which is small beside the text encoder.
ROWS_AT_A_TIME = 4096
MAX_LISTED = 10


class EncoderMismatchError(ValueError):
    """A text encoder, or embeddings, that the network was not trained with."""


class ContentProcessor:
    """
    Turns items into the inputs of [`RecBaseTokenizerModel`]: their texts, by a template, and those into vectors. The
    text encoder is loaded when the first item comes.

    Args:
        config ([`RecBaseTokenizerConfig`]): names the text encoder and the template.
        encoder ([`TextEncoder`], *optional*): the text encoder, if it is loaded already, or lies elsewhere than the
            configuration says.

    Raises:
        EncoderMismatchError: if the encoder given is another one.
    """

    def __init__(self, config: RecBaseTokenizerConfig, encoder: TextEncoder | None = None):
        self.config = config
        self.template = TextTemplate(config.introduction, config.max_field_characters)
        self._encoder = None if encoder is None else self._checked(encoder)

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
            self._encoder = self._checked(TextEncoder.from_pretrained(name, **settings))
        return self._encoder

    def _checked(self, encoder: TextEncoder) -> TextEncoder:
        check_encoder(self.config, encoder.name, encoder.fingerprint, encoder.settings)
        return encoder

    def embed(self, catalogue: Catalogue, batch_tokens: int, progress: bool | None = None) -> np.ndarray:
        """The content embeddings of items, `float32 [items, input_dim]`.

        Args:
            catalogue: the items, with texts by a [`TextTemplate`].
            batch_tokens: tokens of one batch of the text encoder.
            progress: whether to show the text encoder's bar; by default if the output is a terminal.

        Raises:
            CatalogueError: if the texts are not by a template, no item has a text, or a vector is not finite or zero.
            EncoderMismatchError: if the encoder's vectors have another width than the network reads.
        """
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
            named = [catalogue.item_ids[row] for row in broken[:MAX_LISTED]]
            raise CatalogueError(f"{catalogue.name}: {len(broken)} items have vectors with NaN or only zeros: {named}")
        if len(embeddings) and embeddings.shape[1] != self.config.input_dim:
            raise EncoderMismatchError(
                f"{self.encoder.name} gives vectors of width {embeddings.shape[1]}, the network reads "
                f"{self.config.input_dim}."
            )
        return embeddings

    def compute_codes(self, network: RecBaseTokenizerModel, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes that the network gives to embeddings `float32 [items, input_dim]`, before conflicts are resolved.

        Returns:
            Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.
        """
        config = self.config
        codes = np.empty((len(embeddings), config.num_levels), dtype=np.int64)
        residuals = np.empty((len(embeddings), config.num_levels, config.codebook_dim), dtype=np.float32)
        for start in range(0, len(embeddings), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            with torch.inference_mode():
                output = network.eval()(torch.from_numpy(embeddings[rows]).to(network.device))
            codes[rows] = output.codes.cpu().numpy()
            residuals[rows] = output.residuals.float().cpu().numpy()
        return codes, residuals

    def save_pretrained(self, folder) -> None:
        """Writes nothing: all that it needs is in the network's configuration."""

    def prompt_key(self) -> str:
        """What the identifiers depend on besides the network: goes into the fingerprint."""
        config = self.config
        encoder = [config.text_encoder_fingerprint or config.text_encoder, config.text_encoder_settings]
        key = [encoder, config.introduction, config.max_field_characters]
        key += ["centre_domains"] if config.centre_domains else []
        return json.dumps(key, sort_keys=True)


def domain_mean(embeddings: np.ndarray, name: str) -> np.ndarray:
    """What a network with `centre_domains` has taken off the content embeddings `[items, E]` of the domain `name`:
    their mean.

    Raises:
        ValueError: one item is all of the domain, and differs from its mean in nothing.
    """
    if len(embeddings) < 2:
        raise ValueError(
            f"{name}: the network codes in what an item differs from the others of its domain, and there is one "
            "item: tokenize the domain's catalogue first, then new items."
        )
    return np.asarray(embeddings, dtype=np.float32).mean(axis=0)


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
