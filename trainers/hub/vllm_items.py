"""A logits processor of vLLM that lets a plain checkpoint generate items that exist, and nothing else.

vLLM is its user's, not a dependency of this project: the class is found by name where vLLM runs.

    PYTHONPATH=FOLDER vllm serve FOLDER --logits-processors item_constraint.vllm_items:ItemConstraint

The interface is that of `vllm.v1.sample.logits_processor.LogitsProcessor`, of vLLM's first model runner; that of the
second is in `vllm_items_v2`.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from trainers.hub.item_constraint import check_switch, constrain, is_constrained, load_constraint

_vllm: Any = importlib.import_module("vllm.v1.sample.logits_processor")


class ItemConstraint(_vllm.LogitsProcessor):
    """
    Restricts every request to the items of the checkpoint's `sid2pid.json`, unless its `extra_args` say
    `{"valid_items": False}`. Tokens of prompts are not looked at: what is generated begins with a code.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for a switch that is neither on nor off."""
        check_switch(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        model = vllm_config.model_config
        self.constraint = load_constraint(model.model, getattr(model, "revision", None), device)
        self.generated: dict[int, list[int]] = {}  # row of the batch to the request's tokens, which vLLM appends to

    def is_argmax_invariant(self) -> bool:
        """False: the best token may lead to no item."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follows requests that leave, join and move within the batch, in this order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.generated.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self.generated.pop(row, None)
            if is_constrained(params):
                self.generated[row] = tokens
        for source, target, direction in batch_update.moved:
            moved, replaced = self.generated.pop(source, None), self.generated.pop(target, None)
            if moved is not None:
                self.generated[target] = moved
            if replaced is not None and direction == _vllm.MoveDirectionality.SWAP:
                self.generated[source] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Logits `(requests, vocab_size)` with -inf where a token leads to no item."""
        return constrain(self.constraint, logits, self.generated)


__all__ = ["ItemConstraint"]
