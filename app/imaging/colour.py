"""Colour maps, as tables of 256 colours."""

from functools import lru_cache

import matplotlib
import numpy as np
import torch

DEFAULT_COLORMAP = "jet"


def colormap_names() -> tuple[str, ...]:
    """Lists the names that `colormap_table` knows: matplotlib's, with the reversed ones (`_r`), sorted."""
    return tuple(sorted(matplotlib.colormaps))


@lru_cache(maxsize=256)
def colormap_table(name: str = DEFAULT_COLORMAP) -> torch.Tensor:
    """Tabulates a colour map of matplotlib's.

    Args:
        name: one of `colormap_names()`.

    Returns:
        (256, 3) uint8 on the CPU, RGB, [0, 255]; row i is the colour of i / 255. Shared: do not write to it.

    Raises:
        ValueError: no colour map has this name.
    """
    if name not in matplotlib.colormaps:
        raise ValueError(f"unknown colormap {name!r}; matplotlib's names are accepted, such as 'jet' or 'viridis'")
    rgba = matplotlib.colormaps[name](np.arange(256) / 255, bytes=True)
    return torch.from_numpy(np.array(rgba[:, :3], dtype=np.uint8))
