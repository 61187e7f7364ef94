"""The logits processor of [`~trainers.hub.vllm_items`] for vLLM's Model Runner V2, whose interface is another one.

    PYTHONPATH=FOLDER vllm serve FOLDER --logits-processors item_constraint.vllm_items_v2:ItemConstraint

The interface is that of `vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor`.
"""

import importlib
from typing import Any

from torch import Tensor

from trainers.hub.item_constraint import check_switch, constrain, is_constrained, load_constraint

_vllm: Any = importlib.import_module("vllm.v1.worker.gpu.sample.logits_processor.interface")


class ItemConstraint(_vllm.LogitsProcessor):
    """
    Restricts every request to the items of the checkpoint's `sid2pid.json`, unless its `extra_args` say
    `{"valid_items": False}`. Tokens of prompts are not looked at: what is generated begins with a code. Drafts of
    speculative decoding are not followed.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for a switch that is neither on nor off."""
        check_switch(sampling_params)

    def __init__(self, vllm_config: Any, req_states: Any):
        model = vllm_config.model_config
        self.constraint = load_constraint(model.model, getattr(model, "revision", None), req_states.device)
        self.states = req_states
        self.is_on = [False] * req_states.max_num_reqs

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Takes note of a request in a slot, whoever had it before. Returns whether it is constrained."""
        self.is_on[req_idx] = is_constrained(sampling_params)
        return self.is_on[req_idx]

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Logits `(rows, vocab_size)` with -inf where a token leads to no item."""
        generated = {}
        slots, ends = ctx.expanded_idx_mapping.tolist(), (ctx.pos + 1).tolist()
        for row, (slot, end) in enumerate(zip(slots, ends, strict=True)):
            if self.is_on[slot]:
                first = int(self.states.prompt_len.np[slot])
                generated[row] = self.states.all_token_ids.gpu[slot, first:end].tolist()
        return constrain(self.constraint, logits, generated)


__all__ = ["ItemConstraint"]
