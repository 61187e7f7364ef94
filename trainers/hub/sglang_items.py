"""A logit processor of SGLang that lets a plain checkpoint generate items that exist, and nothing else.

SGLang is its user's, not a dependency of this project: the class is found by name where SGLang runs.

    PYTHONPATH=FOLDER python -m sglang.launch_server --model-path FOLDER --enable-custom-logit-processor

Requests then carry `custom_logit_processor=ItemConstraint().to_str()` and `custom_params={"model": FOLDER}`.
"""

import importlib
from typing import Any

from torch import Tensor

from trainers.hub.item_constraint import constrain, load_constraint

_sglang: Any = importlib.import_module("sglang.srt.sampling.custom_logit_processor")


class ItemConstraint(_sglang.CustomLogitProcessor):
    """
    Restricts a request to the items of a checkpoint's `sid2pid.json`: the folder or Hub id that `model` of its
    `custom_params` names, at their `revision`. Tokens of prompts are not looked at: what is generated begins with a
    code.
    """

    def __call__(self, logits: Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> Tensor:
        """
        Logits with -inf where a token leads to no item.

        Args:
            logits (`torch.FloatTensor` of shape `(requests, vocab_size)`): of the next token.
            custom_param_list (`list[dict]`): of each request, with the request itself under `__req__`.

        Raises:
            ValueError: if a request does not name its model.
        """
        by_model: dict[tuple[str, str | None], dict[int, list[int]]] = {}
        for row, params in enumerate(custom_param_list or []):
            if not params or "model" not in params:
                raise ValueError('ItemConstraint needs custom_params={"model": folder or Hub id} with sid2pid.json.')
            model = params["model"], params.get("revision")
            by_model.setdefault(model, {})[row] = list(params["__req__"].output_ids)
        for (name, revision), generated in by_model.items():
            constrain(load_constraint(name, revision, str(logits.device)), logits, generated)
        return logits


__all__ = ["ItemConstraint"]
