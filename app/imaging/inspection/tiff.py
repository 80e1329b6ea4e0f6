"""TIFF: the tags of its first page that its pixels and its orientation need, and what strips and tiles may cost."""

import struct
from dataclasses import dataclass

from app.errors import ImageUnreadable
from app.imaging.inspection.limits import MAX_METADATA_BYTES, check_passes, check_pixels, cut_short, too_many

MAX_ENTRIES = 1 << 12
# More rows than any usual picture has; a raw strip costs its reader some ten microseconds.
MAX_STRIPS = 1 << 16
# Strips may overlap, and tiles reach beyond the picture.
MAX_COVERAGE = 4
FREE_TILE_PIXELS = 1 << 24

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PLANAR = 256, 257, 258, 259, 277, 284
_STRIP_OFFSETS, _ROWS, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_XMP, _JPEG_TABLES = 700, 347
_TABLES = {_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES}
_KEPT = {
    *range(254, 260), 262, 266, _STRIP_OFFSETS, 274, _SAMPLES, _ROWS, _STRIP_BYTES, 282, 283, _PLANAR, 292, 293, 296,
    301, 317, 320, *range(_TILE_WIDTH, _TILE_BYTES + 1), 332, 338, 339, _JPEG_TABLES, *range(512, 522),
    *range(529, 533), _XMP,
}  # fmt: skip
_RAW, _JPEG = 1, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}


@dataclass(frozen=True, slots=True)
class _Page:
    """The first directory.

    Attributes:
        data: the whole file.
        order: of the bytes, as `struct` writes it.
        big: whether it is a BigTIFF.
        entries: the kept ones as stored, by their tag.
    """

    data: bytes
    order: str
    big: bool
    entries: dict[int, bytes]

    def values(self, tag: int) -> tuple[int, ...]:
        """The integers of a tag, none where it has none or they are not all there."""
        kind, count, at, inline = _parsed(self.entries.get(tag, b""), self.order)
        if kind not in _INTEGERS:
            return ()
        source = inline if count * _SIZES[kind] <= len(inline) else self.data[at : at + count * _SIZES[kind]]
        whole = min(count, len(source) // _SIZES[kind])
        return struct.unpack_from(f"{self.order}{whole}{_INTEGERS[kind]}", source)

    def value(self, tag: int, default: int) -> int:
        """The first of them."""
        return next(iter(self.values(tag)), default)


def inspected_tiff(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`.

    The page's directory is written anew, behind the file as it was, so that all offsets in it still hold.
    """
    page = _first_page(data)
    width, height = page.value(_WIDTH, 0), page.value(_HEIGHT, 0)
    check_pixels(width, height, max_pixels)
    _check_tiles(page, width, height)
    if page.value(_COMPRESSION, _RAW) != _RAW:
        _check_strips(page, width, height, max_pixels)
    elif width * height * page.value(_BITS, 1) * page.value(_SAMPLES, 1) // 8 > len(data):
        raise cut_short("TIFF")
    padding = bytes(-len(data) % 16)
    at = len(data) + len(padding)
    head = struct.pack(f"{page.order}Q" if page.big else f"{page.order}L", at)
    count = struct.pack(f"{page.order}Q" if page.big else f"{page.order}H", len(page.entries))
    start = 8 if page.big else 4
    return b"".join(
        [data[:start], head, data[start + len(head) :], padding, count, *page.entries.values(), bytes(len(head))]
    )


def _first_page(data: bytes) -> _Page:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    entry_bytes = 20 if big else 12
    try:
        (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}L", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    except (struct.error, OverflowError):
        raise cut_short("TIFF") from None
    if count > MAX_ENTRIES:
        raise too_many("TIFF", "entries in its directory", MAX_ENTRIES)
    at += 8 if big else 2
    if at + count * entry_bytes > len(data):
        raise cut_short("TIFF")
    entries: dict[int, bytes] = {}
    for begin in range(at, at + count * entry_bytes, entry_bytes):
        entry = data[begin : begin + entry_bytes]
        (tag,) = struct.unpack_from(f"{order}H", entry)
        # Of two the first counts.
        if tag in _KEPT and tag not in entries and _is_fit(tag, entry, order):
            entries[tag] = entry
    return _Page(data, order, big, entries)


def _is_fit(tag: int, entry: bytes, order: str) -> bool:
    kind, count, _, _ = _parsed(entry, order)
    if tag in {_XMP, _JPEG_TABLES}:
        return count * _SIZES.get(kind, 1) <= MAX_METADATA_BYTES
    if count > MAX_STRIPS:
        # Colour maps have as many values for each of three colours.
        if tag in _TABLES:
            raise too_many("TIFF", "strips or tiles", MAX_STRIPS)
        return count <= 3 * MAX_STRIPS
    return True


def _parsed(entry: bytes, order: str) -> tuple[int, int, int, bytes]:
    """Type, count, offset of the values, and the values where they need no offset."""
    if not entry:
        return 0, 0, 0, b""
    _, kind, count, at = struct.unpack(f"{order}HHQQ" if len(entry) == 20 else f"{order}HHLL", entry)
    return kind, count, at, entry[12:] if len(entry) == 20 else entry[8:]


def _check_tiles(page: _Page, width: int, height: int) -> None:
    across, down = page.value(_TILE_WIDTH, 0), page.value(_TILE_HEIGHT, 0)
    if across and down:
        covered = -(-width // across) * across * -(-height // down) * down
        if covered > max(MAX_COVERAGE * width * height, FREE_TILE_PIXELS):
            raise ImageUnreadable(
                f"the TIFF file's tiles of {across} x {down} pixels cover {covered:,} pixels, and its picture has "
                f"{width} x {height}; at most {MAX_COVERAGE} times the picture's pixels are accepted"
            )


def _check_strips(page: _Page, width: int, height: int, max_pixels: int) -> None:
    """Compressed strips are read to their end, however little comes of it."""
    offsets = page.values(_TILE_OFFSETS) or page.values(_STRIP_OFFSETS)
    lengths = page.values(_TILE_BYTES) or page.values(_STRIP_BYTES)
    size = len(page.data)
    # What is not said, the decoder takes for all there is.
    lengths = tuple(min(length or size, size) for length in lengths[: len(offsets)])
    total = sum(lengths) + size * (len(offsets) - len(lengths))
    if len(offsets) > 1 and total > MAX_COVERAGE * size:
        raise ImageUnreadable(
            f"the TIFF file's strips or tiles have {total:,} bytes, and the file has {size:,}; they may overlap to at "
            f"most {MAX_COVERAGE} times its size"
        )
    if page.value(_COMPRESSION, _RAW) == _JPEG:
        ends = map(sum, zip(offsets, lengths, strict=False))
        scans = [page.data.count(b"\xff\xda", at, end) for at, end in zip(offsets, ends, strict=False)]
        each = (page.value(_TILE_WIDTH, 0) or width) * (
            page.value(_TILE_HEIGHT, 0) or min(page.value(_ROWS, height), height)
        )
        check_passes("TIFF", sum(scans), each, max_pixels)
