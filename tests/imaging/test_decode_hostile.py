"""Whatever bytes arrive, the answer is a picture or an error that its sender can act on."""

import resource
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from app.errors import ImageError, ImageTooSmall, ImageUnreadable, TooManyPixels, UnsupportedImage
from app.imaging.colour import colormap_table
from app.imaging.decode import DecodedImage
from app.imaging.formats import FORMATS
from app.imaging.overlay import Canvas, Colouring, overlay
from app.imaging.view import Fit, make_view, render_view
from service_models.spec import Preprocessing
from testing.pictures import MAX_PIXELS, decode, encoded, gradient, noise, photograph

VARIANTS = [(name, {}) for name in FORMATS] + [
    ("JPEG", {"progressive": True}),
    ("TIFF", {"compression": "tiff_deflate"}),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"This is a text that someone named holiday.jpg.",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
        b"%PDF-1.7\n",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
        b"\x89PNG",
    ],
)
def test_what_is_no_picture_is_unsupported_and_the_formats_are_named(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WEBP"):
        decode(data, MAX_PIXELS)


def test_formats_that_are_not_accepted_are_unsupported_though_pillow_reads_them() -> None:
    for file_format in ("PPM", "TGA", "ICO", "PCX", "JPEG2000"):
        with pytest.raises(UnsupportedImage):
            decode(encoded(gradient(32, 32), file_format), MAX_PIXELS)


@pytest.mark.parametrize(("file_format", "options"), VARIANTS)
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_files_cut_short_are_unreadable(file_format: str, options: dict[str, object], kept: float) -> None:
    data = encoded(photograph("chelsea").resize((160, 120)), file_format, **options)
    with pytest.raises(ImageUnreadable, match=f"{file_format} file is cut short or corrupt"):
        decode(data[: int(len(data) * kept)], MAX_PIXELS)


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    body = b"IDAT" + zlib.compress(b"\x00" * 100)
    return start + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def webp_header(width: int, height: int) -> bytes:
    canvas = b"\x02\x00\x00\x00" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + info + bytes(100)


def gif_header(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x01\x44\x00;"


@pytest.mark.parametrize("header", [png_header, webp_header, bmp_header, gif_header])
def test_a_header_that_claims_too_much_is_refused_at_once(header: Callable[[int, int], bytes]) -> None:
    start = time.perf_counter()
    with pytest.raises(TooManyPixels, match=r"50000 x 50000 = 2,500,000,000 pixels; at most 64,000,000") as caught:
        decode(header(50_000, 50_000), MAX_PIXELS)
    assert time.perf_counter() - start < 0.5
    expected = f"at most {MAX_PIXELS} pixels"
    assert caught.value.detail == {"field": "image", "expected": expected, "width": 50_000, "height": 50_000}


def test_the_limit_itself_is_accepted_and_one_more_is_not() -> None:
    assert decode(encoded(noise(10, 20, 3), "PNG"), 200).width == 20
    with pytest.raises(TooManyPixels):
        decode(encoded(noise(10, 20, 3), "PNG"), 199)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 8), (8, 7), (4000, 7)])
def test_small_pictures_are_refused_with_their_size(width: int, height: int) -> None:
    with pytest.raises(ImageTooSmall, match=f"{width} x {height} .* at least 8") as caught:
        decode(encoded(noise(height, width, 3), "PNG"), MAX_PIXELS)
    expected = {"field": "image", "expected": "at least 8 px on each side", "width": width, "height": height}
    assert caught.value.detail == expected


def test_eight_by_eight_is_large_enough() -> None:
    assert decode(encoded(noise(8, 8, 3), "PNG"), MAX_PIXELS).pixels.size == (8, 8)


@pytest.mark.parametrize("long_side", [50_000, 500_000])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("upright", [True, False])
def test_thin_pictures_cost_neither_time_nor_memory(long_side: int, fit: Fit, upright: bool) -> None:
    size = (8, long_side) if upright else (long_side, 8)
    data = encoded(Image.new("RGB", size, "teal"), "PNG")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    picture = decode(data, MAX_PIXELS)
    preprocessing = Preprocessing()
    seen = torch.from_numpy(np.array(render_view(picture.pixels, preprocessing, fit)))
    view = make_view(*size, preprocessing, fit)
    canvas = Canvas(picture.pixels.size, picture.pixels.size, view.box)
    heatmap = Image.fromarray((seen[..., 0] / 255).numpy())
    shown = overlay(memoryview(picture.pixels.tobytes()), canvas, heatmap, Colouring(colormap_table("jet"), 0.5))
    assert time.perf_counter() - start < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 256 * 1024
    assert shown.size == size
    teal = (seen == torch.tensor([0, 128, 128])).all(2)
    assert teal.any() if fit == "pad" else teal.all()


@pytest.mark.parametrize(("file_format", "options"), VARIANTS)
def test_mutated_files_give_a_picture_or_an_error_of_ours(file_format: str, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if file_format not in {"BMP", "GIF"}:
        options = {**options, "exif": exif}
    original = np.frombuffer(encoded(gradient(20, 24), file_format, **options), np.uint8)
    rng = np.random.default_rng(zlib.crc32(f"{file_format}{options.keys()}".encode()))
    pictures = 0
    messages: set[str] = set()
    for round_number in range(300):
        mutated = original.copy()
        # Headers are short and hold what is worth breaking: every other round is aimed at them.
        reach = len(mutated) if round_number % 2 else min(len(mutated), 160)
        places = rng.integers(0, reach, rng.integers(1, 9))
        mutated[places] = rng.integers(0, 256, len(places))
        data = mutated.tobytes()
        if round_number % 5 == 0:
            data = data[: rng.integers(0, len(data))] + rng.bytes(rng.integers(0, 64))
        try:
            picture = decode(data, 1_000_000)
        except ImageError as error:
            messages.add(str(error))
            continue
        pictures += 1
        assert isinstance(picture, DecodedImage)
        assert picture.pixels.mode == "RGB"
        assert picture.pixels.size == (picture.width, picture.height)
    assert pictures < 300
    assert not any(word in message for message in messages for word in ("PIL", "BytesIO", "0x", "/"))
