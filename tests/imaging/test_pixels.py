"""Pixels of every kind become the 8-bit RGB that a viewer shows."""

import struct
import zlib

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from PIL import Image

from app.errors import ImageUnreadable
from app.imaging.decode import load_image, open_image
from app.imaging.pixels import Depth, levels_to_rgb
from testing.pictures import MAX_PIXELS, UInt8, decode, encoded, gradient, noise, over_white, rgb

SAMPLES_PER_PIXEL = {0: 1, 2: 3, 4: 2, 6: 4}


def decoded(data: bytes) -> UInt8:
    return rgb(decode(data, MAX_PIXELS).pixels)


def grey(values: npt.NDArray[np.uint8]) -> UInt8:
    return np.stack([values] * 3, axis=2)


def tiff_with_tag(data: bytes, tag: int, value: int, replacement: int) -> bytes:
    entry = struct.pack("<HHIHH", tag, 3, 1, value, 0)
    assert data.count(entry) == 1
    return data.replace(entry, struct.pack("<HHIHH", tag, 3, 1, replacement, 0))


def sixteen_bit_png(samples: npt.NDArray[np.uint16], colour_type: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_black_and_white(file_format: str) -> None:
    bits = noise(16, 24) > 127
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits), file_format)), grey(bits * np.uint8(255)))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_grey(file_format: str) -> None:
    values = noise(16, 24)
    np.testing.assert_array_equal(decoded(encoded(values, file_format)), grey(values))


def test_grey_jpeg() -> None:
    values = gradient(16, 24)[..., 0]
    assert np.abs(decoded(encoded(values, "JPEG", quality=100)).astype(int) - grey(values)).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_with_alpha_is_laid_over_white(file_format: str) -> None:
    values, alpha = noise(16, 24), noise(16, 24, seed=1)
    image = Image.merge("LA", [Image.fromarray(values), Image.fromarray(alpha)])
    expected = over_white(grey(values), alpha)
    assert np.abs(decoded(encoded(image, file_format)) - expected).max() <= 1


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_colour_with_alpha_is_laid_over_white(file_format: str, options: dict[str, object]) -> None:
    pixels = noise(16, 24, 4)
    pixels[:4, :, 3], pixels[4:8, :, 3] = 0, 255
    shown = decoded(encoded(pixels, file_format, **options))
    assert np.abs(shown - over_white(pixels[..., :3], pixels[..., 3])).max() <= 1
    assert (shown[:4] == 255).all()
    np.testing.assert_array_equal(shown[4:8], pixels[4:8, :, :3])


def test_premultiplied_alpha_is_laid_over_white() -> None:
    alpha = noise(16, 24)
    premultiplied = (noise(16, 24, 3, seed=1) * (alpha[..., None] / 255)).astype(np.uint8)
    data = encoded(np.dstack([premultiplied, alpha]), "TIFF")
    data = tiff_with_tag(data, 338, 2, 1)
    expected = premultiplied + (255.0 - alpha[..., None])
    assert np.abs(decoded(data) - expected).max() <= 1.5


def palette_image(indices: UInt8, palette: UInt8) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    return image


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_palette(file_format: str) -> None:
    palette, indices = noise(256, 3), noise(16, 24, seed=1)
    shown = decoded(encoded(palette_image(indices, palette), file_format))
    np.testing.assert_array_equal(shown, palette[indices])


def test_palette_with_an_alpha_for_each_colour() -> None:
    palette, alphas, indices = noise(256, 3), noise(1, 256, seed=2)[0], noise(16, 24, seed=1)
    data = encoded(palette_image(indices, palette), "PNG", transparency=alphas.tobytes())
    assert np.abs(decoded(data) - over_white(palette[indices], alphas[indices])).max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palette_with_one_transparent_colour(file_format: str) -> None:
    palette, indices = noise(256, 3), noise(16, 24, seed=1) % 8
    data = encoded(palette_image(indices, palette), file_format, transparency=3)
    expected = palette[indices]
    expected[indices == 3] = 255
    np.testing.assert_array_equal(decoded(data), expected)


def test_colour_with_one_transparent_colour() -> None:
    pixels = noise(16, 24, 3)
    pixels[2:5] = (10, 20, 30)
    expected = pixels.copy()
    expected[2:5] = 255
    np.testing.assert_array_equal(decoded(encoded(pixels, "PNG", transparency=(10, 20, 30))), expected)


def test_grey_with_one_transparent_level() -> None:
    values = noise(16, 24) % 8
    expected = np.where(values == 3, np.uint8(255), values)
    np.testing.assert_array_equal(decoded(encoded(values, "PNG", transparency=3)), grey(expected))


def cmyk_to_rgb(cmyk: UInt8) -> npt.NDArray[np.float64]:
    ink = cmyk / 255
    return 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])


def test_cmyk_tiff() -> None:
    pixels = noise(16, 24, 4)
    data = encoded(Image.fromarray(pixels, "CMYK"), "TIFF")
    assert np.abs(decoded(data) - cmyk_to_rgb(pixels)).max() <= 1


def test_cmyk_jpeg_as_adobe_stores_it_is_not_inverted() -> None:
    pixels = np.dstack([gradient(32, 48) // 2, gradient(32, 48)[..., 0] // 3])
    data = encoded(Image.fromarray(pixels, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(decoded(data) - cmyk_to_rgb(pixels)).max() <= 5


@pytest.mark.parametrize(
    "compression",
    [
        "tiff_deflate",
        pytest.param(
            "raw",
            marks=pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow reads it from version 13 on"),
        ),
    ],
)
def test_ycbcr_tiff(compression: str) -> None:
    pixels = gradient(16, 24)
    data = encoded(Image.fromarray(pixels).convert("YCbCr"), "TIFF", compression=compression)
    assert np.abs(decoded(data).astype(int) - pixels).max() <= 3


RAMP = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32) + np.arange(32, dtype=np.uint16)
RAMP[0, 0], RAMP[-1, -1] = 0, 65535


def eight_bits(samples: npt.NDArray[np.uint16]) -> UInt8:
    return np.round(samples / 257).astype(np.uint8)


def assert_deep(data: bytes, expected: npt.NDArray[np.uint16]) -> None:
    """All bits of it reach the network, and eyes see it rounded to eight."""
    picture = decode(data, MAX_PIXELS)
    np.testing.assert_array_equal(np.asarray(picture.pixels), expected)
    assert picture.depth == Depth(int(expected.max()), 0)
    np.testing.assert_array_equal(rgb(levels_to_rgb(picture.pixels, 65535)), grey(eight_bits(expected)))


@pytest.mark.parametrize(
    ("mode", "compression", "byte_order"),
    [("I;16", "raw", b"II"), ("I;16B", "raw", b"MM"), ("I;16", "tiff_deflate", b"II")],
)
def test_sixteen_bit_grey_tiff_keeps_its_bits(mode: str, compression: str, byte_order: bytes) -> None:
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, RAMP.shape, RAMP.astype(order).tobytes())
    data = encoded(image, "TIFF", compression=compression)
    assert data[:2] == byte_order
    assert_deep(data, RAMP)


def test_sixteen_bit_grey_tiff_whose_zero_is_white() -> None:
    assert_deep(tiff_with_tag(encoded(Image.fromarray(RAMP), "TIFF"), 262, 1, 0), 65535 - RAMP)


def test_twelve_bit_grey_tiff_whose_zero_is_white() -> None:
    samples = RAMP // 16
    samples[5, 5] = 5000
    data = tiff_with_tag(encoded(Image.fromarray(samples), "TIFF"), 262, 1, 0)
    picture = load_image(open_image(data, MAX_PIXELS), max_value=4095)
    np.testing.assert_array_equal(np.asarray(picture.pixels), 4095 - np.minimum(samples, 4095))
    assert picture.depth == Depth(5000, 1)


def test_what_is_transparent_does_not_count_as_use_of_the_range() -> None:
    samples = np.full((24, 24), 100, np.uint16)
    samples[3, 3] = 4000
    picture = decode(encoded(Image.fromarray(samples), "PNG", transparency=100), MAX_PIXELS)
    assert picture.depth == Depth(4000, 0)
    np.testing.assert_array_equal(np.asarray(picture.pixels), np.where(samples == 100, 65535, samples))


def test_sixteen_bit_grey_png_keeps_its_bits() -> None:
    assert_deep(sixteen_bit_png(RAMP, 0), RAMP)


def test_sixteen_bit_grey_png_with_one_transparent_level() -> None:
    data = encoded(Image.fromarray(RAMP), "PNG", transparency=int(RAMP[3, 3]))
    assert_deep(data, np.where(RAMP[3, 3] == RAMP, np.uint16(65535), RAMP))


def test_what_is_above_white_is_white() -> None:
    picture = load_image(open_image(sixteen_bit_png(RAMP, 0), MAX_PIXELS), max_value=4095)
    np.testing.assert_array_equal(np.asarray(picture.pixels), np.minimum(RAMP, 4095))
    assert picture.depth == Depth(65535, int((RAMP > 4095).sum()))
    expected = np.round(np.minimum(RAMP, 4095) * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(rgb(levels_to_rgb(picture.pixels, 4095)), grey(expected))


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_sixteen_bit_png_of_other_kinds_is_nearly_exact(colour_type: int) -> None:
    shape = (16, 24, SAMPLES_PER_PIXEL[colour_type])
    samples = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    reduced = eight_bits(samples)
    alpha = reduced[..., -1] if colour_type in {4, 6} else np.full((16, 24), 255, np.uint8)
    colours = reduced[..., :3] if colour_type in {2, 6} else grey(reduced[..., 0])
    # Pillow keeps the high bytes: colour and alpha may each be one level off, and a rounding comes on top.
    assert np.abs(decoded(sixteen_bit_png(samples, colour_type)) - over_white(colours, alpha)).max() <= 2.5


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pixels_of_no_stated_range_are_refused_in_words(mode: str) -> None:
    with pytest.raises(ImageUnreadable, match="8 or 16 bits"):
        decode(encoded(Image.new(mode, (16, 16)), "TIFF"), MAX_PIXELS)
