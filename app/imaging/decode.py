"""Decodes a posted file into an upright picture, or says what is wrong with it."""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageFile

from app.errors import ImageError
from app.imaging.formats import ImageFormat, format_of
from app.imaging.inspection.limits import MIN_SIDE_PX, check_claim, check_pixels, cut_short, too_small
from app.imaging.pixels import MAX_LEVEL, Depth, is_deep, to_levels, to_rgb
from app.imaging.upright import Box, turned_box, turned_size, upright_turn

# Our own limit stands before every decoding, is the operator's to set, and answers with an error that names
# it; Pillow's fixed one would warn, or fail, below it. Cut files must fail in whatever order modules load.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False

_PILLOW_IS_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_filter_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A file whose header has been read and found fit; no pixel has been decoded.

    Attributes:
        image: Pillow's.
        format: of the file.
        width: as stored, before the picture is turned upright, in px.
        height: the same.
        data: the file without what is no part of its first picture.
    """

    image: Image.Image
    format: ImageFormat
    width: int
    height: int
    data: bytes

    def reopen(self) -> "OpenedImage":
        """The file opened anew, for a second decoding."""
        return _open(self.data, self.format)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright picture.

    Attributes:
        pixels: RGB, 8 bits a channel, turned as its EXIF orientation says, alpha laid over white; smaller than
            the original where that was asked for. Of more than 8 bits: mode F, see `app.imaging.pixels.to_levels`.
        depth: how the range is used; None for 8 bits a channel.
        format: its name in `app.imaging.formats.FORMATS`.
        width: of the upright original in px.
        height: of the upright original in px.
        box: where the whole original lies in `pixels`, in their px; its last row and column may not fill theirs.
        reduction: by how much the sides were divided while it was decoded: 1, 2, 4 or 8.
    """

    pixels: Image.Image
    depth: Depth | None
    format: str
    width: int
    height: int
    box: Box
    reduction: int


def open_image(data: bytes, max_pixels: int) -> OpenedImage:
    """Reads the header of an image file.

    The first bytes alone decide the format. The size is taken from the header and checked before any
    pixel is decoded, as is all else that makes a file cost more than its picture; see `app.imaging.inspection`.

    Args:
        data: the whole file.
        max_pixels: the largest accepted width x height, in px.

    Raises:
        UnsupportedImage: it has none of the accepted formats.
        TooManyPixels: the header claims more than `max_pixels`.
        ImageTooSmall: a side is under 8 px.
        ImageUnreadable: the header is cut short or corrupt, or the file would cost more than pictures do.
    """
    file_format = format_of(data)
    _silence_pillow()
    with _unreadable_if_pillow_fails(file_format):
        inspected = file_format.inspect(data, max_pixels)
    opened = _open(inspected, file_format)
    check_pixels(opened.width, opened.height, max_pixels)
    if min(opened.width, opened.height) < MIN_SIDE_PX:
        raise too_small(opened.width, opened.height)
    if not file_format.is_sparse(opened.image):
        check_claim(file_format.name, opened.width * opened.height, len(data))
    return opened


def _open(data: bytes, file_format: ImageFormat) -> OpenedImage:
    with _unreadable_if_pillow_fails(file_format):
        image = Image.open(BytesIO(data), formats=(file_format.name,))
    return OpenedImage(image, file_format, *image.size, data)


def load_image(
    opened: OpenedImage,
    reduction: Callable[[int, int], int] = lambda _width, _height: 1,
    max_value: int = MAX_LEVEL,
) -> DecodedImage:
    """Decodes the first frame of an opened file.

    Colour profiles are not applied, as the networks' training did not apply them either.

    Args:
        opened: the file; it can be loaded once.
        reduction: tells for the (width, height) of the upright original by how much its sides may be divided while it
            is decoded: 1, 2, 4 or 8. Formats that cannot be reduced are decoded in full and never ask.
        max_value: what is white in a picture of more than 8 bits a channel.

    Returns:
        The upright picture.

    Raises:
        ImageUnreadable: cut short, corrupt, or of pixels that cannot be shown in 8 bits.
        MemoryError: it needs more than there is.
    """
    image, wanted = opened.image, 1
    if opened.format.can_reduce:
        wanted = reduction(*turned_size(image.size, upright_turn(image)))
    with _unreadable_if_pillow_fails(opened.format):
        divisor = _reduce(image, wanted)
        image.load()
    # Only now: a PNG may have its EXIF behind its pixels.
    turn = upright_turn(image)
    with _unreadable_if_pillow_fails(opened.format):
        pixels, depth = to_levels(image, max_value) if is_deep(image) else (to_rgb(image), None)
        if turn is not None:
            pixels = pixels.transpose(turn)
    width, height = turned_size((opened.width, opened.height), turn)
    box = turned_box((opened.width / divisor, opened.height / divisor), image.size, turn)
    return DecodedImage(pixels, depth, opened.format.name, width, height, box, divisor)


def _reduce(image: Image.Image, divisor: int) -> int:
    """Has the blocks of a JPEG decoded to fewer pixels; returns by how much its sides are divided then."""
    width = image.width
    drafted = image.draft(None, (width // divisor, image.height // divisor)) if divisor > 1 else None
    return round(width / drafted[1][2]) if drafted is not None else 1


@contextmanager
def _unreadable_if_pillow_fails(file_format: ImageFormat) -> Iterator[None]:
    # On hostile data Pillow raises nearly anything: SyntaxError, struct.error, KeyError, ZeroDivisionError.
    try:
        yield
    except (MemoryError, ImageError):
        raise
    except Exception as error:
        # Some of Pillow's decoders put a failed allocation into these words.
        if "out of memory" in str(error):
            raise MemoryError from error
        raise cut_short(file_format.name) from error


def _silence_pillow() -> None:
    # Pillow warns of broken metadata, which a caller can send at will and which we do not use. A filter at
    # import is lost where something later puts its own before it; `catch_warnings` is not safe in threads.
    if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
        with _filter_lock:
            if warnings.filters[:1] != [_PILLOW_IS_QUIET]:
                warnings.filterwarnings("ignore", module=r"PIL\.")
