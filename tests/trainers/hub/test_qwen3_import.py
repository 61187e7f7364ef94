"""A plain Qwen3 of another project as our recommender: what it recommends is what it generates after its prompts."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from modeling_utgrec import RecBaseForCausalLM
from tokenization_items import UniversalItemTokenizer
from trainers.commands.convert_qwen3 import ConvertQwen3Arguments, run

SIZES = [5, 4, 6]
WORDS = ["<unk>", "user", "likes", "next", "is", ":", ","]
ITEM, PROMPT = "<|sid_begin|>{sid}<|sid_end|>", "user likes : {items} next is <|sid_begin|>"


def packed(codes: list[int]) -> str:
    return str((codes[0] * 8192 + codes[1]) * 8192 + codes[2])


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A checkpoint in OpenOneRec's layout: words and codes in one vocabulary, and items with packed keys."""
    folder = tmp_path_factory.mktemp("theirs")
    codes = [f"<s_{'abc'[level]}_{code}>" for level, size in enumerate(SIZES) for code in range(size)]
    tokens = [*WORDS, *codes, "<|sid_begin|>", "<|sid_end|>", "<|pad|>"]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([AddedToken(token, normalized=False) for token in tokens[len(WORDS) :]])
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<|pad|>").save_pretrained(folder)
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "tie_word_embeddings": True}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokens) + 3, **sizes, **heads)).save_pretrained(folder)  # padded
    rows = torch.randperm(120)[:20]
    items = torch.stack((rows // 24, rows // 6 % 4, rows % 6), dim=1).tolist()
    entries = {packed(each): [{"pid": 100 + row, "count": 1}] for row, each in enumerate(items)}
    (folder / "sid2pid.json").write_text(json.dumps(entries))
    return folder, items


def write(folder: Path, text: str) -> str:
    (folder / "sid2pid.json").write_text(text)
    return str(folder / "sid2pid.json")


def test_it_recommends_what_it_generates_after_its_prompts(theirs, tmp_path, float32_tolerance):
    folder, codes = theirs
    run(ConvertQwen3Arguments(str(folder), str(tmp_path / "ours"), item_format=ITEM, prompt_format=PROMPT))
    model = RecBaseForCausalLM.from_pretrained(tmp_path / "ours").eval()
    items = UniversalItemTokenizer.from_pretrained(tmp_path / "ours")
    items.check_recommender(model)
    histories = [["103", "117", "108"], ["119"], ["100", "101", "102", "103", "104"]]
    batch = items(histories, return_tensors="pt")
    found = model.recommend(**batch, trie=items.trie, num_items=20)

    text, network = AutoTokenizer.from_pretrained(folder), Qwen3ForCausalLM.from_pretrained(folder).eval()
    for user, history in enumerate(histories):
        sids = (
            "".join(f"<s_{'abc'[level]}_{code}>" for level, code in enumerate(codes[int(i) - 100])) for i in history
        )
        prompt = text(PROMPT.format(items="".join(ITEM.format(sid=sid) for sid in sids)), return_tensors="pt")
        answers = torch.tensor(codes) + torch.tensor([7, 12, 16])
        tokens = torch.cat((prompt["input_ids"].expand(20, -1), answers[:, :-1]), dim=1)
        with torch.no_grad():
            log_probs = network(tokens).logits[:, -3:].log_softmax(-1)
        expected, order = log_probs.gather(2, answers[..., None]).sum((1, 2)).sort(descending=True)
        torch.testing.assert_close(found.scores[user], expected, **float32_tolerance(12, expected))
        assert found.item_ids[user] == [str(100 + row) for row in order.tolist()]
    # padding on the left reads the same, and so do given items
    lengths = [3 * len(history) for history in histories]
    left = {name: torch.zeros_like(tensor) for name, tensor in batch.items()}
    for user, length in enumerate(lengths):
        for name in left:
            left[name][user, -length:] = batch[name][user, :length]
    torch.testing.assert_close(model.recommend(**left, trie=items.trie, num_items=20).scores, found.scores)
    rows = torch.arange(20).expand(3, -1)
    scores = model.score_items(**batch, trie=items.trie, candidates=rows)
    torch.testing.assert_close(scores.sort(descending=True).values, found.scores)
    with pytest.raises(ValueError, match="prompt_tokens"):
        model(**batch, labels=batch["input_ids"])


def test_a_bare_prompt_of_another_vocabulary(theirs, tmp_path):
    folder, _ = theirs
    run(ConvertQwen3Arguments(str(folder), str(tmp_path / "ours"), max_history=7))
    model = RecBaseForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert (model.config.prompt_tokens, model.config.level_offsets, model.config.max_history) == (None, [7, 12, 16], 7)
    items = UniversalItemTokenizer.from_pretrained(tmp_path / "ours")
    batch = items([["103", "117"]], return_tensors="pt")
    network = Qwen3ForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, network(**batch).logits)
    assert model(**batch, labels=batch["input_ids"]).loss.isfinite()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({packed([1, 4, 0]): [{"pid": 7}]}), r"outside of the vocabulary.*\[5, 4, 6\].*7: \[1, 4, 0\]"),
        (json.dumps({packed([1, 3, 0]): [{"pid": 7}, {"pid": 8}]}), "belong to several items.*7, 8.*--most_frequent"),
    ],
)
def test_items_that_do_not_fit_are_named_before_work(theirs, tmp_path, text, message):
    folder, _ = theirs
    with pytest.raises(ValueError, match=message):
        run(ConvertQwen3Arguments(str(folder), str(tmp_path / "ours"), sid2pid=write(tmp_path, text)))
    assert not (tmp_path / "ours").exists()


def test_prompts_that_cannot_be_put_together_are_errors(theirs, tmp_path):
    folder, _ = theirs
    arguments = {"model": str(folder), "output_dir": str(tmp_path / "ours")}
    with pytest.raises(ValueError, match=r"item_format '<\|sid_begin\|>' must have {sid} once"):
        run(ConvertQwen3Arguments(**arguments, item_format="<|sid_begin|>"))
    with pytest.raises(ValueError, match="other tokens as a whole"):
        run(ConvertQwen3Arguments(**arguments, item_format="li{sid}kes"))
    with pytest.raises(ValueError, match="(?s)theirs.*max_position_embeddings"):
        run(ConvertQwen3Arguments(**arguments, max_history=20000))
    assert not (tmp_path / "ours").exists()


def test_other_models_and_missing_files_are_refused(theirs, tmp_path):
    folder, _ = theirs
    other = tmp_path / "llama"
    LlamaConfig().save_pretrained(other)
    (other / "sid2pid.json").write_text("{}")
    with pytest.raises(ValueError, match="of type 'llama': only a plain Qwen3"):
        run(ConvertQwen3Arguments(str(other), str(tmp_path / "ours")))
    with pytest.raises(SystemExit, match="holds no recommender that could be replaced"):
        run(ConvertQwen3Arguments(str(folder), str(other), overwrite=True))
    with pytest.raises(SystemExit, match="holds no recommender that could be replaced"):
        run(ConvertQwen3Arguments(str(folder), str(folder), overwrite=True))
    (other / "sid2pid.json").unlink()
    with pytest.raises(SystemExit, match="give --sid2pid"):
        run(ConvertQwen3Arguments(str(other), str(tmp_path / "ours")))
