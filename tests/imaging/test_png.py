"""PNG files hold exactly the pixels that they were made of."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.imaging import encode_png
from tests.imaging.pictures import noise, photograph


@pytest.mark.parametrize("shape", [(1, 1), (17, 23), (1, 1, 3), (17, 23, 3)])
def test_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    data = encode_png(pixels)
    assert data.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(data))), pixels)


def test_png_takes_arrays_that_are_not_contiguous() -> None:
    pixels = noise(16, 24, 3)[::2, ::-1]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(encode_png(pixels)))), pixels)


def test_a_photograph_is_well_under_its_raw_size() -> None:
    pixels = np.asarray(photograph("coffee"))
    assert len(encode_png(pixels)) < 0.8 * pixels.nbytes
