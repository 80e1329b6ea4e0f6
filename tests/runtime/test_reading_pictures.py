"""A child gives what this process would make of a picture, and says what is wrong with it in the same words."""

import asyncio
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageError, ImageTooSmall, ImageUnreadable, TooManyPixels, UnsupportedImage
from app.imaging.formats import FORMATS
from app.imaging.reading import DecodeSpec
from service_models.spec import Preprocessing
from testing.pictures import encoded, gradient, noise, photograph
from tests.imaging.test_decode_hostile import bmp_header, gif_header, png_header, webp_header
from tests.runtime.pools import (
    DECODE_SPEC,
    PHOTO,
    Read,
    assert_equal,
    environment_of,
    image_processes,
    in_this_process,
    read,
    run,
    until,
)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_child_gives_what_this_process_would(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif} if file_format not in {"BMP", "GIF"} else {}
    data = encoded(photograph("coffee"), file_format, **options)

    async def ask() -> None:
        async with image_processes(1) as images:
            for fit in ("crop", "stretch", "pad"):
                for max_side in (None, 256, 0):
                    spec = DecodeSpec.of(Preprocessing(input_size=(160, 224), interpolation="bicubic"), fit, max_side)  # type: ignore[arg-type]
                    reading = await read(images, data, spec)
                    assert_equal(reading, in_this_process(data, spec))
            assert reading.digest.hex()
            assert reading.decode_ms > 0
            assert reading.wait_ms >= 0

    run(ask())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnsupportedImage),
        (b"no picture", UnsupportedImage),
        (PHOTO[: len(PHOTO) // 2], ImageUnreadable),
        (encoded(noise(7, 8, 3), "PNG"), ImageTooSmall),
        (encoded(Image.new("F", (16, 16)), "TIFF"), ImageUnreadable),
        *((header(50_000, 50_000), TooManyPixels) for header in (png_header, webp_header, bmp_header, gif_header)),
    ],
)
def test_what_is_wrong_with_a_picture_is_said_as_this_process_would_say_it(
    data: bytes, error: type[ImageError]
) -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            before = images.pool.pids
            with pytest.raises(error) as caught:
                await read(images, data)
            with pytest.raises(error) as expected:
                in_this_process(data, DECODE_SPEC)
            assert str(caught.value) == str(expected.value)
            assert vars(caught.value) == vars(expected.value)
            await read(images, PHOTO)
            assert images.pool.pids == before

    run(ask())


def test_mutated_files_give_a_picture_or_an_error_and_never_the_pool() -> None:
    chance = np.random.default_rng(0)
    files = []
    for file_format in FORMATS:
        original = np.frombuffer(encoded(gradient(20, 24), file_format), np.uint8)
        for _ in range(30):
            mutated = original.copy()
            mutated[chance.integers(0, min(160, len(mutated)), 4)] = chance.integers(0, 256, 4)
            files.append(mutated.tobytes())

    async def ask() -> None:
        async with image_processes(2, 1_000_000) as images:
            readings = await asyncio.gather(*(read(images, data) for data in files), return_exceptions=True)
            for data, reading in zip(files, readings, strict=True):
                if isinstance(reading, Read):
                    assert_equal(reading, in_this_process(data, DECODE_SPEC, 1_000_000))
                else:
                    assert isinstance(reading, ImageError)

    run(ask())


def test_children_start_when_they_are_needed_and_are_replaced_after_so_many_pictures() -> None:
    async def ask() -> None:
        async with image_processes(2, recycle_after=3) as images:
            assert not images.pool.pids
            used: set[int] = set()
            for _ in range(7):
                await read(images, PHOTO)
                used |= images.pool.pids
                await until(lambda: images.pool.idle == 2)
            assert len(used) == 3
            assert len(images.pool.pids) == 1

    run(ask())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_do_not_inherit_the_secrets_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")

    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            (pid,) = images.pool.pids
            assert b"hunter2" not in environment_of(pid)

    run(ask())
