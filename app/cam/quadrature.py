"""Gauss-Legendre quadrature on [0, 1], and on lines between logits."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch import Tensor


@lru_cache
def gauss_legendre(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Points in [0, 1] and weights that sum to 1: exact for polynomials of degree 2 `nodes` - 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(((points + 1) / 2).tolist()), tuple((weights / 2).tolist())


# A softmax along a line is analytic up to a distance of pi / span from it, where span is how far the change of one
# logit is from that of another; a sigmoid, where span is how far one logit changes. On panels over which the span is 8,
# Gauss-Legendre quadrature with 16 nodes gains a factor of 4.2 a node: an error near 1e-10. More panels than these
# would take longer than the head; where two of a thousand logits trade places as sharply as they can, the error is 3e-8
# at a span of 1,000 and 3e-3 at 5,000.
_NODES = 16
_PANEL_SPAN = 8.0
_MOST_PANELS = 64


def softmax_line(start: Tensor, end: Tensor, dim: int = 1) -> Iterator[tuple[Tensor, float]]:
    """Nodes and weights on the line between two points, as many as the mean of a softmax or a sigmoid on it needs.

    Args:
        start: float64.
        end: of the same shape.
        dim: along which the softmax runs.
    """
    way = end - start
    # With sigmoids a logit has its own change alone to be measured by.
    span = float((way.amax(dim=dim).clamp_min(0) - way.amin(dim=dim).clamp_max(0)).max())
    panels = min(max(math.ceil(span / _PANEL_SPAN), 1), _MOST_PANELS) if math.isfinite(span) else 1
    for panel in range(panels):
        for node, weight in zip(*gauss_legendre(_NODES), strict=True):
            yield start + (panel + node) / panels * way, weight / panels
