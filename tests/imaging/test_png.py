"""PNG is lossless for grey and colour pictures of any size, and not wasteful."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.imaging import png
from app.imaging.png import bands_of, encode_png, largest_png
from testing.pictures import photograph

SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (33, 34), (224, 224)]


def encode(pixels: np.ndarray) -> bytes:
    image, file = Image.fromarray(pixels), bytearray()
    encode_png(image.size, image.mode, bands_of(image), file.extend)
    assert len(file) <= largest_png(*image.size, image.mode)
    return bytes(file)


def decode(png: bytes) -> Image.Image:
    image = Image.open(BytesIO(png))
    image.verify()
    image = Image.open(BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("mode", "channels"), [("L", ()), ("RGB", (3,))])
def test_every_byte_comes_back(size: tuple[int, int], mode: str, channels: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, *channels), dtype=np.uint8)
    image = decode(encode(pixels))
    assert (image.format, image.mode, image.size) == ("PNG", mode, size[::-1])
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bands_join_without_seams(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.asarray(photograph("chelsea").convert(mode))
    whole = encode(pixels)
    monkeypatch.setattr(png, "_BAND_BYTES", 4 * pixels.shape[1] * 7)
    np.testing.assert_array_equal(np.asarray(decode(encode(pixels))), np.asarray(decode(whole)))


@pytest.mark.parametrize("size", [(3, 200_000), (200_000, 3)])
def test_noise_of_any_shape_fits_the_bound(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(encode(pixels))), pixels)


def test_extremes_and_views_that_are_not_contiguous_come_back() -> None:
    for pixels in (np.zeros((9, 9), np.uint8), np.full((9, 9, 3), 255, np.uint8)):
        np.testing.assert_array_equal(np.asarray(decode(encode(pixels))), pixels)
    turned = np.asarray(photograph("chelsea")).transpose(1, 0, 2)[::2]
    np.testing.assert_array_equal(np.asarray(decode(encode(turned))), turned)


def test_a_photograph_takes_no_more_than_a_fifth_over_pillows_default() -> None:
    picture = photograph("astronaut")
    file = BytesIO()
    picture.save(file, "PNG")
    assert len(encode(np.asarray(picture))) < 1.2 * len(file.getvalue())
