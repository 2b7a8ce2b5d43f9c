"""Eigen-radiographs: an embedding that was trained for nothing, to tell patients apart by their looks."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from .arrays import check_array


def eigen_radiographs(
    gallery: Any, probes: Any, components: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Whitened principal components of radiographs, as of faces in Turk and Pentland (J. Cogn. Neurosci. 3, 1991).

    A classifier's embedding keeps what its attributes need, the finding among them: it moves with the explained class
    even where the patient stays the same. These components come from the grey levels alone, after each image is brought
    to mean 0 and standard deviation 1.

    Args:
        gallery: `(N, H, W)` images of known patients, which also define the components.
        probes: `(M, H, W)` images to be found again.
        components: number of components; at most N - 1 and H W are used.
        seed: of the randomised decomposition.

    Returns:
        Embeddings `(N, K)` and `(M, K)`.

    Raises:
        ValueError: for other shapes, NaN, fewer than 3 images, or a number of components below 1.
    """
    gallery, probes = check_array(gallery, "gallery", ndim=(3,)), check_array(probes, "probes", ndim=(3,))
    if probes.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"probes must be of the gallery's size {gallery.shape[1:]}, got {probes.shape}.")
    if len(gallery) < 3 or components < 1:
        raise ValueError(
            f"Components of at least 3 images and at least 1 of them are needed, got {len(gallery)} images and "
            f"components={components}."
        )
    number = min(components, len(gallery) - 1, gallery[0].size)
    model = PCA(number, whiten=True, random_state=seed).fit(_standardised(gallery))
    return model.transform(_standardised(gallery)), model.transform(_standardised(probes))


def _standardised(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(rows.std(1, keepdims=True), 1e-6)
