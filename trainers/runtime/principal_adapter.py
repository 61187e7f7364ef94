"""An adapter that starts as what keeps most of its input: principal components, by an MLP exactly."""

import torch
from torch import nn


@torch.no_grad()
def set_principal_components(adapter: nn.Sequential, states: torch.Tensor) -> None:
    """
    Sets an MLP `Linear, GELU, Dropout, Linear` to the principal components of its input, in descending order: since
    gelu(x) - gelu(-x) = x, pairs of hidden units of opposite weights carry them. Units that are left over keep the
    weights that they had, and are not read yet.

    Args:
        adapter (`nn.Sequential`): of `hidden` units and `dim` outputs, of which the first `hidden // 2` are set.
        states (`torch.Tensor` of shape `(n, width)`): inputs. Their outputs have the mean 0 and as many squares in
            all as `dim` values of variance 1.
    """
    up, down = adapter[0], adapter[-1]
    assert isinstance(up, nn.Linear) and isinstance(down, nn.Linear) and isinstance(adapter[1], nn.GELU)
    states = states.double()
    mean = states.mean(dim=0)
    centred = states - mean
    # The matrix of products is no larger than the layer, however many states there are.
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    number = min(up.out_features // 2, down.out_features, len(values))
    components = vectors.flip(1)[:, :number].T
    # A component's sign is chance; by its largest entry it is the same on every machine.
    signs = components.gather(1, components.abs().argmax(dim=1, keepdim=True)).sign()
    kept = float(values[-number:].clamp(min=0.0).sum())
    components = components * signs * ((down.out_features / kept) ** 0.5 if kept else 1.0)
    offset = -(components @ mean)
    down.weight.zero_()
    down.bias.zero_()
    rows = torch.arange(number, device=down.weight.device)
    for place, sign in ((0, 1.0), (number, -1.0)):
        up.weight[place : place + number] = (sign * components).to(up.weight.dtype)
        up.bias[place : place + number] = (sign * offset).to(up.bias.dtype)
        down.weight[rows, place + rows] = sign
