"""Small files that cost their reader much, one kind a function; each gives the bytes of a file."""

import struct
import zlib
from collections.abc import Iterable
from functools import cache
from io import BytesIO

from PIL import Image

from testing.attacks.containers import PNG_START, Part, join_png, join_riff, split_riff

MOST_BYTES = 32 << 20
_MANY_PIXELS = (8000, 8000)
_EOI = b"\xff\xd9"


# JPEG


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def _huffman(kind: int, *symbols: int) -> bytes:
    """A table in which the first symbol has the code 0, the second 10, the third 110, and so on."""
    counts = bytes(1 if length < len(symbols) else 0 for length in range(16))
    return _segment(0xC4, bytes([kind]) + counts + bytes(symbols))


def _jpeg_head(size: tuple[int, int], frame: int, *tables: bytes) -> bytes:
    """The start of a grey JPEG up to its scans."""
    quantization = _segment(0xDB, b"\0" + b"\1" * 64)
    return b"\xff\xd8" + quantization + _jpeg_frame(size, frame) + b"".join(tables)


def _jpeg_frame(size: tuple[int, int], frame: int) -> bytes:
    return _segment(frame, struct.pack(">BHHB", 8, size[1], size[0], 1) + b"\1\x11\0")


def _scan(first: int, last: int, bits: str = "", approximation: int = 0) -> bytes:
    padded = bits + "1" * (-len(bits) % 8)
    coded = int(padded, 2).to_bytes(len(padded) // 8, "big") if padded else b""
    return _segment(0xDA, bytes([1, 1, 0, first, last, approximation])) + coded.replace(b"\xff", b"\xff\0")


def progressive_jpeg_of_many_scans(scans: int = 5000, size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """Each scan looks for coefficients to refine in all blocks, and its some 70 bytes say that there are none."""
    blocks = -(-size[0] // 8) * (-(-size[1] // 8))
    run = "0" + "1" * 14
    tables = _huffman(0, 0), _huffman(0x10, 0xE0)
    head = _jpeg_head(size, 0xC2, *tables) + _scan(0, 0, "0" * blocks)
    return head + (scans - 1) * _scan(1, 63, run * (blocks // 32767 + 1), approximation=0x10) + _EOI


def progressive_jpeg_of_empty_scans(scans: int = 5000, size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """Scans without any data, which a decoder takes for zeros."""
    tables = _huffman(0, 0), _huffman(0x10, 0xE0)
    return _jpeg_head(size, 0xC2, *tables) + scans * _scan(0, 0) + _EOI


def arithmetic_jpeg_of_many_scans(scans: int = 5000, size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """The same, coded arithmetically."""
    return _jpeg_head(size, 0xCA) + _scan(0, 0, "0" * 32) + (scans - 1) * _scan(1, 63, "0" * 32) + _EOI


def jpeg_of_many_segments(count: int = MOST_BYTES // 4 - 100) -> bytes:
    """Comments without a word."""
    return b"\xff\xd8" + count * _segment(0xFE, b"") + _plain_jpeg()[2:]


def jpeg_of_junk(count: int = MOST_BYTES - 1000) -> bytes:
    """Bytes of no meaning between its segments."""
    return b"\xff\xd8" + _segment(0xFE, b"") + bytes(count) + _plain_jpeg()[2:]


def jpeg_of_many_marks(count: int = MOST_BYTES // 4 - 100) -> bytes:
    """Comments without a word between its scans."""
    tables = _huffman(0, 0), _huffman(0x10, 0xE0)
    return _jpeg_head((64, 64), 0xC2, *tables) + _scan(0, 0) + count * _segment(0xFE, b"") + _scan(1, 63) + _EOI


def jpeg_of_broken_exif(count: int = 500) -> bytes:
    """Segments of EXIF that together are a directory of 65,535 entries."""
    entries = b"".join(struct.pack("<HHLL", 1 + number, 4, 1, 0) for number in range(65535))
    exif = b"II\x2a\0\x08\0\0\0\xff\xff" + entries
    pieces = [exif[at : at + 65000] for at in range(0, len(exif), 65000)]
    segments = [_segment(0xE1, b"Exif\0\0" + piece) for piece in (pieces * count)[:count]]
    return b"\xff\xd8" + b"".join(segments) + _plain_jpeg()[2:]


@cache
def _plain_jpeg() -> bytes:
    return saved(Image.new("RGB", (64, 64), "teal"), "JPEG")


# PNG


def _png(size: tuple[int, int], before: Iterable[Part] = (), after: Iterable[Part] = ()) -> bytes:
    """A black grey picture with more chunks before and after its pixels."""
    header = Part(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    pixels = Part(b"IDAT", zlib.compress(bytes(size[1] * (size[0] + 1)), 9))
    return join_png([header, *before, pixels, *after, Part(b"IEND", b"")])


def _many(chunk: Part, count: int) -> bytes:
    return join_png([chunk])[len(PNG_START) :] * count


def _png_with(chunks: bytes, *, after: bool = False) -> bytes:
    whole = _png((64, 64))
    at = whole.index(b"IEND" if after else b"IDAT") - 4
    return whole[:at] + chunks + whole[at:]


def png_of_many_chunks(count: int = MOST_BYTES // 12 - 100) -> bytes:
    """Chunks of no meaning and no content."""
    return _png_with(_many(Part(b"prVt", b""), count))


def png_of_many_pieces(count: int = MOST_BYTES // 13 - 100) -> bytes:
    """Its pixels a byte a chunk, most of them of none."""
    return _png_with(_many(Part(b"IDAT", b""), count))


def png_of_many_profiles(count: int = 30_000) -> bytes:
    """Each profile is a megabyte in a kilobyte."""
    return _png_with(_many(Part(b"iCCP", b"p\0\0" + zlib.compress(bytes(1 << 20), 9)), count))


def png_of_much_text(count: int = 60, *, after: bool = False) -> bytes:
    """A megabyte of text in each kilobyte, 60 megabytes in all."""
    return _png_with(_many(Part(b"zTXt", b"k\0\0" + zlib.compress(bytes((1 << 20) - 1), 9)), count), after=after)


def png_that_is_cut_short(size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """A large picture of which some rows are there."""
    header = Part(b"IHDR", struct.pack(">IIBBBBB", *size, 16, 6, 0, 0, 1))
    return join_png([header, Part(b"IDAT", zlib.compress(bytes(1 << 20), 9)), Part(b"IEND", b"")])


def png_of_large_exif() -> bytes:
    """A directory of 65,535 entries."""
    entries = b"".join(struct.pack("<HHLL", 1 + number, 4, 1, 0) for number in range(65535))
    return _png((64, 64), [Part(b"eXIf", b"II\x2a\0\x08\0\0\0\xff\xff" + entries)])


# WebP


def lossless_webp(width: int = 16383, height: int = 3900) -> bytes:
    """One colour without end: a VP8L stream of five codes of one symbol each."""
    # signature, sizes, alpha, version; no transform, no colour cache, no meta codes; then simple codes of one 8-bit
    # symbol for green, red, blue and alpha, and one of one bit for distances.
    bits = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    for symbol in (128, 64, 32, 255):
        bits += [(1, 1), (0, 1), (1, 1), (symbol, 8)]
    bits += [(1, 1), (0, 1), (0, 1), (0, 1)]
    value = position = 0
    for field, length in bits:
        value |= field << position
        position += length
    return join_riff([Part(b"VP8L", value.to_bytes((position + 7) // 8 + 8, "little"))])


def webp_of_many_chunks(count: int = MOST_BYTES // 8 - 100) -> bytes:
    """Chunks of no meaning and no content."""
    picture = split_riff(saved(Image.new("RGB", (64, 64), "teal"), "WEBP"))
    return join_riff(
        [Part(b"VP8X", bytes(4) + (63).to_bytes(3, "little") * 2), *picture, *[Part(b"prVt", b"")] * count]
    )


def webp_of_many_frames(count: int = 300_000, size: tuple[int, int] = (64, 64)) -> bytes:
    """An animation of small frames on a canvas."""
    (frame,) = split_riff(saved(Image.new("RGB", (8, 8), "teal"), "WEBP", lossless=True))
    payload = bytes(6) + (7).to_bytes(3, "little") * 2 + bytes(4) + join_riff([frame])[12:]
    canvas = b"\2\0\0\0" + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
    return join_riff([Part(b"VP8X", canvas), Part(b"ANIM", bytes(6)), *[Part(b"ANMF", payload)] * count])


# GIF


@cache
def _plain_gif() -> bytes:
    return saved(Image.new("P", (64, 64)), "GIF")


def _gif_with(extensions: bytes) -> bytes:
    whole = _plain_gif()
    at = whole.index(b",")
    return whole[:at] + extensions + whole[at:]


def gif_of_many_blocks(count: int = MOST_BYTES // 2 - 1000) -> bytes:
    """A comment in blocks of one byte."""
    return _gif_with(b"!\xfe" + b"\1x" * count + b"\0")


def gif_of_many_extensions(count: int = MOST_BYTES // 5 - 1000) -> bytes:
    """Extensions of one byte."""
    return _gif_with(b"!\1\1x\0" * count)


def gif_of_junk(count: int = MOST_BYTES - 2000) -> bytes:
    """Bytes of no meaning before its frame."""
    return _gif_with(bytes(count))


def gif_of_clear_codes(count: int = MOST_BYTES - (1 << 20)) -> bytes:
    """Pixels that only ever begin anew: codes of nine bits that say so."""
    whole = _plain_gif()
    at = whole.index(b",") + 10
    codes = sum(256 << 9 * place for place in range(8)).to_bytes(9, "little") * (count // 9)
    blocks = b"".join(bytes([len(codes[at : at + 255])]) + codes[at : at + 255] for at in range(0, len(codes), 255))
    return whole[:at] + b"\x08" + blocks + b"\0;"


def gif_of_large_screen(size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """A small frame on a large screen."""
    small = saved(Image.new("P", (8, 8)), "GIF")
    return small[:6] + struct.pack("<HH", *size) + small[10:]


# BMP


def _bmp(size: tuple[int, int], compression: int, coded: bytes, bits: int = 8) -> bytes:
    palette = b"".join(bytes([level, 255 - level, 7, 0]) for level in range(1 << bits))
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(coded), 0, 0, 0, 0)
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(coded), 0, 0, offset) + info + palette + coded


def run_length_bmp(size: tuple[int, int] = (8_000_000, 8)) -> bytes:
    """Rows that end after one pixel."""
    return _bmp(size, 1, b"\1\1\0\0" * size[1] + b"\0\1")


def run_length_bmp_of_pairs(count: int = MOST_BYTES // 2 - 1000, size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """A pixel in every two bytes."""
    return _bmp(size, 1, b"\1\7" * count + b"\0\0" * size[1])


def run_length_bmp_of_long_runs(count: int = MOST_BYTES // 2 - 1000, size: tuple[int, int] = (8, 64)) -> bytes:
    """Runs that go far beyond their row."""
    return _bmp(size, 2, b"\xff\7" * count, 4)


def run_length_bmp_of_escapes(count: int = MOST_BYTES // 4 - 1000, size: tuple[int, int] = _MANY_PIXELS) -> bytes:
    """Steps that lead nowhere."""
    return _bmp(size, 1, b"\0\2\0\0" * count)


def bmp_of_one_row(size: tuple[int, int] = (8_000_000, 8)) -> bytes:
    """One row of eight, of nearly all bytes."""
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 32, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + info + bytes(4 * size[0] - 1)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    """The file that Pillow makes of a picture."""
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()
