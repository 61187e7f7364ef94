"""Export of an item-level recommender to ONNX: its two networks, the one that reads histories and the depth head.

What is between them, the beam search over the trie, depends on data and stays as it is: the networks run in
onnxruntime, and [`~trainers.rankers.onnx_item_level.OnnxItemLevel`] searches with them.
"""

import copy
import logging
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hub_cards import write_text
from modeling_utgrec import ItemLevelForCausalLM
from tokenization_items.files import replacing_folder
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.rankers.onnx_item_level import DEPTH_HEAD, HISTORY

OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class HistoryNetwork(nn.Module):
    """The network that reads a history: from items' codes to the state that writes the next item."""

    def __init__(self, model: ItemLevelForCausalLM):
        super().__init__()
        self.model = model

    def forward(
        self, codes: Tensor, mask: Tensor, content: Tensor | None = None, residual_rows: Tensor | None = None
    ) -> Tensor:
        """
        States `(batch, items, hidden_size)`; see [`~trainers.rankers.onnx_item_level.OnnxItemLevel`] for the inputs.
        """
        return self.model.encode_items(codes, mask, content, residual_rows)


def export_onnx(
    model: ItemLevelForCausalLM, tokenizer: UniversalItemTokenizer, folder: str | Path, overwrite: bool = False
) -> list[str]:
    """
    Writes `history.onnx` and `depth_head.onnx`, for batches, histories and beams of any size, and beside them the
    checkpoint with its items, which the search needs. All is float32: of half precision onnxruntime has not every
    operator on a CPU.

    Args:
        model ([`ItemLevelForCausalLM`]): the recommender, in eval mode.
        tokenizer ([`UniversalItemTokenizer`]): its items, which come along.
        folder (`str` or `Path`): where the export goes, whole or not at all.
        overwrite (`bool`, *optional*, defaults to `False`): whether an earlier export there is replaced.

    Returns:
        `list[str]`: paths of the files in the folder.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        TokenizerMismatchError: the items are not the recommender's.
        FileExistsError: the folder is not empty, or holds something else.
    """
    check_installed()
    tokenizer.check_recommender(model)
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    config = model.config
    assert config.num_levels is not None
    batch, beams = (torch.export.Dim(name, min=1) for name in ("batch", "beams"))
    lengths = {} if config.max_history == 1 else {1: torch.export.Dim("items", min=1, max=config.max_history)}
    codes = torch.tensor(config.level_offsets).expand(2, 3, -1).contiguous()[:, : config.max_history]
    inputs: dict[str, Any] = {"codes": codes, "mask": torch.ones_like(codes[..., 0])}
    if config.content_size is not None:
        inputs["content"] = torch.randn(*codes.shape[:2], config.content_size)
    if config.num_item_residuals:
        inputs["residual_rows"] = torch.zeros_like(codes[..., 0])
    prefixes = {"prefixes": torch.randn(2, 3, config.hidden_size), "levels": torch.tensor(0)}
    with replacing_folder(folder, overwrite, mark=HISTORY) as working:
        shapes = {name: {0: batch, **lengths} for name in inputs}
        write_graph(HistoryNetwork(model), inputs, shapes, "states", working / HISTORY)
        write_graph(
            model.depth_head,
            prefixes,
            {"prefixes": {0: batch, 1: beams}, "levels": {}},
            "written",
            working / DEPTH_HEAD,
        )
        model.save_pretrained(working)
        tokenizer.save_pretrained(working, include_network=False)
        card = resources.files("hub_cards").joinpath("templates/onnx.md").read_text(encoding="utf-8")
        write_text(working / "README.md", card)
        return sorted(path.relative_to(working).as_posix() for path in working.rglob("*") if path.is_file())


def check_installed() -> None:
    """Raises ImportError unless all that the export takes is there."""
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"The export to ONNX needs {', '.join(missing)}: pip install utgrec[onnx]")


def write_graph(network: nn.Module, inputs: dict[str, Any], shapes: dict[str, Any], output: str, path: Path) -> None:
    """Writes a network as one file; `shapes` names the dimensions that may be of any size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that there is no torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts
        program = torch.onnx.export(
            network.eval(),
            kwargs=inputs,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


__all__ = ["check_installed", "export_onnx"]
