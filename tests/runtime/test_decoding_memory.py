"""The memory that a decoding child may take is enough for honest pictures, and not for others."""

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.imaging.decode import ACCEPTED_FORMATS
from app.imaging.errors import ImageUnreadable
from app.runtime.decoding import Reading
from tests.imaging.pictures import encoded, gradient
from tests.runtime.pools import FULL_SIZE, PHOTO, decoders, read, run


def frugal_child(**limits: int) -> tuple[str, ...]:
    """The real child with less memory."""
    settings = "; ".join(f"child.{name} = {value}" for name, value in limits.items())
    return (sys.executable, "-c", f"from app.imaging import child; {settings}; child.main()")


RGBA = np.dstack([np.tile(gradient(500, 500), (6, 8, 1)), np.full((3000, 4000), 200, np.uint8)])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize(
    ("file_format", "options", "words"),
    [
        ("PNG", {"compress_level": 1}, "more memory than a picture may take"),
        ("TIFF", {"compression": "tiff_lzw"}, "more memory than a picture may take"),
        ("BMP", {}, "more memory than a picture may take"),
        ("GIF", {}, "more memory than a picture may take"),
        # These libraries do not say why they fail.
        ("WEBP", {"method": 0}, "more memory|corrupt"),
        ("JPEG", {"progressive": True}, "more memory|corrupt"),
        ("AVIF", {"speed": 10}, "more memory|corrupt"),
    ],
)
def test_a_picture_that_needs_too_much_memory_is_refused(file_format: str, options: dict[str, Any], words: str) -> None:
    if file_format not in ACCEPTED_FORMATS:
        pytest.skip("Pillow has no AVIF")
    data = encoded(RGBA[..., :3] if file_format in {"JPEG", "GIF"} else RGBA, file_format, **options)
    program = frugal_child(BYTES_A_PIXEL=1, COPIES_OF_THE_FILE=1, FIXED_BYTES=4 << 20)

    async def ask() -> None:
        async with decoders(1, 12_000_000, program=program) as pool:
            with pytest.raises(ImageUnreadable, match=words):
                await read(pool, data, FULL_SIZE)
            assert isinstance(await read(pool, PHOTO), Reading)

    run(ask())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize(("file_format", "options"), [("WEBP", {"method": 0}), ("PNG", {"compress_level": 1})])
def test_an_honest_picture_of_the_largest_size_has_the_memory_that_it_needs(
    file_format: str, options: dict[str, Any]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGBA, file_format, exif=exif, **options)

    async def ask() -> None:
        async with decoders(1, 12_000_000) as pool:
            picture = (await read(pool, data, FULL_SIZE)).picture
            assert picture.base is not None
            assert picture.base.shape == (4000, 3000, 3)

    run(ask())
