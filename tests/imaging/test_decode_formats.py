"""Files of every accepted format become the picture that a viewer shows."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app.imaging.formats import FORMATS
from testing.pictures import MAX_PIXELS, decode, encoded, gradient, noise, photograph, rgb

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_lossless_files_give_their_pixels(file_format: str) -> None:
    pixels = noise(20, 30, 3)
    picture = decode(encoded(pixels, file_format, **LOSSLESS[file_format]), MAX_PIXELS)
    assert (picture.format, picture.width, picture.height) == (file_format, 30, 20)
    np.testing.assert_array_equal(rgb(picture.pixels), pixels)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate", "tiff_lzw", "packbits"])
def test_compressed_tiff_gives_its_pixels(compression: str) -> None:
    pixels = noise(20, 30, 3)
    picture = decode(encoded(pixels, "TIFF", compression=compression), MAX_PIXELS)
    np.testing.assert_array_equal(rgb(picture.pixels), pixels)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
        pytest.param(
            "AVIF",
            {"quality": 95},
            marks=pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow has no AVIF"),
        ),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_files_are_close_to_the_photograph(file_format: str, options: dict[str, object]) -> None:
    photo = photograph("chelsea")
    picture = decode(encoded(photo, file_format, **options), MAX_PIXELS)
    assert (picture.format, picture.width, picture.height) == (file_format, 451, 300)
    difference = rgb(picture.pixels).astype(float) - np.asarray(photo)
    assert np.abs(difference).mean() < 3


def test_gif_gives_its_palette_colours() -> None:
    palette = noise(1, 256, 3).reshape(-1)
    indices = noise(20, 30, seed=1)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    picture = decode(encoded(image, "GIF"), MAX_PIXELS)
    assert picture.format == "GIF"
    np.testing.assert_array_equal(rgb(picture.pixels), palette.reshape(256, 3)[indices])


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_only_the_first_frame_of_an_animation_is_read(file_format: str) -> None:
    if file_format not in FORMATS:
        pytest.skip("Pillow has no AVIF")
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "blue", "lime")]
    options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    shown = rgb(decode(data, MAX_PIXELS).pixels).astype(int)
    assert np.abs(shown - [255, 0, 0]).max() <= 5


def test_multi_picture_jpeg_is_a_jpeg_and_gives_its_first_picture() -> None:
    first, second = gradient(32, 40), noise(32, 40, 3)
    data = encoded(first, "MPO", save_all=True, append_images=[Image.fromarray(second)], quality=95)
    picture = decode(data, MAX_PIXELS)
    assert picture.format == "JPEG"
    assert np.abs(rgb(picture.pixels).astype(int) - first).mean() < 4


# Where the stored first row and first column lie in the upright picture, by the EXIF standard's table.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_turned_upright(file_format: str, orientation: int) -> None:
    if file_format not in FORMATS:
        pytest.skip("Pillow has no AVIF")
    upright = gradient(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(
        file_format, {}
    )
    stored = np.ascontiguousarray(STORED[orientation](upright))
    picture = decode(encoded(stored, file_format, exif=exif, **options), MAX_PIXELS)
    assert (picture.width, picture.height) == (40, 24)
    assert np.abs(rgb(picture.pixels).astype(int) - upright).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise(16, 24, 3)
    picture = decode(encoded(pixels, "PNG", exif=exif), MAX_PIXELS)
    np.testing.assert_array_equal(rgb(picture.pixels), pixels)


BROKEN_EXIF = [
    b"Exif\x00\x00",
    b"Exif\x00\x00not a TIFF header at all",
    b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01",
    b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x05\xff\xff\xff\xff",
]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_exif_does_not_fail_the_picture(exif: bytes) -> None:
    picture = decode(encoded(gradient(24, 40), "JPEG", exif=exif), MAX_PIXELS)
    assert (picture.width, picture.height) == (40, 24)


def test_pictures_with_broken_metadata_decode_in_many_threads_at_once() -> None:
    files = [encoded(gradient(24, 40 + i), "JPEG", exif=BROKEN_EXIF[i % 4]) for i in range(16)]
    barrier = threading.Barrier(8)

    def decode_some(worker: int) -> list[int]:
        barrier.wait(timeout=10)
        return [decode(files[(worker + i) % 16], MAX_PIXELS).width for i in range(32)]

    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(decode_some, range(8)))
    assert widths == [[40 + (worker + i) % 16 for i in range(32)] for worker in range(8)]
