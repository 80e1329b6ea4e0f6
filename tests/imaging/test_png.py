"""PNG is lossless for grey and colour pictures of any size, and not wasteful."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.imaging.png import encode_png
from tests.imaging.pictures import photograph

SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (33, 34), (224, 224)]


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
    image = decode(encode_png(pixels))
    assert (image.format, image.mode, image.size) == ("PNG", mode, size[::-1])
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_extremes_and_views_that_are_not_contiguous_come_back() -> None:
    for pixels in (np.zeros((9, 9), np.uint8), np.full((9, 9, 3), 255, np.uint8)):
        np.testing.assert_array_equal(np.asarray(decode(encode_png(pixels))), pixels)
    turned = np.asarray(photograph("chelsea")).transpose(1, 0, 2)[::2]
    np.testing.assert_array_equal(np.asarray(decode(encode_png(turned))), turned)


def test_a_photograph_takes_no_more_than_a_fifth_over_pillows_default() -> None:
    picture = photograph("astronaut")
    file = BytesIO()
    picture.save(file, "PNG")
    assert len(encode_png(np.asarray(picture))) < 1.2 * len(file.getvalue())
