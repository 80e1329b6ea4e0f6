"""WebP: its first picture, and which way up that is."""

import struct

from app.imaging.inspection.limits import MAX_METADATA_BYTES, MAX_PARTS, check_claim, check_pixels, cut_short, too_many

_HEAD = struct.Struct("<4sI")
_PICTURES = {b"VP8 ", b"VP8L", b"ANMF"}
_METADATA = {b"EXIF", b"XMP "}
_HAS_PROFILE = 0x20


def inspected_webp(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`; the canvas is checked here because Pillow allocates it on opening."""
    chunks = _chunks(data)
    first, payload = next(iter(chunks.items()), (b"", b""))
    width, height = _size(first, payload)
    check_pixels(width, height, max_pixels)
    check_claim("WEBP", width * height, len(data))
    if first == b"VP8X":
        chunks[first] = bytes([payload[0] & ~_HAS_PROFILE]) + payload[1:]
    else:
        chunks = {first: payload}
    body = b"".join(
        _HEAD.pack(kind, len(payload)) + payload + bytes(len(payload) % 2) for kind, payload in chunks.items()
    )
    return _HEAD.pack(b"RIFF", 4 + len(body)) + b"WEBP" + body


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Those of the first picture, and of what tells which way up it is."""
    kept: dict[bytes, bytes] = {}
    at, end, has_picture = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")), False
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return kept
        kind, length = _HEAD.unpack_from(data, at)
        at += 8
        is_metadata = kind in _METADATA and length <= MAX_METADATA_BYTES
        if kind not in kept and (is_metadata or (not has_picture and kind in {b"VP8X", b"ANIM", b"ALPH", *_PICTURES})):
            if at + length > len(data):
                raise cut_short("WEBP")
            kept[kind] = data[at : at + length]
            has_picture = has_picture or kind in _PICTURES
        at += length + length % 2
    raise too_many("WEBP", "chunks", MAX_PARTS)


def _size(kind: bytes, payload: bytes) -> tuple[int, int]:
    """The (width, height) in px that the first chunk claims."""
    if kind == b"VP8X" and len(payload) >= 10:
        return 1 + int.from_bytes(payload[4:7], "little"), 1 + int.from_bytes(payload[7:10], "little")
    if kind == b"VP8L" and len(payload) >= 5:
        sizes = int.from_bytes(payload[1:5], "little")
        return 1 + (sizes & 0x3FFF), 1 + (sizes >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(payload) >= 10:
        return int.from_bytes(payload[6:8], "little") & 0x3FFF, int.from_bytes(payload[8:10], "little") & 0x3FFF
    raise cut_short("WEBP")
