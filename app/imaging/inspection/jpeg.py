"""JPEG: the tables and scans of its first picture, and which way up that is."""

import re
from collections.abc import Iterator

from app.errors import ImageUnreadable
from app.imaging.inspection.limits import MAX_METADATA_BYTES, check_passes, check_pixels, cut_short, too_many

# Files of 32 MiB in full segments have 512.
MAX_SEGMENTS = 1 << 12
MAX_SCANS = 100
# A few kilobytes are usual.
MAX_TABLE_BYTES = 1 << 16
# A scan of arithmetic codes takes this many times as long as one of Huffman codes.
ARITHMETIC_PASSES = 4

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = {*range(0xC9, 0xD0)} - {0xCC}
_DHT, _DAC, _SOI, _EOI, _SOS, _DQT, _DNL, _DRI, _COM = 0xC4, 0xCC, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE
_APPS = range(0xE0, 0xF0)
_TABLES = {_DHT, _DAC, _DQT, _DRI, *_SOF}
# Restart marks belong to the pixels, as 0xFF00 does; below 0xC0 nothing is defined that has a meaning.
_MARK = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")

_JFIF = 0xE0, b"JFIF\0"
_ADOBE = 0xEE, b"Adobe"
_EXIF = 0xE1, b"Exif\0\0"
_XMP = 0xE1, b"http://ns.adobe.com/xap/1.0/\0"


def inspected_jpeg(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`."""
    head, frame, begin = _head(data)
    width, height = int.from_bytes(frame[7:9], "big"), int.from_bytes(frame[5:7], "big")
    check_pixels(width, height, max_pixels)
    scans, end = _scans(data, begin)
    passes = scans * (ARITHMETIC_PASSES if frame[1] in _ARITHMETIC else 1)
    check_passes("JPEG", passes, width * height, max_pixels)
    return b"".join([b"\xff\xd8", *head, data[begin:end]])


def _head(data: bytes) -> tuple[list[bytes], bytes, int]:
    """The segments before the first scan that are needed, the one with the size, and where the scan begins."""
    kept: list[bytes] = []
    frame, tables_left, metadata_left = b"", MAX_TABLE_BYTES, MAX_METADATA_BYTES
    for mark, begin, end in _segments(data, 2):
        if mark == _SOS and frame:
            return kept, frame, begin
        if mark in _TABLES:
            kept.append(data[begin:end])
            frame = kept[-1] if mark in _SOF else frame
            tables_left -= end - begin
        elif any(mark == app and data.startswith(name, begin + 4) for app, name in (_JFIF, _ADOBE)):
            kept.append(data[begin:end])
        elif any(mark == app and data.startswith(name, begin + 4) for app, name in (_EXIF, _XMP)):
            metadata_left -= end - begin
            if metadata_left >= 0:
                kept.append(data[begin:end])
        elif mark not in {_DNL, _COM, *_APPS}:
            break
        if tables_left < 0:
            raise ImageUnreadable(f"the JPEG file has more than {MAX_TABLE_BYTES:,} bytes of tables before its pixels")
    raise cut_short("JPEG")


def _scans(data: bytes, begin: int) -> tuple[int, int]:
    """How many scans there are, and where the last one ends."""
    scans = 0
    for mark, start, _ in _segments(data, begin):
        if mark == _EOI:
            return scans, start + 2
        if mark == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise too_many("JPEG", "scans", MAX_SCANS)
    return scans, len(data)


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment, and its first and last byte; pixels between segments are stepped over."""
    for _ in range(MAX_SEGMENTS):
        found = _MARK.search(data, at)
        if found is None:
            return
        mark, begin = found[1][0], found.start()
        at = begin + 2
        if (mark not in {_SOI, _EOI} and mark < 0xF0) or mark == _COM:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if at > len(data):
            return
        yield mark, begin, at
    raise too_many("JPEG", "segments", MAX_SEGMENTS)
