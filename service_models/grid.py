"""Where the spatial positions of a tensor are: channels first, channels last, or a sequence of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Layout = Literal["nchw", "nhwc", "tokens"]

MAX_PREFIX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Grid:
    """The spatial positions of a batch of activations.

    Attributes:
        layout: "nchw": (batch, channel, height, width); "nhwc": (batch, height, width, channel); "tokens":
            (batch, prefix + height * width, channel), rows of the grid one after the other.
        height: rows of the grid.
        width: columns of the grid.
        channels: channels at each position.
        prefix_tokens: tokens before the grid (class token, registers); 0 unless the layout is "tokens".
    """

    layout: Layout
    height: int
    width: int
    channels: int
    prefix_tokens: int = 0


def grid_of(model: nn.Module, output: object, input_size: tuple[int, int]) -> Grid | None:
    """The grid of one output of a module of `model`, which tells timm's hints about its layout.

    Args:
        model: the network; its `output_fmt` and `num_prefix_tokens`, where it has them, are the hints.
        output: what a module returned.
        input_size: (height, width) of the network's input in px.

    Returns:
        The grid, or None where `output` is no floating-point tensor with more than one spatial position.
    """
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    hint = getattr(model, "output_fmt", None)
    prefix = getattr(model, "num_prefix_tokens", None)
    return spatial_grid(
        tuple(output.shape),
        input_size,
        channels_last=str(hint).upper() == "NHWC",
        prefix_tokens=prefix if isinstance(prefix, int) else None,
    )


def spatial_grid(
    shape: Sequence[int], input_size: tuple[int, int], *, channels_last: bool = False, prefix_tokens: int | None = None
) -> Grid | None:
    """Infers the grid from the shape of a batch-first tensor.

    A grid has more than one position, and the aspect ratio of the network's input up to the rounding of
    strides. Of two readings of a 4-D tensor the one nearer to that ratio wins.

    Args:
        shape: the tensor's shape, batch first.
        input_size: (height, width) of the network's input in px.
        channels_last: decides where both readings of a 4-D tensor fit equally well.
        prefix_tokens: how many tokens come before the grid; tried before 0 to 16 are.

    Returns:
        The grid, or None where the shape has none.
    """
    if len(shape) == 4:
        return _grid_of_map(shape, input_size, channels_last)
    if len(shape) == 3:
        return _grid_of_tokens(shape[1], shape[2], input_size, prefix_tokens)
    return None


def _grid_of_map(shape: Sequence[int], input_size: tuple[int, int], channels_last: bool) -> Grid | None:
    _, first, second, third = shape
    readings = [Grid("nchw", second, third, first), Grid("nhwc", first, second, third)]
    if channels_last:
        readings.reverse()
    fitting = [
        grid
        for grid in readings
        if grid.height * grid.width > 1 and _deviation(grid, input_size) <= _tolerance(grid, input_size)
    ]
    # The first of equals wins, so the hint decides only where the shape does not.
    return min(fitting, key=lambda grid: _deviation(grid, input_size), default=None)


def _deviation(grid: Grid, input_size: tuple[int, int]) -> float:
    """How many rows the grid is off the height that its width asks for."""
    return abs(grid.height - grid.width * input_size[0] / input_size[1])


def _tolerance(grid: Grid, input_size: tuple[int, int]) -> float:
    """One rounded row or column; on inputs that are not square also the border that unpadded layers lose."""
    height, width = input_size
    rounding = max(1.0, height / width)
    return rounding if height == width else rounding + 0.05 * grid.height


def _grid_of_tokens(tokens: int, channels: int, input_size: tuple[int, int], prefix_tokens: int | None) -> Grid | None:
    hinted = () if prefix_tokens is None else (prefix_tokens,)
    for prefix in (*hinted, *range(MAX_PREFIX_TOKENS + 1)):
        if tokens - prefix <= 1:
            continue
        for height, width in _factors(tokens - prefix):
            if _tiles(height, width, input_size):
                return Grid("tokens", height, width, channels, prefix)
    return None


def _factors(positions: int) -> Iterator[tuple[int, int]]:
    for side in range(1, math.isqrt(positions) + 1):
        if positions % side == 0:
            yield side, positions // side
            yield positions // side, side


def _tiles(height: int, width: int, input_size: tuple[int, int]) -> bool:
    """Whether the input divides into this grid: in its exact ratio, or by one stride rounded alike."""
    rows, columns = input_size
    if height * columns == width * rows:
        return True
    strides = range(max(1, rows // (height + 1)), rows // max(1, height - 1) + 1)
    return any(
        (height, width) in ((rows // stride, columns // stride), (-(-rows // stride), -(-columns // stride)))
        for stride in strides
    )
