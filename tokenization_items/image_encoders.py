"""Frozen encoders of item images: any vision encoder of transformers, by Hub id or local folder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.16's own name asks for torchvision

from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.catalogue import Catalogue
from tokenization_items.hub_folders import model_folder
from tokenization_items.text_encoders import FILES, files_fingerprint


class ImageEncoder:
    """
    A vision encoder with its image processor; made by [`~ImageEncoder.from_pretrained`].

    An image's vector is the model's `get_image_features` (CLIP, SigLIP), else its pooled output, else its first token.

    Args:
        model (`PreTrainedModel`): the encoder.
        processor: its image processor.
        name (`str`): where the encoder came from.
        fingerprint (`str`): digest of its files.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, name: str = "", fingerprint: str = ""):
        self.model = model.eval()
        self.processor = processor
        self.name, self.fingerprint = name, fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        return {"dtype": str(self.model.dtype).removeprefix("torch.")}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> ImageEncoder:
        """Loads a vision encoder of `AutoModel` by Hub id or folder; see [`~TextEncoder.from_pretrained`]."""
        folder = model_folder(name_or_path, FILES, revision)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), **SAFELY).to(device)
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        return cls(model, processor, str(name_or_path), files_fingerprint(folder))

    @torch.inference_mode()
    def embed(
        self, catalogue: Catalogue, rows: Sequence[int], batch_images: int = 64, progress: bool | None = None
    ) -> np.ndarray:
        """Vectors, float32 `[len(rows), E]`, of the images of the items `rows`, which must have one."""
        parts = []
        disable = None if progress is None else not progress
        bar = tqdm(total=len(rows), desc="Embedding images", unit="image", disable=disable)
        with ThreadPoolExecutor() as pool, bar:
            for start in range(0, len(rows), batch_images):
                images = list(pool.map(catalogue.image, rows[start : start + batch_images]))
                pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
                vectors = self._forward(pixels.to(self.model.device, self.model.dtype))
                parts.append(vectors.flatten(1).float().cpu().numpy())
                bar.update(len(images))
        return np.concatenate(parts)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=pixels).pooler_output
        output = self.model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled
