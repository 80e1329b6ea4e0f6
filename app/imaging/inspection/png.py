"""PNG: its header, palette and pixels, and which way up it is."""

import struct
import zlib

from app.imaging.inspection.limits import MAX_METADATA_BYTES, MAX_PARTS, check_pixels, cut_short, too_many

# No compressed stream can yield more: deflate repeats 258 bytes in two bits.
_MOST_INFLATED = 1032
_HEAD = struct.Struct(">I4s")
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_KEPT = {b"PLTE", b"tRNS", b"eXIf"}
# Programs write into texts of these names which way up the picture is.
_TEXTS = {b"tEXt": b"Raw profile type exif\0", b"zTXt": b"Raw profile type exif\0", b"iTXt": b"XML:com.adobe.xmp\0"}


def inspected_png(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise cut_short("PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    check_pixels(width, height, max_pixels)
    before, pixels, after = _chunks(data)
    length = sum(map(len, pixels))
    if width * height * depth * _SAMPLES.get(colour, 1) // 8 > _MOST_INFLATED * (length + 16):
        raise cut_short("PNG")
    # Nobody looks at the check sum of pixels.
    whole: list[bytes | memoryview] = [
        data[:33],
        *before.values(),
        _HEAD.pack(length, b"IDAT"),
        *pixels,
        bytes(4),
        *after.values(),
        _END,
    ]
    return b"".join(whole)


def _chunks(data: bytes) -> tuple[dict[bytes, bytes], list[memoryview], dict[bytes, bytes]]:
    """What is kept of the chunks before the pixels, the pixels' pieces, and what is kept of those behind."""
    view = memoryview(data)
    before: dict[bytes, bytes] = {}
    after: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    at = 33
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        length, kind = _HEAD.unpack_from(data, at)
        if kind == b"IDAT":
            pixels.append(view[at + 8 : at + 8 + length])
        elif kind == b"IEND" or not kind.isalpha():
            break
        elif length <= MAX_METADATA_BYTES and (kind in _KEPT or _tells_orientation(kind, data, at + 8, length)):
            (after if pixels else before)[kind] = data[at : at + 12 + length]
        at += 12 + length
    else:
        raise too_many("PNG", "chunks", MAX_PARTS)
    return before, pixels, after


def _tells_orientation(kind: bytes, data: bytes, at: int, length: int) -> bool:
    name = _TEXTS.get(kind)
    if name is None or not data.startswith(name, at):
        return False
    if kind == b"zTXt":
        return _inflates_to_little(data[at + len(name) + 1 : at + length])
    # An international text says whether it is compressed, and how, and then has a language and a keyword.
    text = data[at + len(name) : at + length]
    return kind == b"tEXt" or text[:1] == b"\0" or _inflates_to_little(text[2:].split(b"\0", 2)[-1])


def _inflates_to_little(compressed: bytes) -> bool:
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(compressed, MAX_METADATA_BYTES - 1)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail
