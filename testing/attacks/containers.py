"""The containers of the accepted formats, taken apart and put together again with the sums and lengths that they need.

A part is a kind and its payload. What a mutation does to the parts of a file, its decoder then finds behind a sound
check sum, and not before it.
"""

import struct
import zlib
from dataclasses import dataclass

PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_BARE = {0x01, *range(0xD0, 0xDA)}
_BOXES_OF_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"iprp", b"ipco", b"edts"}


@dataclass(slots=True)
class Part:
    """A chunk, segment, block or box.

    Attributes:
        kind: its type, as stored.
        payload: what its length counts; of a box of boxes, the boxes.
    """

    kind: bytes
    payload: bytes


def split_png(data: bytes) -> list[Part]:
    """The chunks of a PNG."""
    parts, at = [], len(PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def join_png(parts: list[Part]) -> bytes:
    """A PNG with right lengths and check sums."""
    chunks = []
    for part in parts:
        body = part.kind + part.payload
        chunks.append(struct.pack(">I", len(part.payload)) + body + struct.pack(">I", zlib.crc32(body)))
    return PNG_START + b"".join(chunks)


def split_jpeg(data: bytes) -> list[Part]:
    """The segments of a JPEG; entropy-coded data is a part of the kind of nothing."""
    parts, at = [Part(data[:2], b"")], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in {0x00, 0xFF}:
            end = at + 1
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in {0x00, *range(0xD0, 0xD8)}):
                end += 1
            parts.append(Part(b"", data[at:end]))
            at = end
        elif data[at + 1] in _JPEG_BARE:
            parts.append(Part(data[at : at + 2], b""))
            at += 2
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            parts.append(Part(data[at : at + 2], data[at + 4 : at + 2 + length]))
            at += 2 + length
    return [*parts, Part(b"", data[at:])]


def join_jpeg(parts: list[Part]) -> bytes:
    """A JPEG with right lengths."""
    pieces = []
    for part in parts:
        has_length = len(part.kind) == 2 and part.kind[1] not in _JPEG_BARE
        pieces.append(
            part.kind + (struct.pack(">H", min(len(part.payload) + 2, 65535)) if has_length else b"") + part.payload
        )
    return b"".join(pieces)


def split_riff(data: bytes) -> list[Part]:
    """The chunks of a WebP."""
    parts, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts.append(Part(data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def join_riff(parts: list[Part]) -> bytes:
    """A WebP with right lengths."""
    chunks = (
        part.kind + struct.pack("<I", len(part.payload)) + part.payload + bytes(len(part.payload) % 2) for part in parts
    )
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def split_boxes(data: bytes) -> list[Part]:
    """The boxes of an AVIF, or those in a box."""
    parts, at = [], 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + length if length >= 8 else len(data)
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : end]))
        at = end
    return parts


def join_boxes(parts: list[Part]) -> bytes:
    """Boxes with right lengths; the offsets in them are those of the file as it was."""
    return b"".join(struct.pack(">I", len(part.payload) + 8) + part.kind + part.payload for part in parts)


def head_of_boxes(part: Part) -> int | None:
    """How many bytes stand before the boxes in a box; None where it holds no boxes."""
    if part.kind in _BOXES_OF_BOXES:
        return 0
    return 4 if part.kind == b"meta" else None


def split_gif(data: bytes) -> list[Part]:
    """Header, extensions and pictures of a GIF; a part of the kind of nothing is written as it is."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts = [Part(b"", data[:at])]
    while at + 10 < len(data) and data[at : at + 1] in {b"!", b","}:
        start = at
        if data[at : at + 1] == b"!":
            at += 2
        else:
            at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        parts.append(Part(data[start : start + 1], data[start + 1 : at]))
    return [*parts, Part(b"", data[at:])]


def join_plain(parts: list[Part]) -> bytes:
    """Parts that know their own ends."""
    return b"".join(part.kind + part.payload for part in parts)
