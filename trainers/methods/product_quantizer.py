"""Optimized product quantization of content, whose codes are what VQ-Rec's items are made from. Needs faiss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from modeling_utgrec.modeling_vqrec import QUANTIZER
from modeling_utgrec.quantization_product import padded_width, product_codes
from trainers.data.interactions import Interactions
from trainers.methods.item_tables import Content, ItemTables, content_config

ROUNDS = 50  # of rotation and centroids in turns, faiss' own number
ITEMS_AT_A_TIME = 2048
CODEBOOK_SIZE = 256  # the authors'
STORED = "model.embeddings.items."  # before the names of a checkpoint's quantizer


def fit_product_quantizer(
    points: np.ndarray, num_groups: int, codebook_size: int, seed: int = 0, rounds: int = ROUNDS
) -> dict[str, torch.Tensor]:
    """
    Optimized product quantization (Ge et al. 2013) by faiss, on one thread: codes of a seed are always the same.

    Args:
        points (`np.ndarray` of shape `(n, E)`): what it is fitted to. The mean is taken away first, as faiss' factory
            `IVF1` does.
        num_groups (`int`): codes of a point.
        codebook_size (`int`): values of a code, a power of 2.
        seed (`int`, *optional*, defaults to 0): of the centroids.
        rounds (`int`, *optional*, defaults to 50): of rotation and centroids in turns.

    Returns:
        `dict`: `centre`, `rotation` and `centroids`, see [`~modeling_utgrec.quantization_product.product_codes`].

    Raises:
        ImportError: without faiss.
        ValueError: fewer points than values of a code, or these are no power of 2.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("VQ-Rec's codes need faiss: pip install faiss-cpu, or utgrec[baselines]") from error
    bits = codebook_size.bit_length() - 1
    if codebook_size < 2 or 2**bits != codebook_size:
        raise ValueError(f"codebook_size is a power of 2, got {codebook_size}.")
    if len(points) < codebook_size:
        raise ValueError(
            f"{len(points)} items are fewer than {codebook_size} centroids: lower codebook_size (--sequential.own "
            f"codebook_size={max(2, 2 ** (len(points).bit_length() - 1))}), or take the pre-trained codes "
            "(--sequential.code_map reuse)."
        )
    centre = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    width = padded_width(points.shape[1], num_groups)
    centred = np.pad(points - centre, ((0, 0), (0, width - points.shape[1]))).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        rotation = faiss.OPQMatrix(width, num_groups)
        rotation.niter = rounds
        within = faiss.ProductQuantizer(width, num_groups, bits)
        within.cp.seed = seed
        within.cp.min_points_per_centroid = 1
        rotation.pq = within
        rotation.train(centred)
        matrix = faiss.vector_to_array(rotation.A).reshape(width, width)
        quantizer = faiss.ProductQuantizer(width, num_groups, bits)
        quantizer.cp.seed = seed
        quantizer.cp.min_points_per_centroid = 1
        quantizer.train(np.ascontiguousarray(centred @ matrix.T))
        centroids = faiss.vector_to_array(quantizer.centroids)
    finally:
        faiss.omp_set_num_threads(threads)
    shape = (num_groups, codebook_size, width // num_groups)
    found = {"centre": centre, "rotation": matrix, "centroids": centroids.reshape(shape)}
    return {name: torch.from_numpy(array.copy()) for name, array in found.items()}


def codes_of(content: np.ndarray, quantizer: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Codes int64 `(n, groups)` of content `(n, E)`, a part at a time."""
    parts = torch.from_numpy(content).split(ITEMS_AT_A_TIME)
    return torch.cat([product_codes(part, *(quantizer[name] for name in QUANTIZER)) for part in parts])


def stored_quantizer(folder: str | Path) -> dict[str, torch.Tensor]:
    """The quantizer of a VQ-Rec in a folder."""
    with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(f"{STORED}{name}") for name in QUANTIZER}


def code_tables(training: Interactions, inputs: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> ItemTables:
    """
    Codes of the items' texts, for VQ-Rec, by `inputs["quantizer"]` or else by one fitted to the items that the
    training part has: of 256 values a code, or of the power of 2 that so many items allow, unless the configuration
    says how many.

    Raises:
        ValueError: as [`fit_product_quantizer`], or the quantizer is of content of another width.
    """
    text: Content = inputs["text"]
    quantizer = inputs.get("quantizer")
    if quantizer is None:
        points = text.vectors[training.popularity > 0]
        most = max(2, 2 ** (len(points).bit_length() - 1))
        size = values.get("codebook_size") or min(CODEBOOK_SIZE, most)
        quantizer = fit_product_quantizer(points, values.get("num_groups", 32), size, seed)
    elif len(quantizer["centre"]) != text.vectors.shape[1]:
        raise ValueError(
            f"The pre-training's quantizer reads content {len(quantizer['centre'])} wide, and the items' is "
            f"{text.vectors.shape[1]} wide: embed them by the encoder of the pre-training."
        )
    codes = codes_of(text.vectors, quantizer)
    groups, number, _ = quantizer["centroids"].shape
    return ItemTables(
        content_config(text) | {"num_groups": groups, "codebook_size": number}, {"codes": codes, **quantizer}
    )
