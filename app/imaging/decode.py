"""Turns an uploaded file into an upright RGB picture, or says what is wrong with it."""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from app.imaging.errors import ImageTooSmall, ImageUnreadable, TooManyPixels, UnsupportedImage
from app.imaging.pixels import to_rgb
from app.imaging.upright import Box, turn_upright, turned_box, turned_size

MIN_SIDE_PX = 8

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF") + (("AVIF",) if features.check("avif") else ())

# Pillow imports its readers when the first file asks for one, and then all forty.
_READERS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

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

_PILLOW_IS_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_filter_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A file whose header has been read and found fit; no pixel has been decoded.

    Attributes:
        image: Pillow's.
        format: "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF" or "AVIF".
        width: as stored, before the picture is turned upright, in px.
        height: the same.
        data: the whole file.
    """

    image: Image.Image
    format: str
    width: int
    height: int
    data: bytes

    def again(self) -> "OpenedImage":
        """The file opened anew, for a second decoding."""
        return _open(self.data, self.format)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright picture.

    Attributes:
        pixels: RGB, 8 bits a channel, turned as its EXIF orientation says, alpha laid over white; smaller than
            the original where that was asked for.
        format: "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF" or "AVIF".
        width: of the upright original in px.
        height: of the upright original in px.
        box: where the whole original lies in `pixels`, in their px; its last row and column may not fill theirs.
        reduction: by how much the sides were divided while it was decoded: 1, 2, 4 or 8.
    """

    pixels: Image.Image
    format: str
    width: int
    height: int
    box: Box
    reduction: int


def decode(data: bytes, max_pixels: int) -> DecodedImage:
    """Reads the first frame of an image file in full; see `open_image` and `load_image`."""
    return load_image(open_image(data, max_pixels))


def open_image(data: bytes, max_pixels: int) -> OpenedImage:
    """Reads the header of an image file.

    The file's signature alone decides its format. The size is taken from the header and checked before any
    pixel is decoded.

    Args:
        data: the whole file.
        max_pixels: the largest accepted width x height, in px.

    Raises:
        UnsupportedImage: the signature is no accepted format's.
        TooManyPixels: the header claims more than `max_pixels`.
        ImageTooSmall: a side is under 8 px.
        ImageUnreadable: the header is cut short or corrupt.
    """
    file_format = _format_of(data)
    if file_format is None:
        raise UnsupportedImage(ACCEPTED_FORMATS)
    if file_format == "WEBP":
        _check_webp_canvas(data, max_pixels)
    _silence_pillow()
    opened = _open(data, file_format)
    _check_size(opened.width, opened.height, max_pixels)
    return opened


def _open(data: bytes, file_format: str) -> OpenedImage:
    with _unreadable_if_pillow_fails(file_format):
        image = Image.open(BytesIO(data), formats=(file_format,))
    return OpenedImage(image, file_format, *image.size, data)


def load_image(opened: OpenedImage, reduction: Callable[[int, int], int] = lambda _width, _height: 1) -> DecodedImage:
    """Decodes the first frame of an opened file.

    Colour profiles are not applied, as the networks' training did not apply them either.

    Args:
        opened: the file; it can be loaded once.
        reduction: tells for the (width, height) of the upright original by how much its sides may be divided while it
            is decoded: 1, 2, 4 or 8. Only JPEGs can be; all others are decoded in full and never ask.

    Returns:
        The upright picture.

    Raises:
        ImageUnreadable: cut short, corrupt, or of pixels that cannot be shown in 8 bits.
        MemoryError: it needs more than there is.
    """
    image, wanted = opened.image, 1
    if opened.format == "JPEG":
        wanted = reduction(*turned_size(image.size, turn_upright(image)))
    with _unreadable_if_pillow_fails(opened.format):
        divisor = _reduce(image, wanted)
        image.load()
    # Only now: a PNG may have its EXIF behind its pixels.
    turn = turn_upright(image)
    with _unreadable_if_pillow_fails(opened.format):
        pixels = to_rgb(image)
        if turn is not None:
            pixels = pixels.transpose(turn)
    width, height = turned_size((opened.width, opened.height), turn)
    box = turned_box((opened.width / divisor, opened.height / divisor), image.size, turn)
    return DecodedImage(pixels, opened.format, width, height, box, divisor)


def _reduce(image: Image.Image, divisor: int) -> int:
    """Has the blocks of a JPEG decoded to fewer pixels; returns by how much its sides are divided then."""
    width = image.width
    drafted = image.draft(None, (width // divisor, image.height // divisor)) if divisor > 1 else None
    return round(width / drafted[1][2]) if drafted is not None else 1


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


@contextmanager
def _unreadable_if_pillow_fails(file_format: str) -> Iterator[None]:
    # On hostile data Pillow raises nearly anything: SyntaxError, struct.error, KeyError, ZeroDivisionError.
    try:
        yield
    except (MemoryError, ImageUnreadable):
        raise
    except Exception as error:
        # Some of Pillow's decoders put a failed allocation into these words.
        if "out of memory" in str(error):
            raise MemoryError from error
        raise ImageUnreadable(f"The {file_format} file is cut short or corrupt.") from error


def _silence_pillow() -> None:
    # Pillow warns of broken metadata, which a caller can send at will and which we do not use. A filter at
    # import is lost where something later puts its own before it; `catch_warnings` is not safe in threads.
    if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
        with _filter_lock:
            if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
                warnings.filterwarnings("ignore", module=r"PIL\.")
