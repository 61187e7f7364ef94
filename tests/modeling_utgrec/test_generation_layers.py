"""Beams that are re-ordered and grow, against sequences that are copied with every step; and the switch for CPUs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_utgrec import ItemTrie, RecBaseConfig, RecBaseForCausalLM, UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.generation_layers import LARGEST_BLOCK, BeamPrefixes, Projection, fast_cpu, fused_dtypes

USERS, LAYERS, HEADS, WIDTH = 2, 2, 3, 4


@settings(max_examples=30, deadline=None)
@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_each_beam_sees_its_own_prefix(widths, seed):
    generator = torch.Generator().manual_seed(seed)
    prefixes = BeamPrefixes()
    # per layer, [users, W, depth, 2, heads, width], copied whenever beams change
    copied = [torch.zeros(USERS, 1, 0, 2, HEADS, WIDTH) for _ in range(LAYERS)]
    for depth, width in enumerate(widths):
        parents = torch.randint(copied[0].shape[1], (USERS, width), generator=generator)
        prefixes.reorder(parents)
        prefixes.append(torch.zeros(USERS, width, dtype=torch.long))
        assert prefixes.depth == depth + 1
        for layer in range(LAYERS):
            own = torch.randn(USERS, width, 2, HEADS, WIDTH, generator=generator)
            kept = copied[layer][torch.arange(USERS)[:, None], parents]
            copied[layer] = torch.cat((kept, own[:, :, None]), dim=2)
            found = prefixes.extend(own)
            assert len(found) == depth + 1
            for at, each in enumerate(found):
                assert torch.equal(each.expand_as(own), copied[layer][:, :, at])


class Operators(TorchDispatchMode):
    """Remembers the names of the operators that run, and the sizes of what they give."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(str(function.overloadpacket))
        if isinstance(result, torch.Tensor):
            self.sizes.add(result.nbytes)
        return result


RECOMMENDERS = {
    "T5": lambda: UTGRecForConditionalGeneration(
        UTGRecConfig(level_sizes=[6, 8], d_model=16, d_ff=24, num_heads=2, d_kv=8, num_layers=1)
    ),
    "Qwen3": lambda: RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=[6, 8])),
}


@pytest.mark.parametrize("build", RECOMMENDERS.values(), ids=RECOMMENDERS.keys())
@pytest.mark.parametrize("switch", [None, "", "0", "1", "true"])
def test_nothing_private_runs_unless_the_switch_is_on(monkeypatch, build, switch):
    monkeypatch.delenv("UTGREC_FAST_CPU", raising=False)
    if switch is not None:
        monkeypatch.setenv("UTGREC_FAST_CPU", switch)
    model = build().eval()
    trie = ItemTrie(torch.tensor([[0, 1], [0, 2], [5, 7]]), model.config.level_sizes, model.config.level_offsets)
    history = trie.codes[:2].add(torch.tensor(trie.level_offsets)).view(1, -1)
    with Operators() as ran:
        model.recommend(history, None, trie, num_items=2)
    assert fast_cpu() == (switch in ("1", "true"))
    assert ("mkldnn._linear_pointwise" in ran.names) == (fast_cpu() and torch.float32 in fused_dtypes())
    assert (LARGEST_BLOCK in ran.sizes) == fast_cpu()


@pytest.mark.parametrize("relu", [False, True])
def test_products_are_the_same_with_the_switch(monkeypatch, relu):
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(5, width, bias=False) for width in (3, 4)]
    states, residual = (torch.randn(2, 6, width, generator=generator) for width in (5, 7))
    expected = torch.cat([layer(states) for layer in layers], dim=-1).detach()
    expected = residual + (expected.relu() if relu else expected)
    for switch in ("0", "1"):
        monkeypatch.setenv("UTGREC_FAST_CPU", switch)
        with torch.no_grad():
            found = Projection(*layers, relu=relu)(states, residual=residual)
        torch.testing.assert_close(found, expected)


class Doubled(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


def with_bias(layer):
    return nn.Linear(5, 3)


def with_hook(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


def with_pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return layer


def with_own_forward(layer):
    layer.forward = lambda states: 2 * nn.Linear.forward(layer, states)
    return layer


@pytest.mark.parametrize(
    "change", [with_bias, with_hook, with_pre_hook, with_own_forward, lambda layer: Doubled(5, 3, bias=False)]
)
@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_module_that_is_more_than_its_weight_is_called(monkeypatch, change, switch):
    monkeypatch.setenv("UTGREC_FAST_CPU", switch)
    layer, other = change(nn.Linear(5, 3, bias=False)), nn.Linear(5, 4, bias=False)
    states = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([layer(states), other(states)], dim=-1)
        torch.testing.assert_close(Projection(layer, other)(states), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_half_precision_is_clamped_as_in_t5s_blocks(sign):
    """An overflow of a sum becomes the largest number less 1000; without one nothing changes."""
    layer = nn.Linear(1, 2, bias=False).half()
    layer.weight.data = torch.tensor([[1.0], [0.5]]).half()
    states, residual = torch.full((1, 1), 40000 * sign).half(), torch.full((1, 2), 40000 * sign).half()
    with torch.no_grad():
        found = Projection(layer)(states, residual=residual)
        assert found.tolist() == [[64512 * sign, 60000 * sign]]  # 65504 - 1000, in steps of 32
        assert Projection(layer)(states, residual=residual / 2).tolist() == [[60000 * sign, 40000 * sign]]
    single = nn.Linear(1, 1, bias=False)
    single.weight.data.fill_(sign * torch.finfo(torch.float32).max)
    assert Projection(single)(torch.ones(1, 1), residual=single.weight.detach().clone()).isinf().all()
