"""A network sees what torchvision's evaluation transforms would show it, and the box says what that was."""

from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from app.imaging.tensors import normalise
from app.imaging.view import Fit, make_view, render_view
from service_models.spec import Interpolation, Preprocessing
from testing.pictures import levels, noise, photograph, rgb

SHAPES = {
    "default": Preprocessing(),
    "bicubic": Preprocessing(interpolation="bicubic"),
    "lanczos": Preprocessing(interpolation="lanczos"),
    "nearest": Preprocessing(interpolation="nearest"),
    "odd": Preprocessing(input_size=(225, 225), resize_size=248, interpolation="bicubic"),
    "wide": Preprocessing(input_size=(160, 256), resize_size=271),
    "high": Preprocessing(input_size=(256, 160), resize_size=256),
    "whole": Preprocessing(input_size=(224, 224), resize_size=224),
}


@cache
def pictures() -> dict[str, Image.Image]:
    return {
        "landscape": photograph("chelsea"),
        "portrait": photograph("rocket").transpose(Image.Transpose.ROTATE_90),
        "square": photograph("astronaut"),
        "tiny": Image.fromarray(noise(8, 8, 3)),
        "odd": photograph("coffee").resize((301, 207)),
        "already of the resized size": photograph("coffee").resize((256, 256)),
        "narrow": photograph("rocket").resize((31, 640)),
    }


def torchvision_view(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    chain = transforms.Compose(
        [
            transforms.Resize(preprocessing.resize_size, InterpolationMode(preprocessing.interpolation)),
            transforms.CenterCrop(preprocessing.input_size),
        ]
    )
    return chain(image)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", pictures())
def test_crop_is_bit_identical_to_torchvision(name: str, shape: str) -> None:
    image, preprocessing = pictures()[name], SHAPES[shape]
    expected = np.asarray(torchvision_view(image, preprocessing))
    np.testing.assert_array_equal(rgb(render_view(image, preprocessing, "crop")), expected)


def test_crop_rounds_halves_as_torchvision_does() -> None:
    preprocessing = Preprocessing(input_size=(8, 8), resize_size=8)
    for width in range(8, 40):
        image = Image.fromarray(noise(8, width, 3))
        expected = np.asarray(torchvision_view(image, preprocessing))
        np.testing.assert_array_equal(rgb(render_view(image, preprocessing)), expected)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("name", pictures())
def test_resizing_only_the_crop_is_equal_within_one_level(name: str, interpolation: Interpolation) -> None:
    image, preprocessing = pictures()[name], Preprocessing(interpolation=interpolation)
    whole = levels(render_view(image, preprocessing))
    box = levels(render_view(image, preprocessing, max_resized_pixels=0))
    differences = np.abs(whole - box)
    if interpolation == "nearest":
        # A nearest neighbour on the very border between two pixels may fall to either.
        assert (differences > 1).mean() < 0.01
    else:
        assert differences.max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("upright", [True, False])
def test_a_thin_picture_past_the_limit_equals_torchvision_within_one_level(
    upright: bool, interpolation: Interpolation
) -> None:
    size = (8, 3000) if upright else (3000, 8)
    image, preprocessing = Image.fromarray(noise(*size[::-1], 3)), Preprocessing(interpolation=interpolation)
    expected = np.asarray(torchvision_view(image, preprocessing)).astype(int)
    assert np.abs(levels(render_view(image, preprocessing)) - expected).max() <= 1


def test_the_far_middle_of_a_very_thin_picture_is_sampled_where_it_is() -> None:
    stripes = np.zeros((500_000, 8, 3), np.uint8)
    stripes[::2] = 255
    window = slice(250_000 - 64, 250_000 + 64)
    whole = levels(render_view(Image.fromarray(stripes), Preprocessing()))
    near = levels(render_view(Image.fromarray(stripes[window]), Preprocessing()))
    assert np.abs(whole - near).max() <= 1


def test_a_resize_that_does_not_cover_the_input_is_refused() -> None:
    preprocessing = Preprocessing(input_size=(224, 288), resize_size=256)
    with pytest.raises(ValueError, match="256 does not cover the input of 224 x 288"):
        make_view(400, 300, preprocessing, "crop")
    assert make_view(400, 300, preprocessing, "stretch").box == (0, 0, 400, 300)


def test_an_unknown_fit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="crop, stretch, pad"):
        make_view(400, 300, Preprocessing(), "cover")  # type: ignore[arg-type]


def test_boxes_of_simple_sizes() -> None:
    preprocessing = Preprocessing(input_size=(224, 224), resize_size=256)
    assert make_view(512, 512, preprocessing, "crop").box == (32, 32, 480, 480)
    assert make_view(400, 300, preprocessing, "stretch").box == (0, 0, 400, 300)
    assert make_view(400, 300, preprocessing, "pad").box == (0, -50, 400, 350)
    assert make_view(300, 400, preprocessing, "pad").box == (-50, 0, 350, 400)


def test_the_box_uses_the_actual_scale_of_each_axis() -> None:
    view = make_view(451, 300, Preprocessing(), "crop")
    resized_width = int(256 * 451 / 300)
    left = round((resized_width - 224) / 2)
    assert view.box == pytest.approx(
        (left * 451 / resized_width, 16 * 300 / 256, (left + 224) * 451 / resized_width, 240 * 300 / 256)
    )


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("size", [(600, 400), (417, 831), (500, 500), (60, 45)])
@pytest.mark.parametrize("input_size", [(224, 224), (160, 256)])
def test_a_marker_found_in_the_view_maps_back_to_where_it_was_painted(
    fit: Fit, size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    width, height = size
    preprocessing = Preprocessing(input_size=input_size, resize_size=288, mean=(0, 0, 0))
    radius = max(2, min(size) // 30)
    for across, down in [(0.5, 0.5), (0.4, 0.45), (0.6, 0.55)]:
        centre_x, centre_y = int(width * across), int(height * down)
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[centre_y - radius : centre_y + radius, centre_x - radius : centre_x + radius] = 255
        seen = levels(render_view(Image.fromarray(canvas), preprocessing, fit))[..., 0]
        rows, columns = np.mgrid[0 : input_size[0], 0 : input_size[1]]
        found_x = (seen * (columns + 0.5)).sum() / seen.sum()
        found_y = (seen * (rows + 0.5)).sum() / seen.sum()
        left, top, right, bottom = make_view(width, height, preprocessing, fit).box
        scale_x, scale_y = (right - left) / input_size[1], (bottom - top) / input_size[0]
        assert left + found_x * scale_x == pytest.approx(centre_x, abs=0.1 * max(1, scale_x))
        assert top + found_y * scale_y == pytest.approx(centre_y, abs=0.1 * max(1, scale_y))


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (8, 5000), (224, 224), (9, 8)])
def test_pad_shows_the_whole_picture_in_a_letterbox_of_the_mean_colour(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "lime")
    preprocessing = Preprocessing()
    seen = np.array(render_view(image, preprocessing, "pad"))
    lime = (seen == [0, 255, 0]).all(2)
    rows, columns = lime.any(1).sum(), lime.any(0).sum()
    assert max(rows, columns) == 224
    assert min(rows, columns) == max(1, round(224 * min(size) / max(size)))
    normalised = normalise(torch.from_numpy(seen)[None], preprocessing, "cpu")[0].numpy()
    assert (np.abs(normalised[:, ~lime]) < 0.01).all()


def test_stretch_equals_torchvisions_resize_to_both_sides() -> None:
    image, preprocessing = photograph("chelsea"), Preprocessing(input_size=(160, 256), resize_size=256)
    expected = transforms.Resize((160, 256))(image)
    np.testing.assert_array_equal(rgb(render_view(image, preprocessing, "stretch")), np.asarray(expected))


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("name", pictures())
def test_whole_views_with_small_intermediate_pictures_are_equal_within_one_level(name: str, fit: Fit) -> None:
    image, preprocessing = pictures()[name], Preprocessing()
    at_once = levels(render_view(image, preprocessing, fit))
    in_steps = levels(render_view(image, preprocessing, fit, max_resized_pixels=0))
    assert np.abs(at_once - in_steps).max() <= 1
