"""Gauss-Legendre quadrature on [0, 1]."""

from functools import lru_cache

import numpy as np


@lru_cache
def gauss_legendre(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Points in [0, 1] and weights that sum to 1: exact for polynomials of degree 2 `nodes` - 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(((points + 1) / 2).tolist()), tuple((weights / 2).tolist())
