"""Lays heatmaps over the picture that they explain, where the network saw it and nowhere else."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from app.imaging.colour import DEFAULT_COLORMAP, colormap_table
from app.imaging.view import View

DEFAULT_ALPHA = 0.5

# Bounds the float copies of a band to some tens of MiB however large the picture is.
_PIXELS_A_BAND = 1 << 20


@dataclass(frozen=True, slots=True)
class _Axis:
    """The pixels of an overlay's axis that lie in the box, and the two heatmap cells that each mixes."""

    start: int
    below: torch.Tensor
    above: torch.Tensor
    weight: torch.Tensor

    def __len__(self) -> int:
        return len(self.weight)

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        """Samples (rows, cells) bilinearly along the cells: (rows, pixels)."""
        below, above = values.index_select(1, self.below), values.index_select(1, self.above)
        return torch.lerp(below, above, self.weight)

    def bands(self, length: int) -> Iterator["_Axis"]:
        """Cuts the axis into consecutive parts of at most `length` pixels."""
        for first in range(0, len(self), length):
            part = slice(first, first + length)
            yield _Axis(self.start + first, self.below[part], self.above[part], self.weight[part])


def overlay(
    base: npt.NDArray[np.uint8],
    size: tuple[int, int],
    heatmap: torch.Tensor,
    view: View,
    *,
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
) -> npt.NDArray[np.uint8]:
    """Lays one heatmap over a picture; see `overlays`."""
    return next(overlays(base, size, [heatmap], view, colormap=colormap, alpha=alpha))


def overlays(
    base: npt.NDArray[np.uint8],
    size: tuple[int, int],
    heatmaps: Iterable[torch.Tensor],
    view: View,
    *,
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Lays heatmaps over one picture: (1 - alpha) * base + alpha * colour inside `view.box`.

    A pixel belongs to the box when its centre lies in it; all others stay as they are, and nothing is
    rescaled. The heatmap is sampled bilinearly at the pixel's centre (half-pixel centres, edges clamped), on
    the heatmap's device. The picture is sent there once for all heatmaps.

    Args:
        base: the upright original in the size of the overlays, HWC uint8, RGB, [0, 255].
        size: (width, height) of the original in px, in which `view` is given.
        heatmaps: each (height, width) float, [0, 1], of the network's input.
        view: the part of the original that the network saw.
        colormap: one of `colormap_names()`.
        alpha: weight of the colour, [0, 1].

    Yields:
        HWC uint8, [0, 255], in the size of `base`, for each heatmap in order.

    Raises:
        ValueError: no colour map has this name.
    """
    table = colormap_table(colormap)
    pixels = torch.from_numpy(base)
    for heatmap in heatmaps:
        pixels = pixels.to(heatmap.device)
        weighted_table = table.to(heatmap.device, torch.float32) * alpha
        painted = _paint(pixels, heatmap.detach().float(), view, size, weighted_table, alpha)
        yield painted.cpu().numpy()


def heatmap_image(heatmap: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Makes a grey picture of a heatmap: round(255 * heatmap).

    Args:
        heatmap: (height, width) float, [0, 1].

    Returns:
        HW uint8, [0, 255].
    """
    return _levels(heatmap.detach().float()).to(torch.uint8).cpu().numpy()


def _levels(heatmap: torch.Tensor) -> torch.Tensor:
    return heatmap.mul(255).round_().clamp_(0, 255)


def _paint(
    base: torch.Tensor,
    heatmap: torch.Tensor,
    view: View,
    original_size: tuple[int, int],
    weighted_table: torch.Tensor,
    alpha: float,
) -> torch.Tensor:
    height, width = base.shape[:2]
    left, top, right, bottom = view.box
    x = _make_axis(width, original_size[0], left, right, heatmap.shape[1], heatmap.device)
    y = _make_axis(height, original_size[1], top, bottom, heatmap.shape[0], heatmap.device)
    painted = base.clone()
    canvas = painted
    if height > width:
        # Mixing along the short axis first keeps the intermediate small however thin the picture is.
        canvas, heatmap, x, y = canvas.transpose(0, 1), heatmap.t(), y, x
    lines = y.mix(heatmap.t()).t()
    for band in x.bands(max(1, _PIXELS_A_BAND // max(1, len(lines)))):
        levels = _levels(band.mix(lines)).to(torch.int32)
        colours = weighted_table.index_select(0, levels.reshape(-1)).view(*levels.shape, 3)
        region = canvas[y.start : y.start + len(y), band.start : band.start + len(band)]
        region.copy_(colours.add_(region, alpha=1 - alpha).round_())
    return painted


def _make_axis(side_px: int, original_px: int, low: float, high: float, cells: int, device: torch.device) -> _Axis:
    centres = (torch.arange(side_px, dtype=torch.float64) + 0.5) * (original_px / side_px)
    start = int((centres < low).sum())
    stop = int((centres < high).sum())
    position = (centres[start:stop] - low) * (cells / (high - low)) - 0.5
    position = position.clamp(0, cells - 1)
    below = position.floor()
    above = (below + 1).clamp(max=cells - 1)
    weight = (position - below).to(device, torch.float32)
    return _Axis(start, below.to(device, torch.int64), above.to(device, torch.int64), weight)
