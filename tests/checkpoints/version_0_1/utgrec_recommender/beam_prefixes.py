"""Keys and values of the tokens that beams have chosen, where nothing is copied when beams change their order."""

import torch
from torch import Tensor


class BeamPrefixes:
    """
    The keys and values of each depth stay where they were written; a beam knows the rows of its ancestors.

    Attributes:
        keys_values (`list[list[torch.Tensor]]`): per depth and layer, `[B, W, 2, heads, head_dim]` with the W of then.
        ancestors (`list[torch.Tensor]`): per depth, row in `keys_values` of each beam's prefix, `[B, W]`.
    """

    def __init__(self):
        self.keys_values: list[list[Tensor]] = []
        self.ancestors: list[Tensor] = []

    @property
    def depth(self) -> int:
        """Number of tokens of each beam."""
        return len(self.ancestors)

    def reorder(self, parents: Tensor) -> None:
        """Makes beam `w` one that continues beam `parents[:, w]`, `[B, W]`."""
        self.ancestors = [rows.gather(1, parents) for rows in self.ancestors]

    def append(self, tokens: Tensor) -> None:
        """Begins the depth of tokens `[B, W]`, one for each beam."""
        self.ancestors.append(torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape))
        self.keys_values.append([])

    def extend(self, own: Tensor) -> list[Tensor]:
        """
        Keeps the keys and values `[B, W, 2, heads, head_dim]` of the last depth's next layer.

        Returns:
            `list[torch.Tensor]`: those of every depth, for each beam its own prefix's: `[B, W or 1, 2, heads,
            head_dim]`.
        """
        layer = len(self.keys_values[-1])
        self.keys_values[-1].append(own)
        found = []
        for depth, rows in enumerate(self.ancestors[:-1]):
            past = self.keys_values[depth][layer]
            if past.shape[1] > 1:  # a single beam is every beam's ancestor and broadcasts
                past = past.flatten(0, 1).index_select(0, rows.flatten()).view(own.shape)
            found.append(past)
        return [*found, own]


__all__ = ["BeamPrefixes"]
