"""Attention in bfloat16 on a CPU against that of torch in float32."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from modeling_utgrec import UTGRecConfig, UTGRecForConditionalGeneration
from trainers.runtime import cpu_attention as module
from trainers.runtime.cpu_attention import NAME, cpu_attention, cpu_attention_forward, use_cpu_attention

ITEMS, HEADS, LENGTH, WIDTH = 5, 3, 17, 8


def states(seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values as layers have them, heads last but one, and a gradient; all are bfloat16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    given = (torch.randn(ITEMS, LENGTH, HEADS, WIDTH, generator=generator).bfloat16() for _ in range(4))
    return [each.transpose(1, 2) for each in given]


def masks() -> dict[str, torch.Tensor | None]:
    lengths = torch.tensor([17, 3, 9, 17, 1])
    seen = (torch.arange(LENGTH) < lengths[:, None])[:, None, None]
    return {
        "none": None,
        "padding": seen,
        "pairs": seen & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
        "causal": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
        "added": torch.randn(ITEMS, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)).bfloat16(),
    }


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("cached", [2**19, HEADS * LENGTH**2 * 2, 1])
def test_values_and_gradients_are_those_of_float32(name, cached, monkeypatch):
    monkeypatch.setattr(module, "CACHED_SCORES", cached)  # all items at once, a few, one
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    *inputs, gradient = states()
    mask = masks()[name]
    ours = [each.detach().requires_grad_() for each in inputs]
    found = cpu_attention(*ours, mask, 0.3)
    found.backward(gradient)
    exact = [each.float().requires_grad_() for each in inputs]
    wanted_mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
    wanted = F.scaled_dot_product_attention(*exact, attn_mask=wanted_mask, scale=0.3)
    wanted.backward(gradient.float())
    assert found.dtype == torch.bfloat16 and found.transpose(1, 2).is_contiguous()
    for mine, theirs in [(found, wanted), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]:
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()


def test_what_is_hidden_counts_for_nothing():
    query, key, value, _ = states()
    seen = masks()["padding"]
    other = torch.where(seen.transpose(2, 3), value, value + 100)
    assert torch.equal(cpu_attention(query, key, value, seen, 1.0), cpu_attention(query, key, other, seen, 1.0))


def test_no_matrix_is_kept():
    kept = []
    inputs = [each.requires_grad_() for each in states()[:3]]
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        cpu_attention(*inputs, masks()["padding"], 1.0)
    assert max(kept) == ITEMS * HEADS * LENGTH * WIDTH < ITEMS * HEADS * LENGTH**2


def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=50, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **sizes))


def qwen3(heads: int = 3) -> Qwen3Model:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    return Qwen3Model(Qwen3Config(vocab_size=50, head_dim=8, num_key_value_heads=heads, **sizes))


def gradients(model, padded: bool = True) -> list[torch.Tensor]:
    model.zero_grad()
    ids = torch.randint(50, (4, 11), generator=torch.Generator().manual_seed(2))
    there = torch.arange(11) < torch.tensor([11, 4, 8, 11] if padded else [11] * 4)[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(input_ids=ids, attention_mask=there.long()).last_hidden_state
        (states.float() * there[..., None]).pow(2).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("make, calls", [(bert, True), (qwen3, True), (lambda: qwen3(1), False)])
@pytest.mark.parametrize("padded", [True, False])
def test_a_model_of_transformers_learns_the_same(make, calls, padded, monkeypatch):
    model, used = make().train(), []
    before = gradients(model, padded)
    own = module.cpu_attention
    monkeypatch.setattr(module, "cpu_attention", lambda *given: used.append(1) or own(*given))
    use_cpu_attention(model)
    after = gradients(model, padded)
    assert bool(used) == calls  # heads that share keys are torch's
    largest = max(each.norm() for each in before)
    assert len(before) == len(after)
    assert all((mine - theirs).norm() < 0.02 * largest for mine, theirs in zip(after, before, strict=True))
    assert any((mine - theirs).norm() > 0 for mine, theirs in zip(after, before, strict=True)) == calls


def test_all_else_is_torchs(monkeypatch):
    plain, model = bert().eval(), bert().eval()
    use_cpu_attention(model)
    monkeypatch.setattr(module, "cpu_attention", None)
    ids = torch.arange(20).view(2, 10)
    assert torch.equal(model(ids).last_hidden_state, plain(ids).last_hidden_state)  # float32, with gradients
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(ids).last_hidden_state, plain(ids).last_hidden_state)
    for each in (plain, model):
        for layer in each.encoder.layer:
            layer.attention.self.dropout.p = 0.5
        each.train()
    found = []
    for each in (plain, model):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(each(ids).last_hidden_state)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["mask of each head", "position_bias"])
def test_what_only_torch_takes_is_torchs(name, monkeypatch):
    monkeypatch.setattr(module, "cpu_attention", None)
    inputs = [each.requires_grad_() for each in states()[:3]]
    added = torch.randn(ITEMS, HEADS, LENGTH, LENGTH).bfloat16()
    given = {"attention_mask": added} if name == "mask of each head" else {"attention_mask": None, name: added}
    found, _ = cpu_attention_forward(torch.nn.Identity(), *inputs, is_causal=False, **given)
    wanted = F.scaled_dot_product_attention(*inputs, attn_mask=added)
    torch.testing.assert_close(found, wanted.transpose(1, 2))


@pytest.mark.parametrize(
    "of_call, of_module, causal", [(None, None, True), (None, False, False), (False, True, False)]
)
def test_the_call_and_then_the_module_say_whether_it_is_causal(of_call, of_module, causal):
    inputs = [each.requires_grad_() for each in states()[:3]]
    layer = torch.nn.Identity()
    if of_module is not None:
        layer.is_causal = of_module
    found, _ = cpu_attention_forward(layer, *inputs, None, is_causal=of_call)
    wanted = cpu_attention(*inputs, masks()["causal"] if causal else None, WIDTH**-0.5)
    assert torch.equal(found, wanted.transpose(1, 2))


def test_a_model_with_an_attention_of_its_own_keeps_it():
    model = UTGRecForConditionalGeneration(UTGRecConfig(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1))
    use_cpu_attention(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("most, calls", [(3 * 11**2, 1), (3 * 11**2 - 1, 0)])
def test_long_items_are_torchs(most, calls, monkeypatch):
    model, used, own = bert().train(), [], module.cpu_attention
    monkeypatch.setattr(module, "MOST_SCORES", most)
    monkeypatch.setattr(module, "cpu_attention", lambda *given: used.append(1) or own(*given))
    use_cpu_attention(model)
    gradients(model)
    assert len(used) == calls * model.config.num_hidden_layers


def test_nothing_of_it_is_saved(tmp_path):
    model = bert()
    use_cpu_attention(model)
    assert model.config._attn_implementation == NAME
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert BertModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    eager = BertModel.from_pretrained(tmp_path, attn_implementation="eager")
    use_cpu_attention(eager)
    assert eager.config._attn_implementation == "eager"  # as somebody wanted it
