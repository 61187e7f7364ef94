"""The item-level recommender with its networks in onnxruntime: the same search, rules and memory around them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeling_utgrec import ItemLevelForCausalLM

HISTORY, DEPTH_HEAD = "history.onnx", "depth_head.onnx"


class OnnxDepthHead(nn.Module):
    """[`DepthHead`] whose layers run in onnxruntime; the codes' embeddings are looked up here."""

    def __init__(self, codes: nn.Embedding, session: Any):
        super().__init__()
        self.codes, self.session = codes, session

    def forward(self, prefixes: Tensor, levels: Tensor) -> Tensor:
        """What is compared with output embeddings `(..., hidden_size)`, of one level."""
        rows = prefixes.reshape(len(prefixes), -1, prefixes.shape[-1])
        inputs = {"prefixes": np.ascontiguousarray(rows.numpy()), "levels": levels.numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0]).view(prefixes.shape)


class OnnxItemLevel(ItemLevelForCausalLM):
    """
    An [`ItemLevelForCausalLM`] for `recommend` and `score_items` on a CPU, with the networks of a folder of
    `utgrec export --format onnx`:

    - `history.onnx`: `codes` `(batch, items, num_levels)` int64, token ids of the codes; `mask` `(batch, items)`
      int64, 0 on padding; `content` `(batch, items, content_size)` float32, if the model reads content; and
      `residual_rows` `(batch, items)` int64, if items have embeddings of their own. Gives `states` `(batch, items,
      hidden_size)`, that of the last item being the one that writes the next.
    - `depth_head.onnx`: `prefixes` `(batch, beams, hidden_size)` float32, the state plus the embeddings of the codes
      so far, and `levels` `()` int64. Gives `written` `(batch, beams, hidden_size)`.

    Example:

    ```python
    >>> model = OnnxItemLevel.from_folder("runs/onnx")
    >>> model.recommend(**tokenizer(histories, return_tensors="pt"), trie=tokenizer.trie)
    ```
    """

    history: Any

    @classmethod
    def from_folder(cls, folder: str | Path, threads: int | None = None) -> "OnnxItemLevel":
        """
        Loads an export.

        Args:
            folder (`str` or `Path`): the folder.
            threads (`int`, *optional*): of onnxruntime, by default those of torch.

        Raises:
            ImportError: onnxruntime is not installed.
            FileNotFoundError: the folder lacks a network.
        """
        missing = [name for name in (HISTORY, DEPTH_HEAD) if not (Path(folder) / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(missing)}: make it by `utgrec export MODEL --format onnx`."
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("Networks in ONNX need onnxruntime: pip install utgrec[onnx]") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
        options.log_severity_level = 3

        def session(name: str) -> Any:
            path = str(Path(folder) / name)
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        model = cls.from_pretrained(folder).float().eval()
        model.history = session(HISTORY)
        model.depth_head = OnnxDepthHead(model.depth_head.codes, session(DEPTH_HEAD))  # type: ignore[assignment]
        return model

    def encode_items(
        self, tokens: Tensor, sequences: Tensor, content: Tensor | None, residual_rows: Tensor | None
    ) -> Tensor:
        """As that of [`ItemLevelForCausalLM`], in onnxruntime."""
        given = {"codes": tokens, "mask": sequences, "content": content, "residual_rows": residual_rows}
        if content is not None:
            given["content"] = content.float()
        inputs = {name: np.ascontiguousarray(each.numpy()) for name, each in given.items() if each is not None}
        return torch.from_numpy(self.history.run(None, inputs)[0])


__all__ = ["DEPTH_HEAD", "HISTORY", "OnnxDepthHead", "OnnxItemLevel"]
