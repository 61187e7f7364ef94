"""Adapters that start as principal components: against an independent decomposition."""

import numpy as np
import pytest
import torch
from torch import nn

from trainers.runtime.principal_adapter import set_principal_components


def adapter(width, hidden, dim):
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, dim))


def states(rows=200, width=6, rank=6):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, rank)) * np.arange(rank, 0, -1) @ rng.normal(size=(rank, width)) + 3.0
    return torch.from_numpy(values).float()


@pytest.mark.parametrize(("hidden", "dim", "number"), [(20, 4, 4), (6, 4, 3), (30, 9, 6)])
def test_the_output_is_the_principal_components(hidden, dim, number):
    given, network = states(), adapter(6, hidden, dim)
    set_principal_components(network, given)
    found = network(given).detach().double().numpy()
    x = given.double().numpy()
    _, singular, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
    wanted = (x - x.mean(0)) @ basis[:number].T
    wanted *= np.sqrt(dim / (singular[:number] ** 2).sum() * len(x))
    wanted *= np.sign((found[:, :number] * wanted).sum(0))
    np.testing.assert_allclose(found[:, :number], wanted, atol=2e-5)
    assert not found[:, number:].any()
    np.testing.assert_allclose((found**2).sum(1).mean(), dim, rtol=1e-4)


def test_states_that_are_alike_or_of_few_dimensions():
    for given in (torch.ones(5, 6), states(rank=2)):
        network = adapter(6, 12, 4)
        set_principal_components(network, given)
        assert all(parameter.isfinite().all() for parameter in network.parameters())
    again = adapter(6, 12, 4)
    set_principal_components(again, given)
    assert torch.equal(again[0].weight[:8], network[0].weight[:8])


def test_units_that_are_left_over_can_learn():
    given, network = states(), adapter(6, 20, 4)
    set_principal_components(network, given)
    network(given).square().sum().backward()
    assert network[3].weight.grad[:, 8:].any() and network[0].weight[8:].any()
