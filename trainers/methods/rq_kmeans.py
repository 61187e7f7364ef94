"""RQ-k-means: residual quantization by k-means level after level, the simple alternative to an RQ-VAE."""

import numpy as np


def rq_kmeans(
    points: np.ndarray, num_levels: int = 3, codebook_size: int = 256, iterations: int = 25, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """
    Quantizes points by the centroids of their residuals, one codebook for each level. Needs faiss.

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
        ImportError: without faiss.
        ValueError: if there are fewer points than centroids.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("RQ-k-means needs faiss: pip install faiss-cpu, or utgrec[baselines]") from error

    residual = np.ascontiguousarray(points, dtype=np.float32)
    if len(residual) < codebook_size:
        raise ValueError(f"{len(residual)} items are fewer than {codebook_size} centroids: lower codebook_size.")
    codes, residuals, codebooks = [], [], []
    for level in range(num_levels):
        # All points take part; the bounds only make faiss draw a sample, or warn.
        kmeans = faiss.Kmeans(
            residual.shape[1],
            codebook_size,
            niter=iterations,
            seed=seed + level,
            min_points_per_centroid=1,
            max_points_per_centroid=len(residual),
        )
        kmeans.train(residual)
        codes.append(kmeans.index.search(residual, 1)[1][:, 0])
        residuals.append(residual)
        codebooks.append(kmeans.centroids.copy())
        residual = residual - codebooks[-1][codes[-1]]
    return np.stack(codes, axis=1), np.stack(residuals, axis=1), codebooks
