"""Principal components of embeddings, whitened or not."""

import numpy as np


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
    points = np.asarray(points, dtype=np.float64)
    absent = np.isnan(points).all(axis=1)
    present = points[~absent]
    broken = np.flatnonzero(~absent & ~np.isfinite(points).all(axis=1))
    if len(broken):
        raise ValueError(f"{len(broken)} rows have NaN or infinity in part: {broken[:10].tolist()}.")
    centred = present - present.mean(axis=0) if len(present) else present
    if not centred.any():
        raise ValueError("No two embeddings differ: there is nothing to tell items apart by.")
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:num_components]  # ascending before
    projection = vectors[:, kept] / np.sqrt(values[kept]) if whiten else vectors[:, kept]
    result = np.zeros((len(points), len(kept)), dtype=np.float32)
    result[~absent] = centred @ projection
    return result
