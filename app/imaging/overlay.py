"""Lays heatmaps over the picture that they explain, where the network saw it and nowhere else; with Pillow alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from app.imaging.png import rows_a_band
from app.imaging.upright import Box

# Cells around a heatmap that repeat its edge, so that pixels between the edge and the first cell's centre have two.
_MARGIN = 1


@dataclass(frozen=True, slots=True)
class Canvas:
    """What an overlay is laid on.

    Attributes:
        size: (width, height) of the overlay in px.
        original: (width, height) of the upright original in px.
        box: the part of the original that the network saw, in px of the original.
    """

    size: tuple[int, int]
    original: tuple[int, int]
    box: Box


@dataclass(frozen=True, slots=True)
class Colouring:
    """How heat becomes colour.

    Attributes:
        table: 256 colours, RGB, 768 bytes.
        alpha: weight of the colour, [0, 1].
    """

    table: bytes
    alpha: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """The pixels of an overlay's axis whose centres lie in the box, and where they lie in the heatmap.

    Attributes:
        start: the first.
        stop: behind the last.
        step: from one pixel to the next, in cells of the heatmap.
        origin: the overlay's edge, in cells of the heatmap.
    """

    start: int
    stop: int
    step: float
    origin: float

    @classmethod
    def of(cls, side_px: int, original_px: int, low: float, high: float, cells: int) -> "_Axis":
        scale = original_px / side_px
        step = scale * cells / (high - low)
        start, stop = (_first_beyond(edge, scale, side_px) for edge in (low, high))
        return cls(start, stop, step, -low * cells / (high - low))

    def edge(self, pixel: int) -> float:
        """The near edge of a pixel, in cells of the heatmap with its margin."""
        return self.origin + pixel * self.step + _MARGIN


def overlay_bands(
    base: memoryview, canvas: Canvas, heatmap: Image.Image, colouring: Colouring
) -> Iterator[Image.Image]:
    """Lays a heatmap over a picture: (1 - alpha) * base + alpha * colour inside the box, rounded.

    A pixel belongs to the box when its centre lies in it; all others stay as they are, and nothing is rescaled. The
    heatmap is sampled bilinearly at the pixel's centre (half-pixel centres, edges clamped).

    Args:
        base: the upright original in the size of the overlay, HWC, RGB, 8 bits.
        canvas: where the heatmap lies in it.
        heatmap: mode F, [0, 1], of the network's input.
        colouring: of the heat.

    Yields:
        Mode RGB, from top to bottom, of the full width.
    """
    width, height = canvas.size
    left, top, right, bottom = canvas.box
    x = _Axis.of(width, canvas.original[0], left, right, heatmap.width)
    y = _Axis.of(height, canvas.original[1], top, bottom, heatmap.height)
    levels = _with_margin(heatmap).point(lambda value: value * 255 + 0.5)
    rows = rows_a_band(width)
    for first in range(0, height, rows):
        last = min(height, first + rows)
        data = bytes(base[3 * width * first : 3 * width * last])
        band = Image.frombuffer("RGB", (width, last - first), data, "raw", "RGB", 0, 1)
        inside = (x.start, max(first, y.start), x.stop, min(last, y.stop))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            region = (inside[0], inside[1] - first, inside[2], inside[3] - first)
            band.paste(_mixed(band.crop(region), _sampled(levels, x, y, inside), colouring), region)
        yield band


def overlay(base: memoryview, canvas: Canvas, heatmap: Image.Image, colouring: Colouring) -> Image.Image:
    """The whole overlay; see `overlay_bands`."""
    whole, top = Image.new("RGB", canvas.size), 0
    for band in overlay_bands(base, canvas, heatmap, colouring):
        whole.paste(band, (0, top))
        top += band.height
    return whole


def _first_beyond(edge: float, scale: float, side_px: int) -> int:
    """The first pixel whose centre, (i + 0.5) * scale, is not below an edge."""
    pixel = min(side_px, max(0, math.ceil(edge / scale - 0.5)))
    while pixel > 0 and (pixel - 0.5) * scale >= edge:
        pixel -= 1
    while pixel < side_px and (pixel + 0.5) * scale < edge:
        pixel += 1
    return pixel


def _with_margin(heatmap: Image.Image) -> Image.Image:
    width, height = heatmap.size
    wider = Image.new("F", (width + 2 * _MARGIN, height))
    for column, left in ((0, 0), (width - 1, width + _MARGIN)):
        wider.paste(heatmap.crop((column, 0, column + 1, height)), (left, 0))
    wider.paste(heatmap, (_MARGIN, 0))
    taller = Image.new("F", (wider.width, height + 2 * _MARGIN))
    for row, top in ((0, 0), (height - 1, height + _MARGIN)):
        taller.paste(wider.crop((0, row, wider.width, row + 1)), (0, top))
    taller.paste(wider, (0, _MARGIN))
    return taller


def _sampled(levels: Image.Image, x: _Axis, y: _Axis, inside: tuple[int, int, int, int]) -> Image.Image:
    """The heat of the pixels of a region, as levels of 255, mode L."""
    left, top, right, bottom = inside
    size = (right - left, bottom - top)
    if max(x.step, y.step) <= 1:
        box = (x.edge(left), y.edge(top), x.edge(right), y.edge(bottom))
        return levels.resize(size, Image.Resampling.BILINEAR, box).convert("L")
    # Where there are fewer pixels than cells `resize` would take means.
    affine = (x.step, 0.0, x.edge(left), 0.0, y.step, y.edge(top))
    return levels.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR).convert("L")


def _mixed(base: Image.Image, levels: Image.Image, colouring: Colouring) -> Image.Image:
    """(1 - alpha) * base + alpha * colour. Pillow's `blend` cuts decimals off; its matrices round."""
    weights = (1 - colouring.alpha, colouring.alpha, 0, 0)
    mixed = []
    for channel, plane in enumerate(base.split()):
        colours = levels.point(list(colouring.table[channel::3]))
        mixed.append(Image.merge("RGB", (plane, colours, colours)).convert("L", weights))
    return Image.merge("RGB", mixed)
