"""Beams that are re-ordered and grow, against sequences that are copied with every step."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_utgrec.generation_layers import BeamPrefixes

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
