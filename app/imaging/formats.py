"""The accepted formats of pictures: one table of all that differs between them.

Decoder, OpenAPI document, page and evaluation take what they need from it. Another format is another row, and a
function in `app.imaging.inspection` that looks for what would make its files cost too much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from app.errors import UnsupportedImage
from app.imaging.inspection.avif import inspected_avif
from app.imaging.inspection.bmp import inspected_bmp
from app.imaging.inspection.gif import inspected_gif
from app.imaging.inspection.jpeg import inspected_jpeg
from app.imaging.inspection.png import inspected_png
from app.imaging.inspection.tiff import inspected_tiff
from app.imaging.inspection.webp import inspected_webp

_FAX = {"group3", "group4", "tiff_ccitt"}


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A format of image files.

    Attributes:
        name: as Pillow, replies and errors write it.
        title: as people write it.
        media_type: of its files.
        suffixes: of the names of its files, in lower case.
        matches: tells by a file's first bytes whether it is one.
        inspect: makes of a file what a decoder may read; see `app.imaging.inspection`.
        plugins: read it; Pillow would import all its forty when the first file asks for one.
        can_reduce: whether its decoder can make a picture of fewer pixels, for less.
        is_sparse: whether empty pages may have next to no bytes, because they cost a decoder as little, or because
            the inspection has a tighter bound; decided by the opened file.
    """

    name: str
    title: str
    media_type: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    inspect: Callable[[bytes, int], bytes]
    plugins: tuple[ModuleType, ...]
    can_reduce: bool = False
    is_sparse: Callable[[Image.Image], bool] = lambda _image: False


def _starts_with(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(signatures)


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _is_avif(data: bytes) -> bool:
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return data[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)


def _is_fax(image: Image.Image) -> bool:
    return image.info.get("compression") in _FAX


_TIFF_SIGNATURES = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b")

_TABLE = (
    ImageFormat(
        "JPEG", "JPEG", "image/jpeg", (".jpg", ".jpeg"), _starts_with(b"\xff\xd8\xff"),
        inspected_jpeg, (JpegImagePlugin, MpoImagePlugin), can_reduce=True,
    ),
    ImageFormat(
        "PNG", "PNG", "image/png", (".png",), _starts_with(b"\x89PNG\r\n\x1a\n"),
        inspected_png, (PngImagePlugin,), is_sparse=lambda _image: True,
    ),
    ImageFormat("WEBP", "WebP", "image/webp", (".webp",), _is_webp, inspected_webp, (WebPImagePlugin,)),
    ImageFormat("BMP", "BMP", "image/bmp", (".bmp",), _starts_with(b"BM"), inspected_bmp, (BmpImagePlugin,)),
    ImageFormat(
        "TIFF", "TIFF", "image/tiff", (".tif", ".tiff"), _starts_with(*_TIFF_SIGNATURES),
        inspected_tiff, (TiffImagePlugin,), is_sparse=_is_fax,
    ),
    ImageFormat(
        "GIF", "GIF", "image/gif", (".gif",), _starts_with(b"GIF87a", b"GIF89a"), inspected_gif, (GifImagePlugin,)
    ),
    ImageFormat("AVIF", "AVIF", "image/avif", (".avif",), _is_avif, inspected_avif, (AvifImagePlugin,)),
)  # fmt: skip

# By their names; Pillow can be built without AVIF.
FORMATS = {entry.name: entry for entry in _TABLE if entry.name != "AVIF" or features.check("avif")}
SUFFIXES = frozenset(suffix for entry in FORMATS.values() for suffix in entry.suffixes)


def format_of(data: bytes) -> ImageFormat:
    """The format that a file's first bytes are the signature of.

    Raises:
        UnsupportedImage: none is accepted.
    """
    for entry in FORMATS.values():
        if entry.matches(data):
            return entry
    raise unsupported()


def unsupported() -> UnsupportedImage:
    """The error of a file in no accepted format."""
    names = ", ".join(FORMATS)
    return UnsupportedImage(
        f"the file is not a picture in an accepted format ({names}); its first bytes decide, not its name or type",
        expected=names,
    )


def titles() -> str:
    """All formats in words."""
    *most, last = (entry.title for entry in FORMATS.values())
    return f"{', '.join(most)} or {last}"
