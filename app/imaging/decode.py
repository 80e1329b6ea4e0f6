"""Turns an uploaded file into an upright RGB picture, or says what is wrong with it."""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import ExifTags, Image, ImageFile, features

from app.imaging.errors import ImageTooSmall, ImageUnreadable, TooManyPixels, UnsupportedImage
from app.imaging.pixels import to_rgb

MIN_SIDE_PX = 8

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF") + (("AVIF",) if features.check("avif") else ())

# Our own limit stands before every decoding, is the operator's to set, and answers with an error that names
# it; Pillow's fixed one would warn, or fail, below it. Cut files must fail in whatever order modules load.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False

_PREFIXES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II\x2a\x00": "TIFF",
    b"MM\x00\x2a": "TIFF",
    b"II\x2b\x00": "TIFF",
    b"MM\x00\x2b": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_PILLOW_IS_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_filter_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright picture.

    Attributes:
        pixels: RGB, 8 bits a channel, turned as its EXIF orientation says, alpha laid over white.
        format: "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF" or "AVIF".
        width: of the upright picture in px.
        height: of the upright picture in px.
    """

    pixels: Image.Image
    format: str
    width: int
    height: int


def decode(data: bytes, max_pixels: int) -> DecodedImage:
    """Reads the first frame of an image file.

    The file's signature alone decides its format. The size is taken from the header and checked before any
    pixel is decoded. Colour profiles are not applied, as the networks' training did not apply them either.

    Args:
        data: the whole file.
        max_pixels: the largest accepted width x height, in px.

    Returns:
        The upright picture.

    Raises:
        UnsupportedImage: the signature is no accepted format's.
        TooManyPixels: the header claims more than `max_pixels`.
        ImageTooSmall: a side is under 8 px.
        ImageUnreadable: cut short, corrupt, or of pixels that cannot be shown in 8 bits.
    """
    file_format = _format_of(data)
    if file_format is None:
        raise UnsupportedImage(ACCEPTED_FORMATS)
    if file_format == "WEBP":
        _check_webp_canvas(data, max_pixels)
    _silence_pillow()
    with _unreadable_if_pillow_fails(file_format):
        image = Image.open(BytesIO(data), formats=(file_format,))
    _check_size(*image.size, max_pixels)
    with _unreadable_if_pillow_fails(file_format):
        image.load()
    turn = _turn_upright(image)
    with _unreadable_if_pillow_fails(file_format):
        pixels = to_rgb(image)
        if turn is not None:
            pixels = pixels.transpose(turn)
    return DecodedImage(pixels, file_format, pixels.width, pixels.height)


def _format_of(data: bytes) -> str | None:
    for prefix, file_format in _PREFIXES.items():
        if data.startswith(prefix):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if "AVIF" in ACCEPTED_FORMATS and data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmall(width, height, MIN_SIDE_PX)


def _check_webp_canvas(data: bytes, max_pixels: int) -> None:
    # Pillow allocates the canvas of an extended WebP as soon as it opens the file.
    if data[12:16] == b"VP8X" and len(data) >= 30:
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        _check_size(width, height, max_pixels)


def _turn_upright(image: Image.Image) -> Image.Transpose | None:
    # `ImageOps.exif_transpose` also writes the EXIF anew, which fails on broken entries that we do not use.
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        # The picture is whole even where what the camera wrote about it is not.
        return None


@contextmanager
def _unreadable_if_pillow_fails(file_format: str) -> Iterator[None]:
    # On hostile data Pillow raises nearly anything: SyntaxError, struct.error, KeyError, ZeroDivisionError.
    try:
        yield
    except (MemoryError, ImageUnreadable):
        raise
    except Exception as error:
        raise ImageUnreadable(f"The {file_format} file is cut short or corrupt.") from error


def _silence_pillow() -> None:
    # Pillow warns of broken metadata, which a caller can send at will and which we do not use. A filter at
    # import is lost where something later puts its own before it; `catch_warnings` is not safe in threads.
    if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
        with _filter_lock:
            if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
                warnings.filterwarnings("ignore", module=r"PIL\.")
