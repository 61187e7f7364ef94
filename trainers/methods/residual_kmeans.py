"""Residual k-means of points, their principal components, and both as the network of an item tokenizer."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree

from hub_cards import named
from modeling_utgrec import RQVAEConfig, RQVAEModel
from modeling_utgrec.quantization_kmeans import kmeans
from trainers.runtime.faiss_clusters import faiss_clusters


def principal_components(points: np.ndarray, num_components: int, whiten: bool = False) -> np.ndarray:
    """
    Projects points on their first principal components, largest variance first.

    Args:
        points (`np.ndarray` of shape `(items, dim)`): rows of NaN stand for items that have none; they take the mean
            of the others, which is 0 in the result.
        num_components (`int`): components to keep; fewer if the points span fewer.
        whiten (`bool`, *optional*, defaults to `False`): whether each component is scaled to unit variance.

    Returns:
        `np.ndarray` of shape `(items, components)`, float32.

    Raises:
        ValueError: if no two rows differ, or a row is NaN only in part.
    """
    return projected(points, *principal_axes(points, num_components, whiten))


def principal_axes(points: np.ndarray, num_components: int, whiten: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """
    The mean of points, float64 `(dim,)`, and what projects them on their first principal components, `(dim,
    components)`.

    Args and raises as [`principal_components`].
    """
    points = np.asarray(points, dtype=np.float64)
    absent = np.isnan(points).all(axis=1)
    present = points[~absent]
    broken = np.flatnonzero(~absent & ~np.isfinite(points).all(axis=1))
    if len(broken):
        raise ValueError(f"{len(broken)} rows have NaN or infinity in part: {named(broken)}.")
    mean = present.mean(axis=0) if len(present) else np.zeros(points.shape[1])
    centred = present - mean
    if not centred.any():
        raise ValueError("No two embeddings differ: there is nothing to tell items apart by.")
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:num_components]  # ascending before
    return mean, vectors[:, kept] / np.sqrt(values[kept]) if whiten else vectors[:, kept]


def projected(points: np.ndarray, mean: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Points without their mean, projected: float32; zeros for rows of NaN."""
    points = np.asarray(points, dtype=np.float64)
    absent = np.isnan(points).all(axis=1)
    result = np.zeros((len(points), projection.shape[1]), dtype=np.float32)
    result[~absent] = (points[~absent] - mean) @ projection
    return result


def rq_kmeans(
    points: np.ndarray, num_levels: int = 3, codebook_size: int = 256, iterations: int = 25, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """
    Quantizes points by the centroids of their residuals, one codebook for each level. Clusters by faiss where it is
    installed, else by scipy: other centroids, of the same kind.

    Args:
        points (`np.ndarray` of shape `(items, dim)`): what is quantized, finite.
        num_levels (`int`, *optional*, defaults to 3): number of codes of an item.
        codebook_size (`int`, *optional*, defaults to 256): centroids of each level.
        iterations (`int`, *optional*, defaults to 25): rounds of k-means.
        seed (`int`, *optional*, defaults to 0): of the first centroids.

    Returns:
        Codes, int64 `(items, num_levels)`; residuals, float32 `(items, num_levels, dim)`: what each level quantized;
        and the centroids of each level, float32 `(codebook_size, dim)`.

    Raises:
        ValueError: if there are fewer points than centroids.
    """
    residual = np.ascontiguousarray(points, dtype=np.float32)
    if len(residual) < codebook_size:
        raise ValueError(f"{len(residual)} items are fewer than {codebook_size} centroids: lower codebook_size.")
    codes, residuals, codebooks = [], [], []
    for level in range(num_levels):
        centroids, nearest = _centroids(residual, codebook_size, iterations, seed + level)
        codes.append(nearest)
        residuals.append(residual)
        codebooks.append(centroids)
        residual = residual - codebooks[-1][codes[-1]]
    return np.stack(codes, axis=1), np.stack(residuals, axis=1), codebooks


def _centroids(points: np.ndarray, count: int, iterations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of points, float32 `(count, dim)`, and the nearest of each point, int64 `(points,)`."""
    try:
        return faiss_clusters(points, count, iterations, seed)
    except ImportError:
        found = kmeans(torch.from_numpy(points), count, torch.Generator().manual_seed(seed)).numpy()
        return found, cKDTree(found).query(points)[1].astype(np.int64)


def linear_network(mean: np.ndarray, projection: np.ndarray, codebooks: Sequence[np.ndarray]) -> RQVAEModel:
    """
    An RQ-VAE without hidden layers that gives the codes of quantized projections.

    Args:
        mean (`np.ndarray` of shape `(input_dim,)`): taken off the embeddings.
        projection (`np.ndarray` of shape `(input_dim, dim)`): orthonormal columns; the decoder is its transpose.
        codebooks (`Sequence[np.ndarray]` of shapes `(codebook_size, dim)`): of each level.
    """
    config = RQVAEConfig(
        input_dim=projection.shape[0],
        hidden_sizes=[],
        codebook_dim=projection.shape[1],
        num_levels=len(codebooks),
        codebook_size=len(codebooks[0]),
    )
    with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced
        network = RQVAEModel(config)
    encoder, decoder = network.encoder[0], network.decoder[0]
    assert isinstance(encoder, torch.nn.Linear) and isinstance(decoder, torch.nn.Linear)
    with torch.no_grad():
        network.input_mean.copy_(torch.from_numpy(mean))
        encoder.weight.copy_(torch.from_numpy(projection.T))
        decoder.weight.copy_(torch.from_numpy(projection))
        for layer in (encoder, decoder):
            layer.bias.zero_()
        for codebook, vectors in zip(network.quantizer.each(len(codebooks)), codebooks, strict=True):
            codebook.set_vectors(torch.from_numpy(np.ascontiguousarray(vectors)))
    return network.eval()


__all__ = ["linear_network", "principal_axes", "principal_components", "projected", "rq_kmeans"]
