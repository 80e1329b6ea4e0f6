"""Encodes pictures as PNG."""

import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

# Overlays are photographs: on these, run lengths over PNG's filters are both smaller and faster than zlib's
# search for matches (1024 x 768: 49 ms and 800 KiB, against 92 ms and 836 KiB at level 4, 254 ms at level 6).
_COMPRESS_LEVEL = 1
_COMPRESS_TYPE = zlib.Z_RLE


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes a picture losslessly.

    Args:
        pixels: HW (grey) or HWC (RGB) uint8, [0, 255].

    Returns:
        The PNG file.
    """
    file = BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(file, "PNG", compress_level=_COMPRESS_LEVEL, compress_type=_COMPRESS_TYPE)
    return file.getvalue()
