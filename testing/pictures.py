"""Pictures and files that the tests of imaging share."""

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

from app.imaging.decode import DecodedImage, load_image, open_image

UInt8 = npt.NDArray[np.uint8]

MAX_PIXELS = 64_000_000


@cache
def photograph(name: str) -> Image.Image:
    """Loads a photograph that scikit-image carries: chelsea, coffee, rocket or astronaut; mode RGB."""
    return Image.fromarray(getattr(data, name)())


def noise(height: int, width: int, *channels: int, seed: int = 0) -> UInt8:
    """Draws uint8 noise, [0, 255]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def gradient(height: int, width: int) -> UInt8:
    """Makes a smooth HWC uint8 picture in which no two corners and no mirror images are alike."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = 255 * (x / (width - 1)) * (1 - y / (height - 1))
    return np.stack([red, green, blue], axis=2).round().astype(np.uint8)


def encoded(image: Image.Image | UInt8, file_format: str, **options: Any) -> bytes:
    """Encodes a picture with Pillow."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def rgb(image: Image.Image) -> UInt8:
    """Gives the pixels of an RGB picture, HWC uint8."""
    assert image.mode == "RGB"
    return np.asarray(image)


def levels(image: Image.Image) -> npt.NDArray[np.int64]:
    """Gives the pixels of an RGB picture as integers that can be subtracted, HWC."""
    return rgb(image).astype(np.int64)


def over_white(colours: UInt8, alpha: UInt8) -> npt.NDArray[np.float64]:
    """Computes what colours (HWC) with alpha (HW) show on white paper, [0, 255]."""
    weight = alpha[..., None] / 255
    return colours * weight + 255 * (1 - weight)


def decode(data: bytes, max_pixels: int) -> DecodedImage:
    """Reads the first frame of an image file in full."""
    return load_image(open_image(data, max_pixels))
