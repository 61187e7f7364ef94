"""The item-level recommender in onnxruntime: the same scores for batches and histories of any size."""

import json

import numpy as np
import pytest
import torch
from transformers import set_seed

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM
from tokenization_items.item_index import ItemIndex
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.commands.export import ExportArguments, run
from trainers.hub.onnx_export import check_installed, export_onnx
from trainers.rankers.onnx_item_level import OnnxItemLevel

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name)
ITEMS = [f"i{row}" for row in range(60)]
CONTENT = 6


# Tracing the networks takes seconds: what all models have is tested always, the plainer one on request.
@pytest.fixture(scope="module", params=["content", pytest.param("codes", marks=pytest.mark.slow)])
def recommender(request, tmp_path_factory):
    """A model that reads content and embeddings of the items' own and predicts by content, or codes by codes; its
    items and the folder of its export."""
    has_content = request.param == "content"
    folder = tmp_path_factory.mktemp("onnx")
    set_seed(0)
    more = {"content_size": CONTENT, "num_item_residuals": len(ITEMS)} if has_content else {}
    model = ItemLevelForCausalLM(ItemLevelConfig.tiny(codebook_size=8, max_history=9, **more)).eval()
    generator = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(generator.permutation(8**3)[: len(ITEMS)], (8, 8, 8)), 1)
    index = ItemIndex(model.config.level_sizes, model.config.level_offsets)
    content = generator.normal(size=(len(ITEMS), CONTENT)).astype(np.float32) if has_content else None
    index.assign(ITEMS, codes, content=content)
    tokenizer = UniversalItemTokenizer(index, None, 9)
    model.set_catalogue(tokenizer.trie)
    if has_content:
        torch.nn.init.normal_(model.residuals.weight)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model", include_network=False)
    run(ExportArguments(str(folder / "onnx"), str(folder / "model"), format="onnx"))
    return model, tokenizer, folder / "onnx"


def test_scores_are_those_of_torch_for_any_batch_and_history(recommender):
    model, tokenizer, folder = recommender
    exported = OnnxItemLevel.from_folder(folder, threads=1)
    generator = np.random.default_rng(1)
    for users, longest in ((1, 1), (2, 9), (5, 4)):
        lengths = generator.integers(1, longest + 1, size=users)
        histories = [generator.choice(ITEMS, size=length).tolist() for length in lengths]
        batch = tokenizer(histories, return_tensors="pt")
        rows = torch.arange(len(ITEMS)).expand(users, -1)
        expected = model.score_items(**batch, trie=tokenizer.trie, candidates=rows)
        found = exported.score_items(**batch, trie=tokenizer.trie, candidates=rows)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        best = exported.recommend(**batch, trie=tokenizer.trie, num_items=5)
        same = model.recommend(**batch, trie=tokenizer.trie, num_items=5)
        torch.testing.assert_close(best.scores, same.scores, atol=1e-4, rtol=0)


def test_the_networks_are_run_by_onnxruntime(recommender, monkeypatch):
    """Weights of torch's layers do not matter any more."""
    model, tokenizer, folder = recommender
    exported = OnnxItemLevel.from_folder(folder)
    batch = tokenizer([ITEMS[:3]], return_tensors="pt")
    before = exported.recommend(**batch, trie=tokenizer.trie, num_items=3)
    for parameter in exported.blocks.parameters():
        parameter.data.zero_()
    after = exported.recommend(**batch, trie=tokenizer.trie, num_items=3)
    assert torch.equal(before.scores, after.scores)
    assert (folder / "README.md").is_file() and json.loads((folder / "config.json").read_text())


@pytest.mark.slow
def test_half_precision_and_histories_of_one_item(small):
    model, tokenizer, folder = small
    export_onnx(model, tokenizer, folder)
    assert model.dtype == torch.bfloat16
    batch = tokenizer([["i1"], ["i8"]], return_tensors="pt")
    found = OnnxItemLevel.from_folder(folder, threads=1).recommend(**batch, trie=tokenizer.trie)
    expected = model.float().recommend(**batch, trie=tokenizer.trie)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


def test_networks_are_traced_in_float32_and_a_single_item_is_no_dimension(small, monkeypatch):
    traced = []
    monkeypatch.setattr("trainers.hub.onnx_export.write_graph", lambda *given: traced.append(given))
    export_onnx(*small)
    assert small[0].dtype == torch.bfloat16
    assert {each.dtype for network, *_ in traced for each in network.parameters()} == {torch.float32}
    assert {axis for _, _, shapes, *_ in traced[:1] for axes in shapes.values() for axis in axes} == {0}


@pytest.fixture
def small(tmp_path):
    """A model in half precision that reads one item, its items, and a folder that is not there."""
    set_seed(0)
    model = ItemLevelForCausalLM(ItemLevelConfig.tiny(codebook_size=3, max_history=1)).eval().bfloat16()
    index = ItemIndex(model.config.level_sizes, model.config.level_offsets)
    index.assign(ITEMS[:9], np.stack(np.unravel_index(np.arange(9), (3, 3, 3)), 1))
    return model, UniversalItemTokenizer(index, None, 1), tmp_path / "onnx"


def test_what_is_missing_is_named(recommender, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="lacks history.onnx, depth_head.onnx.*--format onnx"):
        OnnxItemLevel.from_folder(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx, onnxscript, onnxruntime: pip install utgrec\[onnx\]"):
        check_installed()
