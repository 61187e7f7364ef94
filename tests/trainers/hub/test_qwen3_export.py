"""RecBase's decoder as a plain Qwen3: the same logits, the same tokens, served by engines, and the way back."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM, set_seed

from modeling_utgrec import (
    RecBaseConfig,
    RecBaseForCausalLM,
    RQVAEConfig,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.commands.convert_qwen3 import ConvertQwen3Arguments
from trainers.commands.convert_qwen3 import run as convert
from trainers.commands.export import ExportArguments
from trainers.commands.export import run as export
from trainers.hub.sid_tokens import code_token, load_trie
from trainers.methods.runs import save_recommender

SIZES = [6, 8, 5]
ITEMS = [f"i{row}" for row in range(30)]


def make_index(offsets: list[int]) -> ItemIndex:
    index, rows = ItemIndex(SIZES, offsets), np.random.default_rng(0).permutation(240)[: len(ITEMS)]
    index.assign(ITEMS, np.stack(np.unravel_index(rows, SIZES), 1))
    return index


def make_recbase(**values) -> RecBaseForCausalLM:
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "initializer_range": 0.3}
    return RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=SIZES, max_history=6, **sizes, **values)).eval()


def text_of(index: ItemIndex, history: list[str], before: str = "", after: str = "") -> str:
    """A history as a prompt."""
    codes = index.codes[index.rows(history)].tolist()
    sids = ("".join(code_token(level, code) for level, code in enumerate(each)) for each in codes)
    return "".join(before + sid + after for sid in sids)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def exported(request, tmp_path_factory):
    """Recommender, its items, its folder and that of the export."""
    folder = tmp_path_factory.mktemp("export")
    model = make_recbase(tie_word_embeddings=request.param, normalize_over="items", item_tokenizer_fingerprint="f00d")
    tokenizer = UniversalItemTokenizer(make_index(model.config.level_offsets), "f00d", 6)
    save_recommender(model, tokenizer, folder / "recommender")
    export(ExportArguments(str(folder / "plain"), str(folder / "recommender")))
    return model, tokenizer, folder / "recommender", folder / "plain"


def test_transformers_alone_computes_the_same(exported):
    model, tokenizer, _, plain = exported
    network, text = AutoModelForCausalLM.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    assert type(network) is Qwen3ForCausalLM
    histories = [ITEMS[:4], ITEMS[7:9], ITEMS[20:26]]
    prompts = text([text_of(tokenizer.index, history) for history in histories], padding=True, return_tensors="pt")
    for row, history in enumerate(histories):
        own = tokenizer([history], return_tensors="pt")
        assert torch.equal(prompts["input_ids"][row][prompts["attention_mask"][row] == 1], own["input_ids"][0])
        with torch.no_grad():
            expected, found = model(**own).logits, network(own["input_ids"]).logits
        torch.testing.assert_close(found[..., : model.config.vocab_size], expected, atol=1e-5, rtol=0)
        # the two tokens that are new are as improbable as padding and end-of-sequence
        torch.testing.assert_close(found[..., -2:], expected[..., :2], atol=1e-5, rtol=0)
    spaced = text_of(tokenizer.index, ITEMS[:2], after=" \n")
    assert text(spaced)["input_ids"] == tokenizer([ITEMS[:2]])["input_ids"][0]
    assert text.decode(text(spaced)["input_ids"], skip_special_tokens=True) == spaced.replace(" \n", "")
    with pytest.raises(Exception, match="UNK"):
        text("likes <s_a_0>")


def test_the_vocabulary_is_as_flashrec_infers_it(exported):
    """Its rules: levels in the order of their ids, each complete and without gaps, the two boundaries behind them."""
    model, tokenizer, _, plain = exported
    added = {
        each["content"]: each["id"] for each in json.loads((plain / "tokenizer.json").read_text())["added_tokens"]
    }
    levels: dict[str, list[tuple[int, int]]] = {}
    for token, number in added.items():
        if match := re.fullmatch(r"<s_([A-Za-z0-9]+)_(\d+)>", token):
            levels.setdefault(match[1], []).append((number, int(match[2])))
    spans = [sorted(each) for each in levels.values()]
    assert [[code for _, code in span] for span in spans] == [list(range(size)) for size in SIZES]
    ids = [number for span in spans for number, _ in span]
    assert ids == list(range(2, 2 + sum(SIZES)))
    assert (added["<|sid_begin|>"], added["<|sid_end|>"]) == (ids[-1] + 1, ids[-1] + 2)
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    assert "added_tokens_decoder" not in settings and settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert json.loads((plain / "config.json").read_text())["rope_theta"] == 10000
    entries = json.loads((plain / "sid2pid.json").read_text())
    codes = [[int(code) for code in key.split(",")] for key in entries]
    assert codes == tokenizer.index.codes.tolist()
    assert [entry for (entry,) in entries.values()] == [{"pid": item_id, "count": 1} for item_id in ITEMS]


def test_what_was_exported_comes_back_as_it_was(exported, tmp_path):
    model, tokenizer, _, plain = exported
    convert(ConvertQwen3Arguments(str(plain), str(tmp_path / "back")))
    back = RecBaseForCausalLM.from_pretrained(tmp_path / "back")
    items = UniversalItemTokenizer.from_pretrained(tmp_path / "back")
    assert (back.config.normalize_over, back.config.max_history, items.max_history) == ("items", 6, 6)
    assert items.index.checksum == tokenizer.index.checksum and items.fingerprint == "f00d"
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items())
    assert model.state_dict().keys() == back.state_dict().keys()


class Engine:
    """
    Continuous batching as vLLM's: requests take free rows, those at the end move into rows that others have left, and
    every step tells the processor what has changed before it sees the logits.
    """

    def __init__(self, stand_in, processor, network, slots: int):
        self.stand_in, self.processor, self.network, self.slots = stand_in, processor, network, slots
        self.rows: list[tuple[list[int], list[int], object]] = []

    def run(self, prompts: list[list[int]], params: list, lengths: list[int]) -> list[list[int]]:
        waiting, outputs = list(zip(prompts, params, lengths, strict=True)), []
        results = {id(entry): [] for entry in waiting}
        order = [id(entry) for entry in waiting]
        rows: list[tuple] = []
        generator = torch.Generator().manual_seed(3)
        while waiting or rows:
            removed = [row for row, (entry, output) in enumerate(rows) if len(output) == entry[2]]
            for row in removed:
                results[id(rows[row][0])] = rows[row][1]
            free, added, moved = list(removed), [], []
            while waiting and (free or len(rows) < self.slots):
                entry, output = waiting.pop(0), []
                row = free.pop(0) if free else len(rows)
                rows[row : row + 1] = [(entry, output)]
                added.append((row, entry[1], entry[0], output))
            gone = [row for row in removed if row not in {each[0] for each in added}]
            for row in gone:
                while rows and len(rows) - 1 in gone and len(rows) - 1 >= row:
                    rows.pop()
                if row < len(rows):
                    moved.append((len(rows) - 1, row, self.stand_in.MoveDirectionality.UNIDIRECTIONAL))
                    rows[row] = rows.pop()
            if len(rows) > 1:  # as backends that reorder their batch do
                rows[0], rows[-1] = rows[-1], rows[0]
                moved.append((0, len(rows) - 1, self.stand_in.MoveDirectionality.SWAP))
            changed = removed or added or moved
            update = self.stand_in.BatchUpdate(len(rows), gone, added, moved) if changed else None
            self.processor.update_state(update)
            if not rows:
                break
            with torch.no_grad():
                logits = [self.network(torch.tensor([entry[0] + output])).logits[0, -1] for entry, output in rows]
            probabilities = self.processor.apply(torch.stack(logits)).softmax(-1)
            for (_, output), token in zip(
                rows, probabilities.multinomial(1, generator=generator).flatten().tolist(), strict=True
            ):
                output.append(token)
        outputs = [results[number] for number in order]
        return outputs


def test_vllm_generates_items_and_nothing_else(exported, vllm, monkeypatch):
    model, tokenizer, _, plain = exported
    from trainers.hub.vllm_items import ItemConstraint

    network = AutoModelForCausalLM.from_pretrained(plain)
    processor = ItemConstraint(vllm.config(str(plain)), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    prompts = [tokenizer([ITEMS[row : row + 2]])["input_ids"][0] for row in range(12)]
    free = {4, 9}  # requests that may say anything
    params = [vllm.SamplingParams({"valid_items": False} if row in free else None) for row in range(12)]
    lengths = [3 if row % 3 else 4 for row in range(12)]  # one goes on beyond its item
    found = Engine(vllm, processor, network, slots=4).run(prompts, params, lengths)
    constrained = [tokens for row, tokens in enumerate(found) if row not in free]
    assert all(tokenizer.decode(tokens[:3]) in ITEMS for tokens in constrained)  # an error for what is no item
    assert {tokens[3] for tokens in constrained if len(tokens) > 3} <= {1, model.config.vocab_size + 1}
    assert len({tuple(tokens) for tokens in constrained}) > 3
    trie = load_trie(plain)
    assert trie.item_ids == ITEMS and torch.equal(trie.codes, tokenizer.trie.codes)
    # greedy, step by step, is what is best among what exists
    processor.update_state(vllm.BatchUpdate(1, list(range(12)), [(0, params[0], prompts[0], [])], []))
    logits = network(torch.tensor([prompts[0]])).logits[:, -1].detach()
    allowed = trie.allowed(0, torch.tensor([0]))[0]
    masked = processor.apply(logits.clone())[0]
    assert (masked.isfinite().nonzero().flatten() - 2).tolist() == allowed.nonzero().flatten().tolist()
    assert torch.equal(masked[masked.isfinite()], logits[0, masked.isfinite()])
    with pytest.raises(ValueError, match="valid_items"):
        ItemConstraint.validate_params(vllm.SamplingParams({"valid_items": "no"}))


def test_vllm_with_its_second_model_runner(exported, vllm, vllm_v2):
    """Slots keep their requests, rows are in another order at every step, and a slot is used again."""
    _, tokenizer, _, plain = exported
    from trainers.hub.vllm_items_v2 import ItemConstraint

    network = AutoModelForCausalLM.from_pretrained(plain)
    states = vllm_v2.states(slots=3, longest=40)
    processor = ItemConstraint(vllm.config(str(plain)), states)
    generator, found = torch.Generator().manual_seed(0), []
    for turn in range(2):
        free = {1} if turn == 0 else set()
        for slot in range(3):
            prompt = tokenizer([ITEMS[turn + slot : turn + slot + 2 + slot]])["input_ids"][0]
            states.prompt_len.np[slot] = len(prompt)
            states.all_token_ids.gpu[slot, : len(prompt)] = torch.tensor(prompt)
            params = vllm_v2.SamplingParams({"valid_items": slot not in free})
            assert processor.add_request(slot, params) == (slot not in free)
        for step in range(3):
            rows = torch.randperm(3, generator=generator)
            lengths = torch.tensor(states.prompt_len.np)[rows].long() + step
            tokens = [states.all_token_ids.gpu[slot, :end].long() for slot, end in zip(rows, lengths, strict=True)]
            with torch.no_grad():
                logits = torch.stack([network(each[None]).logits[0, -1] for each in tokens])
            ctx = SimpleNamespace(expanded_idx_mapping=rows, pos=lengths - 1)
            chosen = processor.apply(logits, ctx).softmax(-1).multinomial(1, generator=generator).flatten()
            states.all_token_ids.gpu[rows, lengths] = chosen.int()
        for slot in set(range(3)) - free:
            first = int(states.prompt_len.np[slot])
            found.append(tokenizer.decode(states.all_token_ids.gpu[slot, first : first + 3].tolist()))
    assert len(found) == 5 and set(found) <= set(ITEMS)
    with pytest.raises(ValueError, match="valid_items"):
        ItemConstraint.validate_params(vllm_v2.SamplingParams({"valid_items": 1}))


def test_sglang_generates_items_and_nothing_else(exported, sglang):
    _, tokenizer, _, plain = exported
    from trainers.hub.sglang_items import ItemConstraint

    network, processor = AutoModelForCausalLM.from_pretrained(plain), ItemConstraint()
    requests = [sglang.Req(tokenizer([ITEMS[row : row + 3]])["input_ids"][0], []) for row in range(5)]
    requests[0].output_ids.append(tokenizer.encode("i7")[0])  # one is ahead
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        batch = [request for request in requests if len(request.output_ids) < 3]
        tokens = [torch.tensor([request.origin_input_ids + request.output_ids]) for request in batch]
        with torch.no_grad():
            logits = torch.stack([network(each).logits[0, -1] for each in tokens])
        logits = processor(logits, [{"__req__": request, "model": str(plain)} for request in batch])
        for request, token in zip(batch, logits.softmax(-1).multinomial(1, generator=generator), strict=True):
            request.output_ids.append(int(token))
    assert all(tokenizer.decode(request.output_ids) in ITEMS for request in requests)
    with pytest.raises(ValueError, match="custom_params"):
        processor(logits, [{"__req__": requests[0]}])


STRANGER = """
import sys, types

for package in ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards"):
    sys.modules[package] = None  # importing it is an ImportError
for name, classes in {"vllm.v1.sample.logits_processor": ["LogitsProcessor", "MoveDirectionality"],
                      "sglang.srt.sampling.custom_logit_processor": ["CustomLogitProcessor"]}.items():
    sys.modules[name] = types.SimpleNamespace(**{each: type(each, (), {}) for each in classes})

import torch
from item_constraint.sglang_items import ItemConstraint as SGLang
from item_constraint.vllm_items import ItemConstraint as VLLM
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt, generated = tokenizer(sys.argv[2], return_tensors="pt"), []
config = types.SimpleNamespace(model_config=types.SimpleNamespace(model=folder, revision=None))
vllm = VLLM(config, torch.device("cpu"), False)
params = types.SimpleNamespace(extra_args=None)
vllm.update_state(types.SimpleNamespace(removed=[], added=[(0, params, None, generated)], moved=[]))
request = types.SimpleNamespace(output_ids=generated)
for _ in range(3):
    tokens = torch.cat((prompt["input_ids"], torch.tensor([generated], dtype=torch.long)), 1)
    logits = model(tokens).logits[:, -1].detach()
    constrained = vllm.apply(logits.clone())
    assert torch.equal(constrained, SGLang()(logits.clone(), [{"__req__": request, "model": folder}]))
    generated.append(int(constrained.argmax()))
print(tokenizer.decode(generated))
"""


def test_the_folder_needs_none_of_our_code(exported, tmp_path):
    model, tokenizer, _, plain = exported
    if model.config.tie_word_embeddings:
        pytest.skip("one of the two is enough: a process of its own takes seconds")
    (tmp_path / "stranger.py").write_text(STRANGER)
    environment = {**os.environ, "PYTHONPATH": str(plain), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    prompt = text_of(tokenizer.index, ITEMS[:3])
    run = subprocess.run(
        [sys.executable, str(tmp_path / "stranger.py"), str(plain), prompt],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    sids = {text_of(tokenizer.index, [item_id]) for item_id in ITEMS}
    assert run.stdout.strip() in sids


@pytest.mark.hub
def test_both_ways_know_the_hub(exported, hub, tmp_path):
    model, _, recommender, plain = exported
    if model.config.tie_word_embeddings:
        pytest.skip("one of the two is enough")
    repositories = {}
    for name, folder in (("ours", recommender), ("plain", plain)):
        repositories[name] = hub.new_repo(name)
        HfApi().create_repo(repositories[name])
        HfApi().upload_folder(repo_id=repositories[name], folder_path=folder)
    files = export(ExportArguments(str(tmp_path / "out"), repositories["ours"], revision="main"))
    assert {"sid2pid.json", "model.safetensors", "item_constraint/vllm_items.py"} <= set(files)
    convert(ConvertQwen3Arguments(repositories["plain"], str(tmp_path / "back"), revision="main"))
    back = RecBaseForCausalLM.from_pretrained(tmp_path / "back")
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items())


# what cannot be exported


def test_models_of_another_kind_are_refused_before_work(tmp_path):
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "d_kv": 4, "num_layers": 1, "num_decoder_layers": 1}
    UTGRecForConditionalGeneration(UTGRecConfig(**sizes)).save_pretrained(tmp_path / "t5")
    with pytest.raises(SystemExit, match="--format qwen3 is of RecBase's decoder .* holds 'utgrec'"):
        export(ExportArguments(str(tmp_path / "out"), str(tmp_path / "t5")))
    make_recbase().save_pretrained(tmp_path / "recbase")
    with pytest.raises(SystemExit, match="holds 'recbase': give --format qwen3"):
        export(ExportArguments(str(tmp_path / "out"), str(tmp_path / "recbase"), format="onnx"))
    with pytest.raises(SystemExit, match="--format bin: expected qwen3, onnx, custom_generate"):
        export(ExportArguments(str(tmp_path / "out"), str(tmp_path / "recbase"), format="bin"))
    with pytest.raises(SystemExit, match="needs a model"):
        export(ExportArguments(str(tmp_path / "out")))
    RQVAEConfig().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="'rqvae', which is no generative recommender"):
        export(ExportArguments(str(tmp_path / "out"), str(tmp_path / "tokenizer")))
    assert not (tmp_path / "out").exists()


def test_rules_that_are_left_out_are_named(exported, tmp_path, capsys):
    recommender = shutil.copytree(exported[2], tmp_path / "recommender")
    for rules, is_said in (({"deny": [ITEMS[0]]}, True), ({"allow": []}, True), ({"exclude_seen": False}, False)):
        (recommender / "recommender.json").write_text(json.dumps({"format_version": 1, "rules": rules}))
        export(ExportArguments(str(tmp_path / "out"), str(recommender), dry_run=True))
        assert ("its rules, what to deny and to choose from, are not part" in capsys.readouterr().out) == is_said


def test_nothing_is_overwritten_and_a_dry_run_writes_nothing(exported, tmp_path, capsys):
    _, _, recommender, plain = exported
    arguments = {"model": str(recommender), "output_dir": str(tmp_path / "out")}
    assert export(ExportArguments(**arguments, dry_run=True)) == []
    convert(ConvertQwen3Arguments(str(plain), str(tmp_path / "back"), dry_run=True))
    assert "Nothing was written" in capsys.readouterr().out and not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="--overwrite"):
        export(ExportArguments(**arguments))
    with pytest.raises(SystemExit, match="--overwrite"):
        convert(ConvertQwen3Arguments(str(plain), str(tmp_path / "out")))
    with pytest.raises(FileExistsError, match="sid2pid.json"):
        export(ExportArguments(**arguments, overwrite=True))
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["mine.txt"]
