"""Numbers of the cells of a search, against torch's own ways."""

import pytest
import torch

from modeling_utgrec.generation_cells import largest, open_only


@pytest.mark.parametrize(("shape", "number"), [((3, 7, 70), 5), ((2, 5, 61), 3), ((4, 3, 4), 10), ((2, 2, 3), 50)])
def test_largest_are_those_of_topk(shape, number):
    grid = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid[0] = -torch.inf  # nothing is open
    grid[1, :, 1:] = -torch.inf  # fewer than are asked for
    found, cells = largest(grid, number)
    assert torch.equal(found, grid.flatten(1).topk(min(number, shape[1] * shape[2])).values)
    assert torch.equal(grid.flatten(1).gather(1, cells), found)
    grid[-1, 1, 2] = torch.nan  # as torch has it: what comes of it is seen in what is returned
    assert largest(grid, number)[0][-1, 0].isnan()


def test_what_is_closed_is_minus_infinity_whatever_it_was():
    values = torch.tensor([[1.5, -0.0, torch.nan, torch.inf, -torch.inf, -3e38]])
    for is_open in (torch.ones(1, 6), torch.zeros(1, 6), torch.tensor([[1, 0, 0, 1, 0, 1]]), 1 - torch.eye(6)[:1]):
        is_open = is_open.bool()
        expected = torch.where(is_open, values, -torch.inf)
        torch.testing.assert_close(open_only(values, is_open), expected, rtol=0, atol=0, equal_nan=True)
