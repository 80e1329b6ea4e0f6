"""AVIF: how many items, tables and boxes it has, and how large its coded pictures are, whatever the container says."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.errors import ImageUnreadable
from app.imaging.inspection.av1 import frames_of
from app.imaging.inspection.limits import check_pixels, cut_short, too_many

MAX_BOXES = 1 << 12
# 64 megapixels in tiles of 512 x 512 are 244, with as many for what is transparent.
MAX_ITEMS = 1 << 10
MAX_EXTENTS = 1 << 12
# References and groups name an item in two or four bytes; names of items that are not there cost as much.
MAX_REFERENCE_BYTES = 1 << 14
MAX_TABLE_ENTRIES = 1 << 16
# Each chunk of a sequence is looked up in the table of runs of chunks, from its end.
MAX_LOOKUPS = 1 << 24
# All coded pictures together, in pictures of the largest size: colours, transparency, a depth or gain map, layers.
MAX_LAYERS = 4
# Extents may overlap.
MAX_COVERAGE = 4

# How many bytes stand before the boxes in a box, and before the count of a table.
_BEFORE_BOXES = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"iprp": 0, b"ipco": 0, b"meta": 4}
_BEFORE_COUNT = {b"stts": 4, b"stss": 4, b"stco": 4, b"co64": 4, b"stsc": 4, b"stsz": 8, b"stsd": 4}
_ONCE = {b"iinf", b"iloc", b"iref", b"idat", *_BEFORE_COUNT}


@dataclass(frozen=True, slots=True)
class _Box:
    """A box.

    Attributes:
        kind: its type.
        parent: where the content of the box begins that it is in, 0 for the file.
        begin: where its content begins.
        end: where it ends.
    """

    kind: bytes
    parent: int
    begin: int
    end: int


def inspected_avif(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`."""
    siblings: dict[int, dict[bytes, _Box]] = {}
    for box in _walk(data):
        family = siblings.setdefault(box.parent, {})
        if box.kind in family and box.kind in _ONCE:
            raise cut_short("AVIF")
        family[box.kind] = box
    total = 0
    for family in siblings.values():
        for coded in [*_coded_items(data, family), *_first_sample(data, family)]:
            frames = frames_of(coded)
            check_pixels(frames.width, frames.height, max_pixels)
            total += frames.pixels
    if total > MAX_LAYERS * max_pixels:
        raise ImageUnreadable(
            f"the AVIF file has {total:,} pixels in all its coded pictures; at most {MAX_LAYERS * max_pixels:,} are "
            "accepted"
        )
    return data


def _walk(data: bytes) -> list[_Box]:
    """All boxes that are of interest, each before those in it; what they count is checked."""
    found: list[_Box] = []
    waiting = [(0, 0, len(data))]
    while waiting:
        parent, begin, end = waiting.pop()
        for box in _boxes(data, parent, begin, end):
            found.append(box)
            if len(found) > MAX_BOXES:
                raise too_many("AVIF", "boxes", MAX_BOXES)
            _check_counts(data, box)
            if box.kind in _BEFORE_BOXES:
                waiting.append((box.begin, box.begin + _BEFORE_BOXES[box.kind], box.end))
    return found


def _boxes(data: bytes, parent: int, at: int, end: int) -> Iterator[_Box]:
    while at + 8 <= end:
        size, kind = struct.unpack_from(">L4s", data, at)
        begin = at + 8
        if size == 1:
            size = int.from_bytes(data[begin : begin + 8], "big")
            begin += 8
        last = at + size if size else end
        if last < begin or last > end:
            if parent:
                raise cut_short("AVIF")
            # A decoder reads no further than it needs.
            return
        yield _Box(kind, parent, begin, last)
        at = last


def _check_counts(data: bytes, box: _Box) -> None:
    if box.kind in _BEFORE_COUNT:
        if _number(data, box.begin + _BEFORE_COUNT[box.kind], 4) > MAX_TABLE_ENTRIES:
            raise too_many("AVIF", "entries in a table of its sequence", MAX_TABLE_ENTRIES)
    elif box.kind in {b"iref", b"grpl"} and box.end - box.begin > MAX_REFERENCE_BYTES:
        raise too_many("AVIF", "bytes of references between its items", MAX_REFERENCE_BYTES)
    elif box.kind in {b"iinf", b"ipma"}:
        wide = data[box.begin] if box.kind == b"iinf" and box.begin < box.end else 1
        if _number(data, box.begin + 4, 4 if wide else 2) > MAX_ITEMS:
            raise too_many("AVIF", "items", MAX_ITEMS)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _coded_items(data: bytes, family: dict[bytes, _Box]) -> Iterator[bytes]:
    """The coded pictures of the items in a meta box."""
    if not {b"iinf", b"iloc"} <= family.keys():
        return
    pictures = set(_picture_ids(data, family[b"iinf"]))
    idat = family.get(b"idat")
    left = MAX_COVERAGE * len(data)
    for item, is_in_idat, extents in _locations(data, family[b"iloc"]):
        if item not in pictures:
            continue
        start, end = (idat.begin, idat.end) if is_in_idat and idat else (0, len(data))
        pieces = [data[min(start + at, end) : min(start + at + (size or end), end)] for at, size in extents]
        left -= sum(map(len, pieces))
        if left < 0:
            raise ImageUnreadable(
                f"the AVIF file's items overlap; they may have at most {MAX_COVERAGE} times the bytes of the file"
            )
        yield b"".join(pieces)


def _picture_ids(data: bytes, iinf: _Box) -> Iterator[int]:
    for entry in _boxes(data, iinf.begin, iinf.begin + (8 if data[iinf.begin] else 6), iinf.end):
        id_bytes = 4 if data[entry.begin] == 3 else 2
        kind_at = entry.begin + 4 + id_bytes + 2
        if data[kind_at : kind_at + 4] == b"av01":
            yield _number(data, entry.begin + 4, id_bytes)


def _locations(data: bytes, iloc: _Box) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """Of each item its number, whether it is in the meta box, and offset and length of its extents."""
    fields = _Fields(data, iloc)
    version = fields.take(4) >> 24
    sizes = fields.take(2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    count = fields.take(2 if version < 2 else 4)
    if count > MAX_ITEMS:
        raise too_many("AVIF", "items", MAX_ITEMS)
    extents_left = MAX_EXTENTS
    for _ in range(count):
        item = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        fields.take(2)
        base, extents = fields.take(base_bytes), []
        extent_count = fields.take(2)
        extents_left -= extent_count
        if extents_left < 0:
            raise too_many("AVIF", "extents of its items", MAX_EXTENTS)
        for _ in range(extent_count):
            fields.take(index_bytes if version else 0)
            extents.append((base + fields.take(offset_bytes), fields.take(length_bytes)))
        yield item, method == 1, extents


def _first_sample(data: bytes, family: dict[bytes, _Box]) -> Iterable[bytes]:
    """The coded picture that a track begins with."""
    chunks, sizes = family.get(b"stco") or family.get(b"co64"), family.get(b"stsz")
    if chunks is None or sizes is None:
        return
    runs = family.get(b"stsc")
    if runs is not None and _number(data, runs.begin + 4, 4) * _number(data, chunks.begin + 4, 4) > MAX_LOOKUPS:
        raise too_many("AVIF", "look-ups in the tables of its sequence", MAX_LOOKUPS)
    at = _number(data, chunks.begin + 8, 4 if chunks.kind == b"stco" else 8)
    size = _number(data, sizes.begin + 4, 4) or _number(data, sizes.begin + 12, 4)
    yield data[at : at + size]


class _Fields:
    """Reads numbers from a box, one behind the other."""

    def __init__(self, data: bytes, box: _Box) -> None:
        self._data = data
        self._at = box.begin
        self._end = box.end

    def take(self, size: int) -> int:
        """The next bytes as a number."""
        if self._at + size > self._end:
            raise cut_short("AVIF")
        self._at += size
        return _number(self._data, self._at - size, size)
