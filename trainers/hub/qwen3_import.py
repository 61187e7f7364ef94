"""A plain Qwen3 that generates semantic IDs, with its text tokenizer and `sid2pid.json`, as our recommender."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM
from modeling_utgrec.checkpoint_safety import SAFELY, errors_that_say_why
from modeling_utgrec.configuration_recbase import PROMPT_PLACES
from tokenization_items.files import read_json_object, read_settings, tokenizer_errors
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.hub.download import ModelPlace
from trainers.hub.qwen3_export import ITEMS, PROMPT_FILE, SID, SidPrompt
from trainers.hub.sid_tokens import CodeTokens, SidItems, code_token, find_code_tokens, read_sid2pid

LEFT_OUT = ("model_type", "architectures", "auto_map", "transformers_version", "dtype", "weights_fingerprint")


class PlainQwen3:
    """
    What is known of a plain checkpoint before its weights are read.

    Args:
        place ([`ModelPlace`]): where it is.
        sid2pid (`Path`): which item has which semantic ID.
        prompt ([`SidPrompt`]): how it reads histories.
        most_frequent (`bool`, *optional*, defaults to `False`): see [`read_sid2pid`].

    Raises:
        ValueError: if it is no Qwen3, its tokenizer lacks tokens of codes, the items' codes are not of its tokens, or
            the prompt cannot be put together from tokens.
    """

    def __init__(self, place: ModelPlace, sid2pid: Path, prompt: SidPrompt, most_frequent: bool = False):
        self.place, self.prompt = place, prompt
        kind = read_json_object(place.folder / "config.json").get("model_type")
        if kind != "qwen3":
            raise ValueError(f"{place.name} holds a model of type {kind!r}: only a plain Qwen3 (qwen3) is converted.")
        with tokenizer_errors(place.folder):
            tokenizer = AutoTokenizer.from_pretrained(place.name, revision=place.revision, trust_remote_code=False)
        self.tokens: CodeTokens = find_code_tokens(tokenizer.get_vocab(), f"The tokenizer of {place.name}")
        self.items: SidItems = read_sid2pid(sid2pid, self.tokens.sizes, most_frequent)
        self.config = self._config(tokenizer)

    def _config(self, tokenizer: PreTrainedTokenizerBase) -> RecBaseConfig:
        revision: Any = self.place.revision
        plain = Qwen3Config.from_pretrained(self.place.name, revision=revision)
        last = max(first + size for first, size in zip(self.tokens.offsets, self.tokens.sizes, strict=True)) - 1
        if last >= plain.vocab_size:
            raise ValueError(
                f"The tokenizer of {self.place.name} has codes up to token {last}, the network's vocabulary ends at "
                f"{plain.vocab_size - 1}: they are not of one checkpoint."
            )
        known = {field.name for field in fields(Qwen3Config)} - set(LEFT_OUT)
        values: dict[str, Any] = {name: value for name, value in plain.to_dict().items() if name in known}
        if values.get("pad_token_id") is None:
            values["pad_token_id"] = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        prompt = self.prompt
        values |= {
            "level_sizes": self.tokens.sizes,
            "max_history": prompt.max_history,
            "normalize_over": prompt.normalize_over,
            "item_tokenizer_fingerprint": prompt.item_tokenizer_fingerprint,
        }
        around = prompt_tokens(tokenizer, prompt, self.tokens)
        own = RecBaseConfig(level_sizes=self.tokens.sizes)
        assert own.vocab_size is not None
        is_ours = own.level_offsets == self.tokens.offsets and plain.vocab_size == own.vocab_size + 2
        if around is None and is_ours:
            values["vocab_size"] = own.vocab_size
        else:
            values |= {"code_offsets": self.tokens.offsets, "prompt_tokens": around}
        with errors_that_say_why(f"The configuration of {self.place.name}"):
            return RecBaseConfig(**values)

    def load(self) -> tuple[RecBaseForCausalLM, UniversalItemTokenizer]:
        """The recommender and its items. One that was exported by us has the vocabulary that it had before."""
        revision: Any = self.place.revision
        plain = Qwen3ForCausalLM.from_pretrained(self.place.name, revision=revision, **SAFELY)
        model = RecBaseForCausalLM(self.config)
        tables = ("embed_tokens.weight", "lm_head.weight")
        weights = {
            name: weight[: self.config.vocab_size].clone() if name.endswith(tables) else weight
            for name, weight in plain.state_dict().items()
        }
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        index = ItemIndex(self.tokens.sizes, self.tokens.offsets)
        index.assign(self.items.item_ids, self.items.codes.numpy())
        tokenizer = UniversalItemTokenizer(index, self.config.item_tokenizer_fingerprint, self.config.max_history)
        return model.eval(), tokenizer


def read_prompt(folder: Path) -> SidPrompt:
    """What `sid_prompt.json` of a folder says; without the file, items one after the other.

    Raises:
        ValueError: if it has entries of another kind.
    """
    path = folder / PROMPT_FILE
    if not path.is_file():
        return SidPrompt()
    kinds = {"item_format": (str,), "prompt_format": (str,), "max_history": (int,), "normalize_over": (str,)}
    return SidPrompt(**read_settings(path, {**kinds, "item_tokenizer_fingerprint": (str, type(None))}))


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: SidPrompt, codes: CodeTokens
) -> dict[str, list[int]] | None:
    """
    Tokens around the codes of a history; `None` if there are none.

    Raises:
        ValueError: if a format lacks its place, or text and codes make tokens together, so that they cannot be put
            beside each other.
    """
    texts = []
    for name, text, place in (
        ("prompt_format", prompt.prompt_format, ITEMS),
        ("item_format", prompt.item_format, SID),
    ):
        if text.count(place) != 1:
            raise ValueError(f"{name} {text!r} must have {place} once.")
        texts += text.split(place)
    first, last, before, after = texts
    pieces = dict(zip(PROMPT_PLACES, (first, before, after, last), strict=True))

    def encoded(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    tokens = {place: encoded(text) for place, text in pieces.items()}
    letters = "".join(tokenizer.convert_ids_to_tokens(codes.offsets))
    item = [*tokens["before_item"], *codes.offsets, *tokens["after_item"]]
    whole = encoded(first + 2 * (before + letters + after) + last)
    if whole != [*tokens["before_history"], *item, *item, *tokens["after_history"]]:
        raise ValueError(
            f"The prompt {first + before + code_token(0, 0)!r}... is other tokens as a whole than in its parts: let "
            "item_format begin and end with tokens of their own, such as <|sid_begin|> and <|sid_end|>."
        )
    return tokens if any(tokens.values()) else None


__all__ = ["PlainQwen3", "prompt_tokens", "read_prompt"]
