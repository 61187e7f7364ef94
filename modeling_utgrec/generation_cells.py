"""Cells of a search: a number for each child of each beam of each user, `[B, W, children]`."""

import torch
from torch import Tensor

GROUP_CELLS = 8  # of which the largest is looked at first


def put(grid: Tensor, cells: Tensor, there: Tensor, values: Tensor) -> None:
    """Writes values `[B, C]` into the cells of `grid` `[B, ...]` that are there; those of one cell are the same."""
    flat = grid.flatten(1)
    first = there.to(torch.uint8).argmax(1, keepdim=True)
    cell = cells.gather(1, first)  # what is not there goes where the first one goes, or leaves a cell as it is
    value = torch.where(there.gather(1, first), values.gather(1, first), flat.gather(1, cell))
    flat.scatter_(1, torch.where(there, cells, cell), torch.where(there, values, value))


def open_only(grid: Tensor, is_open: Tensor) -> Tensor:
    """The numbers, float32, where a cell is open, -inf elsewhere."""
    if grid.device.type != "cpu":
        return torch.where(is_open, grid, -torch.inf)
    # torch.where asks cell by cell, and a CPU guesses wrong at every other one; by bits nothing is guessed
    kept = is_open.to(torch.int32).neg_()
    closed = torch.tensor(-torch.inf).view(torch.int32)
    return (grid.view(torch.int32) & kept).bitwise_or_(kept.bitwise_not_().bitwise_and_(closed)).view(torch.float32)


def largest(grid: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """
    The `number` largest numbers of each user, or as many as there are, and the cells in which they stand, both
    `[B, number]`, the largest first. They stand in as many groups of cells, those with the largest maximum.
    """
    flat = grid.flatten(1)
    groups = -(-flat.shape[1] // GROUP_CELLS)
    if number * GROUP_CELLS > groups:
        return flat.topk(min(number, flat.shape[1]))
    size = flat.shape[1]
    flat = torch.nn.functional.pad(flat, (0, groups * GROUP_CELLS - size), value=-torch.inf)
    best = flat.unflatten(1, (GROUP_CELLS, groups)).amax(1).topk(number).indices
    first = torch.arange(0, flat.shape[1], groups, device=flat.device)
    cells = (best[:, None] + first[:, None]).flatten(1)
    found, places = flat.gather(1, cells).topk(number)
    return found, cells.gather(1, places).clamp_(max=size - 1)  # -inf is found behind the last one, too


__all__ = ["largest", "open_only", "put"]
