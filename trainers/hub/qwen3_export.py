"""Export of a RecBase decoder that needs none of our code: a Qwen3ForCausalLM, a text tokenizer of codes and
`sid2pid.json`, with constraints for vLLM and SGLang."""

import json
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from hub_cards import write_text
from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM
from tokenization_items.files import read_json_object, replacing_folder, write_json
from tokenization_items.item_index import ItemIndex
from trainers.hub.sid_tokens import BEGIN, END, SID2PID, code_token
from trainers.hub.travelling_code import gather_code

PAD, EOS = "<|pad|>", "<|eos|>"
PROMPT_FILE = "sid_prompt.json"
CONSTRAINT = "item_constraint"  # folder of the engines' plug-ins
PLUGINS = {name: f"trainers.hub.{name}" for name in ("vllm_items", "vllm_items_v2", "sglang_items")}
SID, ITEMS = "{sid}", "{items}"  # in formats: codes of an item, and items of a history
# Chat completions of a server then take the semantic IDs of a history as the user's message.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class SidPrompt:
    """
    How a plain checkpoint reads histories, what `sid_prompt.json` says.

    Args:
        item_format (`str`): an item, with `{sid}` for its codes' tokens.
        prompt_format (`str`): the prompt, with `{items}` for the items, oldest first.
        max_history (`int`): most recent items that are read.
        normalize_over (`str`): as in [`RecBaseConfig`].
        item_tokenizer_fingerprint (`str`, *optional*): as in [`RecBaseConfig`].
    """

    item_format: str = SID
    prompt_format: str = ITEMS
    max_history: int = 20
    normalize_over: str = "vocabulary"
    item_tokenizer_fingerprint: str | None = None


def check_exportable(config: RecBaseConfig) -> None:
    """Raises ValueError for a decoder that cannot become a plain checkpoint."""
    if config.code_offsets is not None:
        raise ValueError(
            "This decoder came from a plain Qwen3 and has the tokens of a text tokenizer that is not here: serve the "
            "checkpoint that it was converted from."
        )
    assert config.num_levels is not None
    if config.num_levels > len(ascii_lowercase):
        raise ValueError(f"Levels are letters in {SID2PID}: {config.num_levels} of them are too many, at most 26.")


def to_qwen3(recommender: RecBaseForCausalLM) -> Qwen3ForCausalLM:
    """
    The same network as a class of transformers. Tokens keep their ids and logits; behind them come `<|sid_begin|>` and
    `<|sid_end|>`, which the network has never seen, with the vectors of padding and of end-of-sequence: as improbable
    as these are.

    Raises:
        ValueError: as [`check_exportable`].
    """
    config = recommender.config
    check_exportable(config)
    assert config.vocab_size is not None
    own = {field.name for field in fields(RecBaseConfig)} - {field.name for field in fields(Qwen3Config)}
    left_out = {*own, "model_type", "architectures", "auto_map", "transformers_version", "weights_fingerprint"}
    values = {name: value for name, value in config.to_dict().items() if name not in left_out}
    plain = Qwen3Config(**{**values, "vocab_size": config.vocab_size + 2})
    model = Qwen3ForCausalLM(plain)
    weights = {name: _with_boundaries(name, weight) for name, weight in recommender.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = config.pad_token_id, None
    model.generation_config.max_new_tokens = config.num_levels
    return model.eval()


def _with_boundaries(name: str, weight: Tensor) -> Tensor:
    tables = ("embed_tokens.weight", "lm_head.weight")
    return torch.cat((weight, weight[:2])) if name.endswith(tables) else weight.clone()


def text_tokenizer(config: RecBaseConfig) -> PreTrainedTokenizerFast:
    """A text tokenizer whose ids are those of a recommender: padding, end-of-sequence, `<s_a_0>` and so on, and
    `<|sid_begin|>`, `<|sid_end|>`. Blanks and line breaks between tokens are skipped, other text is an error."""
    assert config.level_sizes is not None
    codes = [code_token(level, code) for level, size in enumerate(config.level_sizes) for code in range(size)]
    tokens = [PAD, EOS, *codes, BEGIN, END]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    # Codes are no special tokens: servers leave these out of what they answer.
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens[2:]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_position_embeddings,
    )


def sid2pid(index: ItemIndex) -> dict[str, list[dict[str, str | int]]]:
    """Items by the codes of their semantic IDs, as OpenOneRec lists them, under FlashRec's keys."""
    keys = (",".join(map(str, codes)) for codes in index.codes.tolist())
    return {key: [{"pid": item_id, "count": 1}] for key, item_id in zip(keys, index.item_ids, strict=True)}


def export_qwen3(
    recommender: RecBaseForCausalLM, index: ItemIndex, folder: str | Path, overwrite: bool = False
) -> list[str]:
    """
    Writes the folder: network, text tokenizer, `sid2pid.json`, `sid_prompt.json`, the engines' plug-ins and a README
    that says how prompts are written.

    Args:
        recommender ([`RecBaseForCausalLM`]): the decoder.
        index ([`ItemIndex`]): its items.
        folder (`str` or `Path`): where it goes, whole or not at all.
        overwrite (`bool`, *optional*, defaults to `False`): whether an earlier export there is replaced.

    Returns:
        `list[str]`: paths of the files in the folder.

    Raises:
        ValueError: as [`check_exportable`], or if there are no items.
        FileExistsError: the folder is not empty, or holds something else.
    """
    config = recommender.config
    check_exportable(config)
    if not len(index):
        raise ValueError("The item index is empty: tokenize the items with `utgrec tokenize` first.")
    with replacing_folder(folder, overwrite, mark=SID2PID) as working:
        to_qwen3(recommender).save_pretrained(working)
        text_tokenizer(config).save_pretrained(working)
        # as engines with an earlier transformers read them
        rope: Any = config.rope_parameters
        add_entries(working / "config.json", rope_theta=rope["rope_theta"])
        add_entries(working / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        write_json(working / SID2PID, sid2pid(index), indent=None)
        prompt = SidPrompt(
            max_history=config.max_history,
            normalize_over=config.normalize_over,
            item_tokenizer_fingerprint=config.item_tokenizer_fingerprint,
        )
        write_json(working / PROMPT_FILE, asdict(prompt))
        (working / CONSTRAINT).mkdir()
        gather_code(PLUGINS, working / CONSTRAINT)
        write_text(working / CONSTRAINT / "__init__.py", '"""The items that exist, as logits processors."""\n')
        write_text(working / "README.md", readme(config, index))
        return sorted(path.relative_to(working).as_posix() for path in working.rglob("*") if path.is_file())


def add_entries(file: Path, **entries: float | str) -> None:
    """Writes entries of a JSON file, those that are there anew."""
    write_json(file, {**read_json_object(file), **entries})


def readme(config: RecBaseConfig, index: ItemIndex) -> str:
    """What the folder's README says, with numbers and an example of its own."""
    assert config.level_sizes is not None and config.num_levels is not None and config.vocab_size is not None
    sids = ["".join(code_token(level, code) for level, code in enumerate(codes)) for codes in index.codes[:2].tolist()]
    sizes = ",".join(map(str, config.level_sizes))
    first, last = config.level_offsets[0], config.vocab_size - 1
    template = resources.files("hub_cards").joinpath("templates/plain_decoder.md").read_text(encoding="utf-8")
    facts = {
        "num_items": f"{len(index):,}",
        "num_levels": str(config.num_levels),
        "levels": ", ".join(f"`{code_token(level, size - 1)}`" for level, size in enumerate(config.level_sizes)),
        "max_history": str(config.max_history),
        "example": "".join(sids),
        "item_id": json.dumps(index.item_ids[0]),
        "sid": sids[0],
        "key": ",".join(map(str, index.codes[0].tolist())),
        "flashrec": f"--sid {first}:{last}/{sizes} --sid-boundary-tokens {last + 1},{last + 2}",
    }
    for name, value in facts.items():
        template = template.replace(f"<<{name}>>", value)
    return template


__all__ = ["PROMPT_FILE", "SidPrompt", "check_exportable", "export_qwen3", "sid2pid", "text_tokenizer", "to_qwen3"]
