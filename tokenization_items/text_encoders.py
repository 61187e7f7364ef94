"""Frozen encoders of item texts: any text encoder of transformers, by Hub id or local folder.

A sentence-transformers folder is read without that package: its pooling, dense layers, normalisation, prompt and
length limit are taken from its configuration files. The package (6.2) gives the same vectors, within 2e-7 on
all-MiniLM-L6-v2, but takes 4 to 5 s more to import and brings scikit-learn. It also reads `pytorch_model.bin`, a
pickle, where a folder has no safetensors, and replaces an activation that it does not trust by Tanh; here both are
errors.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_utgrec.checkpoint_safety import SAFELY
from modeling_utgrec.encoding_parts import length_batches
from tokenization_items.files import tokenizer_errors
from tokenization_items.hub_folders import model_folder

Pooling = Literal["mean", "cls", "last"]
POOLINGS = ("mean", "cls", "last")
# Weights, configurations and vocabularies; neither other frameworks' copies of the weights nor pickles.
FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
# A fast tokenizer's padding and truncation are of the tokenizer, and each call sets its own: one call at a time.
_TOKENIZING = threading.Lock()
UNLIMITED = 512  # tokens of a text if neither the tokenizer nor the model says how many it takes


@dataclass
class TextSettings:
    """
    How a text becomes a vector.

    Args:
        pooling (`str`): `"mean"` of the states of all tokens, the state of the first (`"cls"`) or of the `"last"`.
        normalize (`bool`): whether vectors are scaled to length 1.
        max_length (`int`): longest text in tokens; the rest is cut off.
        prefix (`str`): put before every text, for encoders that expect one ("passage: ").
        lower_case (`bool`): whether texts are lower-cased first.
        dtype (`str`): `"float32"` or `"bfloat16"`, of the weights; pooling is in float32 always.
    """

    pooling: Pooling
    normalize: bool
    max_length: int
    prefix: str
    lower_case: bool
    dtype: str


class TextEncoder:
    """
    A text encoder with its tokenizer; made by [`~TextEncoder.from_pretrained`].

    Args:
        model (`PreTrainedModel`): the encoder.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        settings ([`TextSettings`]): how a text becomes a vector.
        dense (`nn.Module`, *optional*): layers after the pooling.
        name (`str`): where the encoder came from.
        fingerprint (`str`): digest of its files.
        revision (`str`, *optional*): commit of the Hub that these are of.

    Example:

    ```python
    >>> encoder = TextEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> encoder.embed(["a stapler", "a guitar"]).shape
    (2, 384)
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: TextSettings,
        dense: nn.Module | None = None,
        name: str = "",
        fingerprint: str = "",
        revision: str | None = None,
    ):
        if settings.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {settings.pooling!r}.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        # On this side, padding leaves the positions of the tokens as they are, also for a decoder.
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.text_settings = settings
        self.dense = (dense or nn.Identity()).eval()
        self.name, self.fingerprint, self.revision = name, fingerprint, revision

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.text_settings)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        prefix: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> TextEncoder:
        """Loads an encoder; what is not given is what its sentence-transformers configuration says, or else: mean
        pooling, no normalisation, as many tokens as the model takes.

        Args:
            name_or_path (`str` or `Path`): Hub id or folder of a sentence-transformers model or any text encoder of
                `AutoModel`.
            pooling, normalize, max_length, prefix, dtype: see [`TextSettings`].
            device (`str` or `torch.device`, *optional*): where to run; by default the GPU if there is one.
            revision (`str`, *optional*): of the Hub repository.

        Raises:
            ValueError: if a sentence-transformers folder has a kind or an order of modules, or a pooling, that is not
                known here.
        """
        folder = model_folder(name_or_path, FILES, revision)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        said = read_sentence_transformers(folder)
        # Of an encoder-decoder, such as sentence-T5's, only the encoder.
        auto = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = auto.from_pretrained(folder, dtype=getattr(torch, dtype), **SAFELY).to(device)
        with tokenizer_errors(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        limits = [tokenizer.model_max_length, getattr(config.get_text_config(), "max_position_embeddings", None)]
        limits = [limit for limit in (*limits, said.max_length) if limit is not None and 0 < limit < 1e6]
        settings = TextSettings(
            pooling=pooling or said.pooling,
            normalize=said.normalize if normalize is None else normalize,
            max_length=max_length or min(limits, default=UNLIMITED),
            prefix=said.prefix if prefix is None else prefix,
            lower_case=said.lower_case,
            dtype=dtype,
        )
        commit = None if Path(name_or_path).is_dir() else folder.name
        said_dense = said.dense.to(device)
        return cls(model, tokenizer, settings, said_dense, str(name_or_path), files_fingerprint(folder), commit)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_tokens: int = 16384, progress: bool | None = None) -> np.ndarray:
        """Vectors of texts.

        Texts of like length share a batch, so that little is padded; the batches do not influence the vectors beyond
        rounding. A text that occurs more than once is read once: equal texts have equal vectors, to the last bit.

        Args:
            texts (`Sequence[str]`): the texts. One without any token (an empty one, if the tokenizer adds none) gets a
                row of zeros.
            batch_tokens (`int`, *optional*, defaults to 16384): tokens of one batch, with padding.
            progress (`bool`, *optional*): whether to show a bar; by default if the output is a terminal.

        Returns:
            float32 `[len(texts), E]`.
        """
        settings = self.text_settings
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if len(place_of) < len(texts):
            vectors = self.embed(list(place_of), batch_tokens, progress)
            return vectors[[place_of[text] for text in texts]]
        texts = [settings.prefix + (text.lower() if settings.lower_case else text) for text in texts]
        cut = {"truncation": True, "max_length": settings.max_length}
        tokenized = self._tokenized(texts, **cut)["input_ids"] if texts else []
        lengths = np.array([len(tokens) for tokens in tokenized], dtype=np.int64)
        readable = np.flatnonzero(lengths)
        result = None
        bar = tqdm(
            total=len(texts), desc="Embedding texts", unit="text", disable=None if progress is None else not progress
        )
        with bar:
            for batch in length_batches(torch.from_numpy(lengths[readable]), batch_tokens):
                rows = readable[batch.numpy()]
                inputs = self._tokenized([texts[row] for row in rows], padding=True, return_tensors="pt", **cut)
                vectors = self._forward(inputs.to(self.model.device)).cpu().numpy()
                if result is None:
                    result = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
                result[rows] = vectors
                bar.update(len(rows))
        return np.zeros((len(texts), 0), dtype=np.float32) if result is None else result

    def _tokenized(self, texts: Sequence[str], **settings: Any) -> BatchEncoding:
        with _TOKENIZING:
            return self.tokenizer(list(texts), **settings)

    def _forward(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        states = self.model(**inputs).last_hidden_state.float()
        pooled = self.dense(pool(states, inputs["attention_mask"], self.text_settings.pooling))
        return F.normalize(pooled, dim=-1) if self.text_settings.normalize else pooled


def pool(states: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector `[B, d]` for each text's states `[B, T, d]`; `attention_mask` `[B, T]` is 0 at padding (right)."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
    weights = attention_mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


@dataclass
class _SentenceTransformers:
    """What a sentence-transformers folder says about its encoder; the defaults are those without such a folder."""

    pooling: Pooling = "mean"
    normalize: bool = False
    max_length: int | None = None
    prefix: str = ""
    lower_case: bool = False
    dense: nn.Module = nn.Identity()


def read_sentence_transformers(folder: Path) -> _SentenceTransformers:
    """Reads `modules.json` and the configurations that it names, if the folder has one."""
    said = _SentenceTransformers()
    if not (folder / "modules.json").is_file():
        return said
    layers: list[nn.Module] = []
    pools_prompt = True
    for module in _read_json(folder / "modules.json"):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            values = _read_json(path / "sentence_bert_config.json")
            said.max_length = values.get("max_seq_length")
            said.lower_case = bool(values.get("do_lower_case", False))
        elif kind == "Pooling":
            values = _read_json(path / "config.json")
            said.pooling = _pooling(values, path)
            pools_prompt = values.get("include_prompt", True)
        elif kind == "Dense" and said.normalize:
            raise ValueError(f"{folder}: modules.json has a Dense after Normalize; only the other order is known.")
        elif kind == "Dense":
            layers += _dense(path)
        elif kind == "Normalize":
            said.normalize = True
        else:
            raise ValueError(
                f"{folder}: modules.json names a {kind}, known are Transformer, Pooling, Dense, Normalize."
            )
    if layers:
        said.dense = nn.Sequential(*layers)
    values = _read_json(folder / "config_sentence_transformers.json")
    said.prefix = (values.get("prompts") or {}).get(values.get("default_prompt_name"), "")
    if said.prefix and not pools_prompt:
        raise ValueError(
            f"{folder}: the pooling leaves out the tokens of the prompt {said.prefix!r} (include_prompt is false), "
            "which is not known here."
        )
    return said


def _pooling(values: dict[str, Any], path: Path) -> Pooling:
    names: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
    names |= {"mean": "mean", "cls": "cls", "last": "last"}
    # One key with a name, or one flag for each kind.
    modes = [values["pooling_mode"]] if "pooling_mode" in values else []
    modes = modes or [key.removeprefix("pooling_mode_") for key, on in values.items() if "pooling_mode" in key and on]
    if len(modes) != 1 or modes[0] not in names:
        raise ValueError(f"{path}: pooling {modes} is not known, only one of {', '.join(POOLINGS)}: give `pooling`.")
    return names[modes[0]]


def _dense(path: Path) -> list[nn.Module]:
    values = _read_json(path / "config.json")
    activation = values.get("activation_function", "torch.nn.modules.activation.Tanh").rsplit(".", 1)[-1]
    if activation not in ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid"):
        raise ValueError(f"{path}: activation {activation} of a dense layer is not known.")
    layer = nn.Linear(values["in_features"], values["out_features"], bias=values.get("bias", True))
    if not (path / "model.safetensors").is_file():
        raise ValueError(f"{path}: the dense layer has no model.safetensors; convert its weights first.")
    with safe_open(path / "model.safetensors", framework="pt") as file:
        layer.load_state_dict({name.removeprefix("linear."): file.get_tensor(name).float() for name in file.keys()})
    return [layer, getattr(nn, activation)()]


def files_fingerprint(folder: Path) -> str:
    """Digest of an encoder's configurations, vocabulary and weights: another revision has another one."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.rglob(pattern)}):
        digest.update(str(path.relative_to(folder)).encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
