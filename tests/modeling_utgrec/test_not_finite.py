"""NaN is never ranked: a network that gives any refuses to recommend and to score, and says which weight it is."""

import numpy as np
import pytest
import torch

from modeling_utgrec import (
    ItemLevelConfig,
    ItemLevelForCausalLM,
    ItemTrie,
    RecBaseConfig,
    RecBaseForCausalLM,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)

T5 = dict(d_model=8, d_ff=8, num_heads=2, d_kv=4, num_layers=1, num_decoder_layers=1)
MODELS = {
    "T5": lambda: UTGRecForConditionalGeneration(UTGRecConfig(root_codebook_size=4, leaf_codebook_size=4, **T5)),
    "decoder": lambda: RecBaseForCausalLM(RecBaseConfig.tiny(codebook_size=4, hidden_size=16)),
    "item-level": lambda: ItemLevelForCausalLM(ItemLevelConfig.tiny(codebook_size=4)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_neither_recommended_nor_scored(name, value):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    sizes, offsets = model.config.level_sizes, model.config.level_offsets
    codes = np.stack(np.unravel_index(np.arange(0, 60, 3), sizes[-3:]), 1)
    codes = np.concatenate([np.zeros((20, len(sizes) - 3), int), codes], 1)
    trie = ItemTrie(codes, sizes, offsets)
    history = (trie.codes[:2] + torch.tensor(offsets)).flatten()[None].repeat(3, 1)
    candidates = torch.arange(5).repeat(3, 1)
    assert model.recommend(history, None, trie, num_items=4, num_beams=4).scores.isfinite().all()
    assert model.score_items(history, None, trie, candidates).isfinite().all()
    weight_name, weight = next((n, w) for n, w in model.named_parameters() if "norm" in n)
    with torch.no_grad():
        weight[0] = value
    said = rf"gives NaN for 3 of 3 users.*{weight_name}"
    with pytest.raises(FloatingPointError, match=said):
        model.recommend(history, None, trie, num_items=4, num_beams=4)
    with pytest.raises(FloatingPointError, match=said):
        model.score_items(history, None, trie, candidates)
