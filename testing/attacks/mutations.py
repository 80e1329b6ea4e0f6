"""Pictures made worse: by bytes that know nothing of formats, and by hands that know them well."""

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Literal

from testing.attacks.containers import (
    PNG_START,
    Part,
    head_of_boxes,
    join_boxes,
    join_jpeg,
    join_plain,
    join_png,
    join_riff,
    split_boxes,
    split_gif,
    split_jpeg,
    split_png,
    split_riff,
)

_Order = Literal["big", "little"]
_ORDERS: tuple[_Order, ...] = ("big", "little")

Step = Callable[[Random, bytes, Sequence[bytes]], bytes]

# Where counts overflow, signs turn, and limits of this service and of the formats lie.
_NUMBERS = (
    *(0, 1, 2, 7, 8, 9, 24, 0x7F, 0x80, 0xFF, 0x100, 3000, 8000),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x1000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
)
_MOST_BYTES = 1 << 19


def mutated(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A file after one to five mutations.

    Args:
        chance: decides which.
        data: a sound file.
        others: sound files of all formats, to splice with.
    """
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        data = chance.choice(_BLIND if chance.randrange(3) == 0 else _knowing(data))(chance, data, others)
        data = data[:_MOST_BYTES]
    return data


def _knowing(data: bytes) -> Sequence[Step]:
    """The mutations that understand a file."""
    if data.startswith(PNG_START):
        return (_png_parts, _png_parts, _png_lines, _png_bomb)
    if data.startswith(b"\xff\xd8"):
        return (_jpeg_parts, _jpeg_parts, _jpeg_scans)
    if data.startswith(b"RIFF"):
        return (_riff_parts,)
    if data[4:8] == b"ftyp":
        return (_boxes,)
    if data[:2] in {b"II", b"MM"}:
        return (_tiff_entry, _tiff_entry, _tiff_directory)
    if data.startswith(b"GIF") and len(data) > 13:
        return (_gif_parts, _gif_header)
    if data.startswith(b"BM"):
        return (_bmp_header,)
    return _BLIND


def _place(chance: Random, data: bytes) -> int:
    """Headers are short and hold what is worth breaking: half of all places lie there."""
    return chance.randrange(1 + (min(len(data), 160) if chance.randrange(2) else len(data)))


def _range(chance: Random, data: bytes) -> tuple[int, int]:
    first, second = _place(chance, data), _place(chance, data)
    return min(first, second), max(first, second)


def _noise(chance: Random, most: int) -> bytes:
    return chance.randbytes(chance.choice((1, 2, 4, 16, most)))


def _flip(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    flipped = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        flipped[min(_place(chance, data), len(flipped) - 1)] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    return data[: _place(chance, data)]


def _insert(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    at = _place(chance, data)
    return data[:at] + _noise(chance, 500) + data[at:]


def _remove(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    start, end = _range(chance, data)
    return data[:start] + data[end:]


def _repeat(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    start, end = _range(chance, data)
    return data[:end] + data[start:end] * chance.choice((1, 2, 50)) + data[end:]


def _swap(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    first, second, third = sorted(_place(chance, data) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _number(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    return _with_number(chance, data, _place(chance, data), chance.choice((1, 2, 4, 8)))


def _splice(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others)
    if chance.randrange(2):
        return data + other
    return data[: _place(chance, data)] + other[_place(chance, other) :]


_BLIND: tuple[Step, ...] = (_flip, _flip, _cut, _insert, _remove, _repeat, _swap, _number, _splice)


def _with_number(chance: Random, data: bytes, at: int, width: int, order: _Order | None = None) -> bytes:
    value = chance.choice(_NUMBERS) + chance.choice((0, 0, 1, -1))
    stored = (value % (1 << 8 * width)).to_bytes(width, order if order is not None else chance.choice(_ORDERS))
    return data[:at] + stored + data[at + width :]


def _changed(chance: Random, parts: list[Part], kinds: Sequence[bytes], foreign: Sequence[Part]) -> list[Part]:
    """Parts of which one was changed, doubled, lost, moved, renamed or joined by another."""
    parts = [Part(part.kind, part.payload) for part in parts] or [Part(b"", b"")]
    index = chance.randrange(len(parts))
    part = parts[index]
    match chance.choice(("field", "field", "field", "bytes", "double", "lose", "move", "name", "new", "foreign")):
        case "field":
            at = chance.randrange(1 + min(len(part.payload), 40))
            part.payload = _with_number(chance, part.payload, at, chance.choice((1, 2, 4)))
        case "bytes":
            part.payload = chance.choice(_BLIND)(chance, part.payload, [part.payload])
        case "double":
            parts[index:index] = [part] * chance.choice((1, 2, 200))
        case "lose":
            del parts[index]
        case "move":
            parts.insert(chance.randrange(len(parts)), parts.pop(index))
        case "name":
            part.kind = chance.choice(kinds)
        case "new":
            parts.insert(index, Part(chance.choice(kinds), _noise(chance, 2000)))
        case _:
            parts.insert(index, chance.choice(foreign or parts))
    return parts


def _parts(
    split: Callable[[bytes], list[Part]], join: Callable[[list[Part]], bytes], start: bytes, kinds: Sequence[bytes]
) -> Step:
    def step(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        alike = [other for other in others if other.startswith(start)]
        foreign = split(chance.choice(alike)) if alike else []
        return join(_changed(chance, split(data), kinds, foreign))

    return step


_png_parts = _parts(
    split_png,
    join_png,
    PNG_START,
    b"IHDR PLTE IDAT IEND tRNS iCCP eXIf iTXt zTXt tEXt acTL fcTL fdAT gAMA cHRM sRGB pHYs abcd".split(),
)
_jpeg_parts = _parts(
    split_jpeg,
    join_jpeg,
    b"\xff\xd8",
    [bytes((0xFF, code)) for code in (*range(0xC0, 0xD0), 0xD8, 0xD9, *range(0xDA, 0xF0), 0xFE)],
)
_riff_parts = _parts(
    split_riff,
    join_riff,
    b"RIFF",
    (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"abcd"),
)
_BOXES = (
    b"ftyp meta mdat hdlr pitm iloc iinf infe iprp ipco ipma ispe pixi av1C colr auxC iref irot imir clap "
    b"moov trak stsz free"
).split()
_gif_parts = _parts(split_gif, join_plain, b"GIF8", (b"!", b",", b";", b"\0"))


def _png_lines(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Other bytes for the scan lines, well packed."""
    parts = split_png(data)
    packed = b"".join(part.payload for part in parts if part.kind == b"IDAT")
    try:
        lines = zlib.decompress(packed)
    except zlib.error:
        return _flip(chance, data, others)
    lines = chance.choice(_BLIND)(chance, lines, [lines])
    pixels = Part(b"IDAT", zlib.compress(lines, chance.choice((0, 1, 9))))
    at = next((index for index, part in enumerate(parts) if part.kind == b"IDAT"), 0)
    return join_png([*parts[:at], pixels, *(part for part in parts[at:] if part.kind != b"IDAT")])


@cache
def _packed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _png_bomb(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A chunk that unpacks to far more than it holds."""
    packed = _packed_zeros(chance.choice((1 << 16, 1 << 24)))
    bomb = chance.choice(
        (
            Part(b"iCCP", b"name\0\0" + packed),
            Part(b"zTXt", b"name\0\0" + packed),
            Part(b"iTXt", b"name\0\1\0\0\0" + packed),
            Part(b"IDAT", packed),
        )
    )
    parts = split_png(data)
    parts[1:1] = [bomb] * chance.choice((1, 8))
    return join_png(parts)


def _jpeg_scans(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Scans over and over, each of which goes through the whole picture."""
    parts = split_jpeg(data)
    starts = [index for index, part in enumerate(parts) if part.kind == b"\xff\xda"] or [0]
    start = chance.choice(starts)
    return join_jpeg([*parts[:-1], *parts[start : start + 2] * chance.choice((2, 300)), parts[-1]])


def _boxes(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes boxes at some depth."""
    parts = split_boxes(data)
    nested = [(part, head) for part in parts if (head := head_of_boxes(part)) is not None]
    if nested and chance.randrange(4):
        part, head = chance.choice(nested)
        part.payload = part.payload[:head] + _boxes(chance, part.payload[head:], others)
        return join_boxes(parts)
    return join_boxes(_changed(chance, parts, _BOXES, []))


# Those that steer: sizes, bits, compression, strips, tiles, samples, directories within.
_TAGS = (
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325),
    *(330, 338, 339, 347, 530, 34665, 34853, 37724),
)


def _tiff_entries(data: bytes) -> tuple[_Order, bool, int, int]:
    """Byte order, whether it is a BigTIFF, where the first directory is, and how many entries it has."""
    order: _Order = "little" if data[:2] == b"II" else "big"
    is_big = data[2:4] in {b"\x2b\x00", b"\x00\x2b"}
    at = int.from_bytes(data[8:16] if is_big else data[4:8], order)
    count = int.from_bytes(data[at : at + (8 if is_big else 2)], order)
    return order, is_big, min(at, len(data)), min(count, 100)


def _tiff_entry(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Another tag, type, count or value in an entry of the first directory."""
    order, is_big, at, count = _tiff_entries(data)
    head, size = (8, 20) if is_big else (2, 12)
    entry = at + head + size * chance.randrange(max(count, 1))
    fields = ((0, 2), (2, 2), (4, 8), (12, 8)) if is_big else ((0, 2), (2, 2), (4, 4), (8, 4))
    offset, width = chance.choice(fields)
    if offset == 0:
        return data[:entry] + chance.choice(_TAGS).to_bytes(2, order) + data[entry + 2 :]
    if offset == 2:
        return data[: entry + 2] + chance.randrange(20).to_bytes(2, order) + data[entry + 4 :]
    if chance.randrange(3) == 0:
        return data[: entry + offset] + at.to_bytes(width, order) + data[entry + offset + width :]
    return _with_number(chance, data, entry + offset, width, order)


def _tiff_directory(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Directories that are elsewhere, longer than they are, or their own successors."""
    order, is_big, at, count = _tiff_entries(data)
    head, size, width = (8, 20, 8) if is_big else (2, 12, 4)
    successor = at + head + size * count
    match chance.randrange(4):
        case 0:
            return data[:successor] + at.to_bytes(width, order) + data[successor + width :]
        case 1:
            return _with_number(chance, data, at, head, order)
        case 2:
            return _with_number(chance, data, 8 if is_big else 4, width, order)
        case _:
            entries = data[at + head : successor]
            more = (count * 9).to_bytes(head, order) + entries * 9 + data[successor:]
            return data[:at] + more


def _gif_header(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Other sizes of the screen or of a frame, other flags, another width of codes."""
    frames = [at for at in range(13, min(len(data), 4000)) if data[at : at + 1] == b","] or [6]
    at = chance.choice((6, 8, 10, 11, *(chance.choice(frames) + offset for offset in (1, 3, 5, 7, 9, 10))))
    return _with_number(chance, data, at, chance.choice((1, 2)), "little")


_BMP_FIELDS = (
    *((at, 4) for at in (2, 10, 14, 18, 22, 30, 34, 46, 50, 54)),
    *((at, 2) for at in (26, 28)),
)


def _bmp_header(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Another number in one of the fields."""
    at, width = chance.choice(_BMP_FIELDS)
    if at in {28, 30} and chance.randrange(2):
        return data[:at] + struct.pack("<H", chance.choice((1, 2, 3, 4, 6, 8, 16, 24, 32))) + data[at + 2 :]
    return _with_number(chance, data, at, width, "little")
