"""Processor of items for the backbone: prompt with code tokens, images, batches padded to their longest item."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.16's own name asks for torchvision
from transformers.utils import PROCESSOR_NAME, cached_file

from modeling_utgrec import UTGRecTokenizerConfig, UTGRecTokenizerModel
from modeling_utgrec.checkpoint_safety import errors_that_say_why
from tokenization_items.catalogue import Catalogue
from tokenization_items.catalogue_codes import codes_of_catalogue
from tokenization_items.files import read_settings, tokenizer_errors, write_json
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_files import CatalogueError

PROCESSOR_FILE = "item_processor_config.json"
SETTINGS = {
    "code_token_ids": (list,),
    "max_text_tokens": (int,),
    "max_length": (int, type(None)),
    "instruct": (bool,),
    "images": (bool,),
}
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

MAX_RATIO = 200  # of an image's sides: Qwen2-VL's processors refuse more
CHAT_START = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
CHAT_END = "<|im_end|>\n<|im_start|>assistant\n"
IMAGE_START, IMAGE_PAD, IMAGE_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
INTRODUCTION = "The following text describes an item: "
INSTRUCTION = "\nCompress the item into {num_levels} tokens, from coarse to fine: "


class ItemProcessor:
    """
    Turns items into the inputs of [`UTGRecTokenizerModel`] (UTGRec, section 2.2.1).

    The prompt is `start, image, introduction, text, instruction, end, <CODE_0> ... <CODE_{L-1}>`; an item without an
    image has the same prompt without the image. It is put together from token ids, so that nothing in an item's text
    (braces, special tokens written out) can change the prompt. Batches are padded on the right.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the backbone's tokenizer.
        code_token_ids (`Sequence[int]`): input ids of the code tokens, `config.code_token_ids`.
        image_processor (`BaseImageProcessor`, *optional*): the backbone's; without one the prompt has no image.
        max_text_tokens (`int`, *optional*, defaults to 1024): where an item's text is cut, in tokens.
        max_length (`int`, *optional*): longest input of the backbone; the text is cut further to fit.
        instruct (`bool`, *optional*, defaults to `True`):
            `False` leaves out introduction, instruction and chat turns, which a backbone with random weights can't
            read and has to pay for.
    """

    template = None  # the prompt introduces the text

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        code_token_ids: Sequence[int],
        image_processor=None,
        max_text_tokens: int = 1024,
        max_length: int | None = None,
        instruct: bool = True,
    ):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.code_token_ids = list(code_token_ids)
        self.max_text_tokens = max_text_tokens
        self.max_length = max_length
        self.instruct = instruct
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

        images = image_processor is not None
        chat = images and instruct
        instruction = INSTRUCTION.format(num_levels=len(self.code_token_ids))
        self._start = self._ids(CHAT_START if chat else "") + _given(tokenizer.cls_token_id)
        self._image_start, self._image_end = (self._ids(IMAGE_START), self._ids(IMAGE_END)) if images else ([], [])
        self._image_pad = self._ids(IMAGE_PAD)[:1] if images else []
        self._introduction = self._ids(INTRODUCTION if instruct else "")
        self._instruction = self._ids((instruction if instruct else "") + (CHAT_END if chat else ""))
        self._end = self.code_token_ids + _given(tokenizer.sep_token_id)
        if max_length is not None:
            if max_length <= self.prompt_length:
                raise ValueError(
                    f"The backbone reads {max_length} tokens at most and the prompt alone has {self.prompt_length}: "
                    "take another backbone."
                )
            self.max_text_tokens = min(max_text_tokens, max_length - self.prompt_length)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt without text and image."""
        return sum(map(len, (self._start, self._introduction, self._instruction, self._end)))

    @property
    def max_image_tokens(self) -> int:
        """Tokens of the largest image that the image processor lets through; 0 without one."""
        if self.image_processor is None:
            return 0
        side = self.image_processor.patch_size * self.image_processor.merge_size
        return dict(self.image_processor.size)["longest_edge"] // side**2

    def prompt_lengths(self, texts: Sequence[Sequence[int]], catalogue: Catalogue) -> np.ndarray:
        """Tokens of the items' prompts at most, int64 `[items]`: an image counts as the largest that there may be.

        Args:
            texts (`Sequence[Sequence[int]]`): what [`~ItemProcessor.encode_texts`] gave for each item.
            catalogue ([`Catalogue`]): the items.
        """
        lengths = np.array([len(text) for text in texts], dtype=np.int64) + self.prompt_length
        if self.image_processor is not None and catalogue.images is not None:
            lengths += catalogue.images.present * self.max_image_tokens
        return lengths

    @classmethod
    def for_model(
        cls, config: UTGRecTokenizerConfig, tokenizer, image_processor=None, instruct: bool = True
    ) -> "ItemProcessor":
        """The processor that fits a network's configuration."""
        assert isinstance(config.backbone_config, PreTrainedConfig)
        text_config = config.backbone_config.get_text_config()
        # Rotary positions of a multimodal backbone are far longer than any item; learned ones are a hard limit. The
        # tokenizer knows it best: RoBERTa's 514 positions are for 512 tokens.
        max_length = None
        if image_processor is None and hasattr(text_config, "max_position_embeddings"):
            max_length = min(text_config.max_position_embeddings, tokenizer.model_max_length)
        return cls(tokenizer, config.code_token_ids, image_processor, config.max_text_tokens, max_length, instruct)

    def _ids(self, text: str) -> list[int]:
        return [] if not text else self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the items' texts, cut to `max_text_tokens`. Special tokens written in a text are plain text."""
        if not len(texts):  # which tokenizers do not take
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_text_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
        )
        return encoded["input_ids"]

    def encode_image(self, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches `[patches, patch_values]` and grid `[3]` (time, height, width in patches) of one image; one that is
        longer than the backbone takes gets white borders."""
        encoded = self.image_processor(images=[_widened(image)], return_tensors="pt")
        return encoded["pixel_values"], encoded["image_grid_thw"][0]

    def collate(
        self,
        texts: Sequence[Sequence[int]],
        images: Sequence[tuple[torch.Tensor | None, torch.Tensor] | None] | None = None,
    ) -> dict[str, torch.Tensor]:
        """One batch of backbone inputs.

        Args:
            texts (`Sequence[Sequence[int]]`): what [`~ItemProcessor.encode_texts`] gave for each item.
            images (`Sequence[tuple[torch.Tensor | None, torch.Tensor] | None]`, *optional*): what
                [`~ItemProcessor.encode_image`] gave for each item, `None` for an item without image; the patches may
                be `None`, and are then left out of `pixel_values`.

        Returns:
            `input_ids` and `attention_mask` `[items, length]`, and if an item has an image `pixel_values`,
            `image_grid_thw` and `mm_token_type_ids`.
        """
        images = [None] * len(texts) if images is None or self.image_processor is None else images
        rows: list[list[int]] = []
        image_spans = []
        for text, image in zip(texts, images, strict=True):
            start = self._start
            if image is not None:
                pads = int(image[1].prod()) // self.image_processor.merge_size**2
                first = len(start) + len(self._image_start)
                image_spans.append((len(rows), first, first + pads))
                start = start + self._image_start + self._image_pad * pads + self._image_end
            rows.append([*start, *self._introduction, *text, *self._instruction, *self._end])
        length = max(map(len, rows))
        input_ids = np.full((len(rows), length), self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), length), dtype=np.int64)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        if image_spans:
            types = torch.zeros_like(batch["input_ids"], dtype=torch.int32)
            for row, first, last in image_spans:
                types[row, first:last] = 1
            present = [image for image in images if image is not None]
            patches = [patches for patches, _ in present if patches is not None]
            batch["mm_token_type_ids"] = types
            batch["image_grid_thw"] = torch.stack([grid for _, grid in present])
            if patches:
                batch["pixel_values"] = torch.cat(patches).float()
        return batch

    def check_catalogue(self, catalogue: Catalogue) -> None:
        """Raises a [`~tokenization_items.item_files.CatalogueError`] where nothing would be read of an item: it has no
        text, and images are not read."""
        if self.image_processor is None:
            catalogue.check_texts()

    def codes_of(
        self,
        network: UTGRecTokenizerModel,
        catalogue: Catalogue | ContentEmbeddings,
        fingerprint: str,
        mean_of: Callable[[Callable[[], np.ndarray], str], np.ndarray | None] | None = None,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The codes that a network gives to the items of a catalogue, before collisions are resolved.

        Args:
            network ([`UTGRecTokenizerModel`]): in evaluation mode.
            catalogue ([`Catalogue`]): the items.
            fingerprint (`str`): of the network.
            mean_of (*optional*): gives what is taken off the states `[items, input_dim]` of a catalogue's items, see
                [`~UniversalItemTokenizer.mean_of`].
            settings: see [`~tokenization_items.catalogue_codes.codes_of_catalogue`].

        Returns:
            Codes, `int64 [items, num_levels]`, and the residuals that were quantized, `float32 [items, levels, dim]`.

        Raises:
            CatalogueError: if there are embeddings alone, an item has nothing that is read, or an image cannot be
                opened; the item is named.
        """
        if not isinstance(catalogue, Catalogue):
            raise CatalogueError("the network reads texts and images, and these items have embeddings alone")
        self.check_catalogue(catalogue)
        return codes_of_catalogue(network, self, catalogue, fingerprint, mean_of=mean_of, **settings)

    def text_labels(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Tokens that the text decoder reconstructs, `[items, longest text]`, -100 at padding."""
        labels = np.full((len(texts), max(1, max(map(len, texts)))), -100, dtype=np.int64)
        for row, text in enumerate(texts):
            labels[row, : len(text)] = text
        return torch.from_numpy(labels)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        if self.image_processor is not None:
            self.image_processor.save_pretrained(folder)
        values = {
            "code_token_ids": self.code_token_ids,
            "max_text_tokens": self.max_text_tokens,
            "max_length": self.max_length,
            "instruct": self.instruct,
            "images": self.image_processor is not None,
        }
        # The second file is where AutoProcessor looks first: the backbone's tokenizer may name the backbone's class.
        for name, content in ((PROCESSOR_FILE, values), (PROCESSOR_NAME, {"processor_class": type(self).__name__})):
            write_json(folder / name, content)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "ItemProcessor":
        """Loads the processor of a folder or a Hub repository; `kwargs` are those of the Hub, as in transformers.

        Raises:
            OSError: if there is no item processor.
            ValueError: if one of its files is malformed.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        place = cached_file(pretrained_model_name_or_path, PROCESSOR_FILE, **hub)
        assert place is not None  # a missing file raises
        file = Path(place)
        values = read_settings(file, SETTINGS)
        numbers = [*values["code_token_ids"], values["max_text_tokens"], values["max_length"] or 1]
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
            raise ValueError(f"{file}: ids and lengths must be whole numbers, found {str(numbers)[:60]}.")
        image_processor = None
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        with errors_that_say_why(f"The processor in {pretrained_model_name_or_path}"):
            if values.pop("images"):
                image_processor = AutoImageProcessor.from_pretrained(
                    pretrained_model_name_or_path, trust_remote_code=False, **hub
                )
            with tokenizer_errors(folder):
                tokenizer = AutoTokenizer.from_pretrained(
                    pretrained_model_name_or_path, trust_remote_code=False, **hub
                )
            processor = cls(tokenizer, image_processor=image_processor, **values)
            processor.prompt_key()  # asks for all that a prompt needs
        return processor

    def prompt_key(self) -> str:
        """What the semantic IDs depend on besides the network: goes into the fingerprint."""
        parts = [self._start, self._image_start, self._image_end, self._introduction, self._instruction, self._end]
        images = None
        if self.image_processor is not None:
            size = {name: value for name, value in dict(self.image_processor.size).items() if value is not None}
            images = [sorted(size.items()), self.image_processor.patch_size, self.image_processor.merge_size]
            images += [list(self.image_processor.image_mean), list(self.image_processor.image_std)]
        return json.dumps([parts, self.max_text_tokens, images])


def _given(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]


def _widened(image: Image.Image) -> Image.Image:
    """The image in the middle of a white one that is no longer than [`MAX_RATIO`] times its width."""
    least = -(-max(image.size) // MAX_RATIO)
    if min(image.size) >= least:
        return image
    width, height = (max(side, least) for side in image.size)
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas
