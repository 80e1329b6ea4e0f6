"""Where the spatial positions of a tensor are."""

import pytest
import torch
from torch import nn

from service_models.grid import Grid, grid_of, spatial_grid

SQUARE = (224, 224)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 512, 7, 7), Grid("nchw", 7, 7, 512)),
        ((4, 7, 7, 768), Grid("nhwc", 7, 7, 768)),
        ((1, 8, 7, 7), Grid("nchw", 7, 7, 8)),
        ((1, 7, 7, 8), Grid("nhwc", 7, 7, 8)),
        ((1, 56, 56, 57), Grid("nhwc", 56, 56, 57)),
        ((1, 49, 768), Grid("tokens", 7, 7, 768)),
        ((1, 197, 192), Grid("tokens", 14, 14, 192, 1)),
        ((1, 198, 192), Grid("tokens", 14, 14, 192, 2)),
        ((1, 201, 384), Grid("tokens", 14, 14, 384, 5)),
    ],
)
def test_layouts_of_square_inputs(shape: tuple[int, ...], grid: Grid) -> None:
    assert spatial_grid(shape, SQUARE) == grid


@pytest.mark.parametrize(
    ("shape", "input_size", "grid"),
    [
        ((1, 64, 8, 6), (256, 192), Grid("nchw", 8, 6, 64)),
        ((1, 8, 6, 64), (256, 192), Grid("nhwc", 8, 6, 64)),
        ((1, 64, 8, 6), (250, 190), Grid("nchw", 8, 6, 64)),
        ((1, 48, 64), (256, 192), Grid("tokens", 8, 6, 64)),
        ((1, 193, 64), (256, 192), Grid("tokens", 16, 12, 64, 1)),
        # 250 x 190 with stride 32 and padding: 8 x 6.
        ((1, 48, 64), (250, 190), Grid("tokens", 8, 6, 64)),
        # Unpadded, as Inception is, on 299 x 224.
        ((1, 2048, 8, 5), (299, 224), Grid("nchw", 8, 5, 2048)),
    ],
)
def test_layouts_of_oblong_inputs(shape: tuple[int, ...], input_size: tuple[int, int], grid: Grid) -> None:
    assert spatial_grid(shape, input_size) == grid


@pytest.mark.parametrize(
    "shape", [(1, 1000), (1, 512, 1, 1), (1, 1, 768), (1, 3, 12, 4), (7,), (1, 2, 3, 4, 5), (1, 99, 8)]
)
def test_no_grid(shape: tuple[int, ...]) -> None:
    assert spatial_grid(shape, SQUARE) is None


def test_a_hint_decides_what_the_shape_leaves_open() -> None:
    assert spatial_grid((1, 7, 7, 7), SQUARE) == Grid("nchw", 7, 7, 7)
    assert spatial_grid((1, 7, 7, 7), SQUARE, channels_last=True) == Grid("nhwc", 7, 7, 7)
    # 17 tokens: 4 x 4 after one, or 3 x 3 after eight.
    assert spatial_grid((1, 17, 5), SQUARE, prefix_tokens=8) == Grid("tokens", 3, 3, 5, 8)


def test_a_hint_against_the_shape_is_ignored() -> None:
    assert spatial_grid((1, 96, 56, 56), SQUARE, channels_last=True) == Grid("nchw", 56, 56, 96)
    assert spatial_grid((1, 196, 64), SQUARE, prefix_tokens=1) == Grid("tokens", 14, 14, 64)


def test_only_floating_point_tensors_have_a_grid() -> None:
    assert grid_of(nn.Identity(), torch.zeros(1, 4, 7, 7, dtype=torch.long), SQUARE) is None
    assert grid_of(nn.Identity(), (torch.zeros(1, 4, 7, 7),), SQUARE) is None
    assert grid_of(nn.Identity(), torch.zeros(1, 4, 7, 7), SQUARE) == Grid("nchw", 7, 7, 4)


def test_hints_are_read_from_the_model() -> None:
    model = nn.Identity()
    model.output_fmt = "NHWC"  # type: ignore[assignment]
    model.num_prefix_tokens = 8  # type: ignore[assignment]

    assert grid_of(model, torch.zeros(1, 7, 7, 7), SQUARE) == Grid("nhwc", 7, 7, 7)
    assert grid_of(model, torch.zeros(1, 17, 5), SQUARE) == Grid("tokens", 3, 3, 5, 8)
