"""Large JPEGs are decoded to fewer pixels, which shows in neither the network's input nor the base of the overlays."""

from functools import cache

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from app.imaging.decode import load_image, open_image
from app.imaging.picture import pixels_of
from app.imaging.reading import DecodeSpec, ReadImage, read_image, view_reduction
from app.imaging.shrinking import shrink
from app.imaging.view import Fit, render_view
from service_models.spec import Preprocessing
from testing.pictures import MAX_PIXELS, encoded, levels, photograph, rgb
from tests.imaging.test_decode_formats import STORED

# No side is a multiple of 8, so that the last pixels of a smaller picture stand for less than the others.
LARGE = (4505, 3001)


@cache
def large_photograph(name: str, kind: str) -> Image.Image:
    """A photograph of 13.5 megapixels: enlarged, which is soft, or repeated, which is full of detail."""
    picture = photograph(name)
    if kind == "enlarged":
        return picture.resize(LARGE, Image.Resampling.BICUBIC)
    across, down = -(-LARGE[0] // picture.width), -(-LARGE[1] // picture.height)
    return Image.fromarray(np.tile(np.asarray(picture), (down, across, 1))[: LARGE[1], : LARGE[0]])


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](np.asarray(picture)))
    return encoded(stored, "JPEG", quality=92, exif=exif)


def read(data: bytes, spec: DecodeSpec) -> ReadImage:
    return read_image(open_image(data, MAX_PIXELS), spec)


def shown(seen: ReadImage, spec: DecodeSpec) -> Image.Image:
    return Image.fromarray(pixels_of(seen.view, spec, is_deep=False))


def read_in_full(data: bytes, spec: DecodeSpec) -> tuple[Image.Image, Image.Image]:
    decoded = load_image(open_image(data, MAX_PIXELS))
    assert decoded.reduction == 1
    return render_view(decoded.pixels, spec, spec.fit), shrink(decoded.pixels, spec.max_side or 0)


def assert_near(data: bytes, spec: DecodeSpec) -> None:
    """The tolerances that are documented beside the factors in `app.imaging.reading`, and a little for rounding."""
    seen = read(data, spec)
    assert seen.base is not None
    view, base = read_in_full(data, spec)
    of_view, of_base = np.abs(levels(shown(seen, spec)) - levels(view)), np.abs(levels(seen.base) - levels(base))
    assert of_view.mean() < 0.25
    assert of_view.max() <= 4
    assert of_base.mean() < 1
    assert of_base.max() <= 20


@pytest.mark.parametrize("kind", ["enlarged", "tiled"])
@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
def test_a_large_jpeg_gives_what_decoding_in_full_gives(name: str, kind: str) -> None:
    spec = DecodeSpec.of(Preprocessing(), "crop", 1024)
    assert view_reduction(*LARGE, spec) == 2
    assert_near(jpeg(large_photograph(name, kind)), spec)


@pytest.mark.parametrize("orientation", STORED)
def test_nothing_is_shifted_whichever_way_the_picture_is_turned(orientation: int) -> None:
    data = jpeg(large_photograph("coffee", "enlarged"), orientation)
    seen = read(data, DecodeSpec.of(Preprocessing()))
    assert (seen.width, seen.height) == LARGE
    assert_near(data, DecodeSpec.of(Preprocessing(), "crop", 1024))


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_every_fit_and_filter_sees_the_same(fit: Fit, interpolation: str) -> None:
    preprocessing = Preprocessing(interpolation=interpolation)  # type: ignore[arg-type]
    assert_near(jpeg(large_photograph("rocket", "tiled")), DecodeSpec.of(preprocessing, fit, 1024))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_eighth_of_the_pixels_per_side_will_do_for_the_largest(orientation: int) -> None:
    size = (12_297, 1_609)
    spec = DecodeSpec.of(Preprocessing(input_size=(64, 64), resize_size=64), "crop", 1024)
    assert view_reduction(*size, spec) == 8
    assert_near(jpeg(photograph("chelsea").resize(size, Image.Resampling.BICUBIC), orientation), spec)


def test_grey_cmyk_progressive_and_multi_picture_jpegs_are_reduced_as_well() -> None:
    spec = DecodeSpec.of(Preprocessing(), "crop", 1024)
    picture = large_photograph("coffee", "enlarged")
    files = [
        encoded(picture.convert("L"), "JPEG", quality=92),
        encoded(picture.convert("CMYK"), "JPEG", quality=92),
        encoded(picture, "JPEG", quality=92, progressive=True),
        encoded(picture, "MPO", quality=92, save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    ]
    for data in files:
        assert load_image(open_image(data, MAX_PIXELS), lambda *size: view_reduction(*size, spec)).reduction == 2
        assert_near(data, spec)


def test_the_view_does_not_depend_on_the_overlays_that_are_wanted() -> None:
    data = jpeg(large_photograph("coffee", "tiled"), 6)
    views = [read(data, DecodeSpec.of(Preprocessing(), "crop", side)).view for side in (None, 64, 1024, 2048, 0)]
    assert set(views) == {views[0]}


@pytest.mark.parametrize("max_side", [2048, 0])
def test_overlays_larger_than_usual_are_laid_on_the_full_picture(max_side: int) -> None:
    data = jpeg(large_photograph("coffee", "tiled"), 8)
    spec = DecodeSpec.of(Preprocessing(), "crop", max_side)
    seen = read(data, spec)
    assert seen.base is not None
    np.testing.assert_array_equal(rgb(seen.base), rgb(read_in_full(data, spec)[1]))


@pytest.mark.parametrize(
    ("file_format", "size", "interpolation"),
    [("PNG", LARGE, "bilinear"), ("JPEG", (2048, 1500), "bilinear"), ("JPEG", LARGE, "nearest")],
)
def test_all_others_are_bit_identical_to_torchvision(
    file_format: str, size: tuple[int, int], interpolation: str
) -> None:
    preprocessing = Preprocessing(interpolation=interpolation)  # type: ignore[arg-type]
    data = encoded(large_photograph("coffee", "enlarged").resize(size), file_format)
    spec = DecodeSpec.of(preprocessing, "crop", 1024)
    seen = read(data, spec)
    chain = transforms.Compose(
        [transforms.Resize(256, transforms.InterpolationMode(interpolation)), transforms.CenterCrop(224)]
    )
    expected = chain(load_image(open_image(data, MAX_PIXELS)).pixels)
    np.testing.assert_array_equal(rgb(shown(seen, spec)), rgb(expected))


def test_without_overlays_there_is_no_base() -> None:
    assert read(encoded(photograph("chelsea"), "PNG"), DecodeSpec.of(Preprocessing())).base is None
