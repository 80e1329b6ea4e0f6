"""Colour maps, as tables of 256 colours."""

from functools import lru_cache

import matplotlib
import numpy as np


def colormap_names() -> tuple[str, ...]:
    """Lists the names that `colormap_table` knows: matplotlib's, with the reversed ones (`_r`), sorted."""
    return tuple(sorted(matplotlib.colormaps))


@lru_cache(maxsize=256)
def colormap_table(name: str) -> bytes:
    """Tabulates a colour map of matplotlib's.

    Args:
        name: one of `colormap_names()`.

    Returns:
        256 colours, RGB, 8 bits a channel, one after the other; the one at i is the colour of i / 255.

    Raises:
        ValueError: no colour map has this name.
    """
    if name not in matplotlib.colormaps:
        raise ValueError(f"unknown colormap {name!r}; matplotlib's names are accepted, such as 'jet' or 'viridis'")
    rgba = matplotlib.colormaps[name](np.arange(256) / 255, bytes=True)
    return np.ascontiguousarray(rgba[:, :3], np.uint8).tobytes()
