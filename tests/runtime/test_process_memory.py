"""The memory that a decoding child may take is enough for honest pictures, and not for others."""

import platform
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageUnreadable
from app.imaging.formats import FORMATS
from testing.pictures import encoded, gradient
from tests.runtime.pools import FULL_SIZE, PHOTO, Read, image_processes, read, resident_mib, run, until


def frugal_child(**limits: int) -> tuple[str, ...]:
    """The real child with less memory."""
    settings = "; ".join(f"child.{name} = {value}" for name, value in limits.items())
    return (sys.executable, "-c", f"from app.imaging import child; {settings}; child.main()")


RGBA = np.dstack([np.tile(gradient(500, 500), (6, 8, 1)), np.full((3000, 4000), 200, np.uint8)])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize(
    ("file_format", "options", "words"),
    [
        ("PNG", {"compress_level": 1}, "more memory to decode than is allowed"),
        ("TIFF", {"compression": "tiff_lzw"}, "more memory to decode than is allowed"),
        ("BMP", {}, "more memory to decode than is allowed"),
        ("GIF", {}, "more memory to decode than is allowed"),
        # These libraries do not say why they fail.
        ("WEBP", {"method": 0}, "more memory|corrupt"),
        ("JPEG", {"progressive": True}, "more memory|corrupt"),
        ("AVIF", {"speed": 10}, "more memory|corrupt"),
    ],
)
def test_a_picture_that_needs_too_much_memory_is_refused(file_format: str, options: dict[str, Any], words: str) -> None:
    if file_format not in FORMATS:
        pytest.skip("Pillow has no AVIF")
    data = encoded(RGBA[..., :3] if file_format in {"JPEG", "GIF"} else RGBA, file_format, **options)
    program = frugal_child(BYTES_A_PIXEL=1, COPIES_OF_THE_FILE=1, FIXED_BYTES=4 << 20)

    async def ask() -> None:
        async with image_processes(1, 12_000_000, program=program) as images:
            with pytest.raises(ImageUnreadable, match=words):
                await read(images, data, FULL_SIZE)
            assert isinstance(await read(images, PHOTO), Read)

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
        async with image_processes(1, 12_000_000) as images:
            made = await read(images, data, FULL_SIZE)
            assert (made.picture.width, made.picture.height) == (3000, 4000)
            assert made.base is not None
            assert len(made.base) == 3 * 3000 * 4000

    run(ask())


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
@pytest.mark.parametrize(("file_format", "options"), [("JPEG", {}), ("PNG", {"compress_level": 1})])
def test_a_child_gives_back_the_memory_of_a_large_picture(file_format: str, options: dict[str, Any]) -> None:
    data = encoded(RGBA[..., :3], file_format, **options)

    async def ask() -> None:
        async with image_processes(1, 12_000_000) as images:
            await read(images, PHOTO)
            (pid,) = images.pool.pids
            before = resident_mib(pid)
            for _ in range(2):
                await read(images, data, FULL_SIZE)
            # It kept 50 MiB for good.
            await until(lambda: resident_mib(pid) < before + 8)

    run(ask())
