"""Frozen image encoders: features or pooled output, batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel, set_seed
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tokenization_items.catalogue import Catalogue
from tokenization_items.image_encoders import ImageEncoder

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def pictures() -> Catalogue:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)) for i in range(5)]
    return Catalogue.from_records(
        [{"item_id": f"p{i}", "title": "x", "image": None if i == 2 else image} for i, image in enumerate(images)]
    )


def vision_folder(folder: Path, kind: str) -> Path:
    set_seed(0)
    if kind == "clip":
        text = {"vocab_size": 20, "max_position_embeddings": 8, **VISION}
        config = CLIPConfig(
            text_config=text, vision_config={"image_size": 16, "patch_size": 8, **VISION}, projection_dim=6
        )
        model = CLIPModel(config)
    else:
        model = ViTModel(ViTConfig(image_size=16, patch_size=8, **VISION), add_pooling_layer=kind == "vit-pooler")
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "width"), [("clip", 6), ("vit-pooler", 16)])
def test_image_vectors_are_features_or_pooled_output(tmp_path, pictures, kind, width):
    encoder = ImageEncoder.from_pretrained(vision_folder(tmp_path, kind))
    rows = [0, 1, 3, 4]
    vectors = encoder.embed(pictures, rows, batch_images=3)
    assert vectors.shape == (4, width) and vectors.dtype == np.float32
    for row, vector in zip(rows, vectors, strict=True):
        pixels = encoder.processor(images=[pictures.image(row)], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            if kind == "clip":
                model = encoder.model
                expected = model.visual_projection(model.vision_model(pixels).pooler_output)
            else:
                expected = encoder.model(pixels).pooler_output
        np.testing.assert_allclose(vector, expected[0], atol=1e-5)


def test_without_pooled_output_the_first_token_is_taken(pictures, float32_tolerance):
    set_seed(0)
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, **VISION), add_pooling_layer=False)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    encoder = ImageEncoder(model, processor)
    pixels = processor(images=[pictures.image(4)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.embed(pictures, [4]), expected, **float32_tolerance(5, expected))
