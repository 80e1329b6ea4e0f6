"""Heat is painted where the network saw it, with the weight that was asked for, and nowhere else."""

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn.functional import grid_sample, interpolate

from app.imaging import overlay as overlay_module
from app.imaging import png
from app.imaging.colour import colormap_table
from app.imaging.overlay import Canvas, Colouring
from app.imaging.shrinking import shrink
from app.imaging.tensors import heatmap_levels
from app.imaging.view import Fit, View, make_view, render_view
from service_models.spec import Preprocessing
from testing.pictures import UInt8, photograph

SIZES = [(600, 400), (333, 517), (60, 45), (8, 5000), (5000, 8), (1300, 1100)]


def overlay(
    image: Image.Image,
    heatmap: torch.Tensor,
    view: View,
    *,
    max_side: int = 1024,
    colormap: str = "jet",
    alpha: float = 0.5,
) -> UInt8:
    """Lays a heatmap over a picture of at most `max_side`."""
    base = shrink(image, max_side)
    canvas = Canvas(base.size, image.size, view.box)
    heat = Image.fromarray(heatmap.numpy())
    painted = overlay_module.overlay(
        memoryview(base.tobytes()), canvas, heat, Colouring(colormap_table(colormap), alpha)
    )
    return np.asarray(painted)


def table(name: str) -> UInt8:
    return np.frombuffer(colormap_table(name), np.uint8).reshape(256, 3)


def heat(height: int = 224, width: int = 224, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    smooth = interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0, 0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def inside(view: View, size: tuple[int, int], shown: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tells which pixels' centres lie in the box, for a picture of `size` shown at size `shown`."""
    left, top, right, bottom = view.box
    x = (np.arange(shown[0]) + 0.5) * size[0] / shown[0]
    y = (np.arange(shown[1]) + 0.5) * size[1] / shown[1]
    return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]


def sampled_by_torch(heatmap: torch.Tensor, view: View, size: tuple[int, int], shown: tuple[int, int]) -> UInt8:
    """Samples the heatmap at each shown pixel's centre in float64, as levels of 255."""
    left, top, right, bottom = view.box
    x = (torch.arange(shown[0], dtype=torch.float64) + 0.5) * size[0] / shown[0]
    y = (torch.arange(shown[1], dtype=torch.float64) + 0.5) * size[1] / shown[1]
    x, y = 2 * (x - left) / (right - left) - 1, 2 * (y - top) / (bottom - top) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    values = grid_sample(heatmap.double()[None, None], grid, padding_mode="border", align_corners=False)
    return (values[0, 0] * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_side", [0, 256])
def test_heat_is_sampled_as_grid_sample_samples_it(fit: Fit, size: tuple[int, int], max_side: int) -> None:
    image = Image.new("RGB", size, "black")
    preprocessing = Preprocessing(input_size=(160, 224))
    heatmap, view = heat(160, 224), make_view(*size, preprocessing, fit)
    painted = overlay(image, heatmap, view, colormap="gray", alpha=1, max_side=max_side)
    shown = (painted.shape[1], painted.shape[0])
    # matplotlib's "gray" is not quite the identity.
    greys = table("gray")[sampled_by_torch(heatmap, view, size, shown), 0]
    expected = np.where(inside(view, size, shown), greys, 0)
    difference = np.abs(painted[..., 0].astype(int) - expected)
    # Values that lie on the border between two levels may round to either side in float32.
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.001


def test_bands_of_a_large_picture_join_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    for image in (photograph("chelsea"), photograph("chelsea").transpose(Image.Transpose.ROTATE_90)):
        view = make_view(*image.size, Preprocessing(), "crop")
        whole = overlay(image, heat(), view)
        with monkeypatch.context() as patch:
            patch.setattr(png, "_BAND_BYTES", 40_000)
            difference = np.abs(overlay(image, heat(), view).astype(int) - whole)
        # Values that lie on the border between two levels may round to either side.
        assert difference.max() <= 3
        assert (difference > 0).mean() < 1e-4


@pytest.mark.parametrize("size", [(1000, 600), (600, 1000)])
def test_a_hot_corner_of_the_input_lights_exactly_its_pixels_of_the_original(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing()
    image, view = Image.new("RGB", size, "black"), make_view(*size, preprocessing, "crop")
    heatmap = torch.zeros(224, 224)
    heatmap[:56, :28] = 1
    lit = overlay(image, heatmap, view, colormap="gray", alpha=1, max_side=0)[..., 0]
    left, top, right, bottom = view.box
    cell_x, cell_y = (right - left) / 224, (bottom - top) / 224
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    hot_x, hot_y = (x >= left) & (x < left + 27.5 * cell_x), (y >= top) & (y < top + 55.5 * cell_y)
    cold_x, cold_y = (x < left) | (x > left + 28.5 * cell_x), (y < top) | (y > top + 56.5 * cell_y)
    assert (lit[hot_y][:, hot_x] == 255).all()
    assert (lit[cold_y] == 0).all()
    assert (lit[:, cold_x] == 0).all()


@pytest.mark.parametrize("fit", get_args(Fit))
def test_heat_on_a_marker_that_the_network_sees_lies_on_the_marker_in_the_overlay(fit: Fit) -> None:
    canvas = np.zeros((400, 600, 3), np.uint8)
    canvas[150:200, 260:330] = 255
    image, preprocessing = Image.fromarray(canvas), Preprocessing(mean=(0, 0, 0))
    seen = torch.from_numpy(np.array(render_view(image, preprocessing, fit)))
    view = make_view(600, 400, preprocessing, fit)
    lit = overlay(image, seen[..., 0] / 255, view, colormap="gray", alpha=1, max_side=0)[..., 0]
    rows, columns = np.nonzero(lit > 127)
    assert [rows.min(), rows.max() + 1] == pytest.approx([150, 200], abs=1.5)
    assert [columns.min(), columns.max() + 1] == pytest.approx([260, 330], abs=1.5)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_outside_the_box_the_picture_is_untouched_and_inside_it_is_mixed(alpha: float) -> None:
    image = photograph("coffee")
    view = make_view(*image.size, Preprocessing(), "crop")
    painted = overlay(image, heat(), view, colormap="viridis", alpha=alpha, max_side=0)
    box = inside(view, image.size, image.size)
    original = np.asarray(image)
    np.testing.assert_array_equal(painted[~box], original[~box])
    viridis = table("viridis")
    colours = viridis[sampled_by_torch(heat(), view, image.size, image.size)]
    expected = (1 - alpha) * original[box] + alpha * colours[box]
    # Half a level of rounding, and where a value lies between two levels of heat the step of the table.
    difference = np.abs(painted[box] - expected)
    assert difference.max() <= 0.5 + alpha * np.abs(np.diff(viridis.astype(int), axis=0)).max()
    assert (difference > 0.5 + 1e-4).mean() < 0.001


@pytest.mark.parametrize("fit", get_args(Fit))
def test_alpha_zero_gives_the_original_pixels(fit: Fit) -> None:
    image = photograph("chelsea")
    view = make_view(*image.size, Preprocessing(), fit)
    np.testing.assert_array_equal(overlay(image, heat(), view, alpha=0, max_side=0), np.asarray(image))


def test_alpha_one_gives_pure_colours_of_the_table() -> None:
    image = photograph("chelsea")
    view = make_view(*image.size, Preprocessing(), "stretch")
    painted = overlay(image, heat(), view, alpha=1, max_side=0)
    jet = {tuple(colour) for colour in table("jet").tolist()}
    assert {tuple(colour) for colour in painted.reshape(-1, 3).tolist()} <= jet


def test_a_heatmap_of_zeros_takes_the_first_colour_and_one_of_ones_the_last() -> None:
    image = Image.new("RGB", (40, 30), "black")
    view = make_view(40, 30, Preprocessing(), "stretch")
    for value, row in ((0.0, 0), (1.0, 255)):
        painted = overlay(image, torch.full((224, 224), value), view, colormap="jet", alpha=1)
        assert (painted == table("jet")[row]).all()


def test_pad_paints_the_whole_picture_and_leaves_the_letterbox_out() -> None:
    image = Image.new("RGB", (400, 300), "black")
    view = make_view(400, 300, Preprocessing(), "pad")
    letterbox_is_hot = torch.ones(224, 224)
    letterbox_is_hot[28:196] = 0
    painted = overlay(image, letterbox_is_hot, view, colormap="gray", alpha=1)[..., 0]
    assert painted.shape == (300, 400)
    assert (painted[1:-1] == 0).all()


def test_heatmap_levels_are_rounded() -> None:
    heatmap = torch.tensor([[0.0, 1.0, 0.5], [0.1, 1 / 255, 1.0000001]])
    assert heatmap_levels(heatmap).tolist() == [[0, 255, 128], [26, 1, 255]]
