"""`handler.py` of a recommender's repository: what Inference Endpoints calls. Its packages are in `requirements.txt`.

    {"inputs": [["sku-17", "sku-301"], []], "parameters": {"top_k": 5, "deny": ["sku-9"]}}

`inputs` are histories of items, or one of them; an item is its id, or an object with `title` and other text fields.
"""

from importlib import import_module
from typing import Any

PARAMETERS = ("top_k", "num_beams", "exclude_seen", "allow", "deny", "return_sources", "on_error", "batch_size")


class EndpointHandler:
    """
    Recommends items with the network, items, memory and rules of a folder.

    Args:
        path (`str`): the folder that this file is in.

    Raises:
        ImportError: `utgrec` is not installed.
    """

    def __init__(self, path: str = ""):
        try:  # by its public name: this file stays as it was pushed
            recommender_class = import_module("trainers").Recommender
        except ModuleNotFoundError as error:
            raise ImportError(
                f"{error}. requirements.txt beside this file names utgrec, which serves it; where no index of "
                "packages has it, name its repository or wheel there: utgrec @ git+https://..."
            ) from error
        self.recommender = recommender_class.from_pretrained(path or ".")

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """
        Args:
            data (`dict`): `inputs`, histories of items or one of them, and `parameters`, as those of
                `pipeline("item-recommendation")`; `on_error` is `"skip"` by default: an entry with a `reason` for a
                history that cannot be answered.

        Returns:
            For each history a list of `{"item_id", "title", "score"}`, the best first; for one alone that list.

        Raises:
            ValueError: `inputs` or a parameter that is none; a rule that names an unknown item.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(inputs, list):
            raise ValueError('inputs: expected a list of histories, such as [["sku-17", "sku-301"]].')
        if not isinstance(parameters, dict):
            raise ValueError('parameters: expected an object, such as {"top_k": 5}.')
        if unknown := sorted({*parameters} - {*PARAMETERS}):
            raise ValueError(f"parameters: {', '.join(unknown)} unknown; there are {', '.join(PARAMETERS)}.")
        for each in inputs:
            for item in each if isinstance(each, list) else [each]:
                if isinstance(item, dict) and "image" in item:  # a file or an address for this machine to open
                    raise ValueError("inputs: pictures are not taken here; describe an item by its texts.")
        found: list[Any] = self.recommender.recommend(inputs, **{"on_error": "skip", **parameters})
        return found
