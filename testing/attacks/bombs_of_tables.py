"""Small files of tables and boxes (TIFF, AVIF) that cost their reader much; see `testing.attacks.bombs`."""

import base64
import struct
import zlib
from collections.abc import Iterable
from functools import cache

from PIL import Image

from testing.attacks.bombs import MOST_BYTES, progressive_jpeg_of_many_scans, saved
from testing.attacks.containers import Part, join_boxes, split_boxes

# TIFF


def _tiff(entries: Iterable[tuple[int, int, int, int]], data: bytes, *, big: bool = False) -> bytes:
    """A TIFF of entries (tag, type, count, value or offset) behind its data, whose offset is 16."""
    entry = "<HHQQ" if big else "<HHLL"
    directory = [struct.pack(entry, *fields) for fields in entries]
    at = 16 + len(data)
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHLQ", b"II", 42, at, 0)
    count = struct.pack("<Q" if big else "<H", len(directory))
    return head + data + count + b"".join(directory) + bytes(8)


def tiff_of_many_strips(count: int = MOST_BYTES // 4 - 1000, *, compression: int = 1) -> bytes:
    """A table of millions of strips for eight rows."""
    table = struct.pack("<L", 16) * count
    shared = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return _tiff([*shared, (273, 4, count, 16), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, 16)], table)


def tiff_of_many_entries(count: int = 1_500_000) -> bytes:
    """A directory of a million tags."""
    shared = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 16)]
    return _tiff([*shared, *((300 + number % 65000, 4, 1, 0) for number in range(count))], bytes(64 * 64), big=True)


def tiff_of_overlapping_strips(count: int = 60_000, *, compression: int = 5, chunk: int = 4 << 20) -> bytes:
    """Strips of a row each that share their bytes, which decode to nothing."""
    nothing = bytes.fromhex("804020100804020100") if compression == 5 else bytes.fromhex("000000ffff")
    coded = (b"" if compression == 5 else b"\x78\x9c") + nothing * (chunk // len(nothing))
    tables = struct.pack("<L", 16) * count + struct.pack("<L", len(coded)) * count
    at = 16 + len(coded)
    shared = [(256, 4, 1, 976), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    strips = [(273, 4, count, at), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, at + 4 * count)]
    return _tiff([*shared, *strips], coded + tables)


def tiff_of_one_row(size: tuple[int, int] = (8_000_000, 8)) -> bytes:
    """Rows that all lie in the same bytes."""
    row = bytes(4 * size[0] - 1000)
    at = 16 + len(row)
    tables = struct.pack("<L", 16) * size[1] + struct.pack("<4H", 8, 8, 8, 8)
    shared = [(256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, 4, at + 4 * size[1]), (259, 3, 1, 1)]
    strips = [(262, 3, 1, 5), (273, 4, size[1], at), (277, 3, 1, 4), (278, 4, 1, 1)]
    return _tiff([*shared, *strips], row + tables)


def tiff_of_large_tile(side: int = 65_520) -> bytes:
    """A small picture in one tile of gigabytes."""
    coded = zlib.compress(bytes(32 << 20), 9) * 8
    shared = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 16), (325, 4, 1, len(coded))]
    return _tiff([*shared, *tiles], coded)


def tiff_of_progressive_jpegs(scans: int = 90, rows: int = 64, count: int = 100) -> bytes:
    """Strips that share one progressive JPEG."""
    coded = progressive_jpeg_of_many_scans(scans, (8000, rows))
    tables = struct.pack("<L", 16) * count + struct.pack("<L", len(coded)) * count
    at = 16 + len(coded)
    shared = [(256, 4, 1, 8000), (257, 4, 1, count * rows), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1)]
    strips = [(273, 4, count, at), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, at + 4 * count)]
    return _tiff([*shared, *strips], coded + tables)


# AVIF


# A picture of 12000 x 12000 px in one colour, as Pillow writes it in half a minute.
_LARGE_AVIF_SIDE = 12_000
_LARGE_AVIF = (
    b"c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^nKdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_h`@fjhajKT~I"
    b"Y;%BYjm*rvG`LzRASaax%1bOWFm%q($p_n&m03_!0HnP$3zGAJv`A)gK`O*Ly$2A?AW)E5kqHuE=HTD}Qap)ehR%)hJRl+A<oukX"
    b"yyTn;pvk-pYz;sm@yvo;n4f?SV_{@!W&yftNp4DFi4X%9xBU0K`@3rwF-h@q7<KUqc)GW@DYnn6eAeW^z>sqOjH}W<<4F-rPp5=G"
    b"RWDz?;bx?qdD3TxqUuulXC_-dup~)534bM}=JL<7Jtj-8ZdyaZt98z|uGubO)%+WCpqpuTNVVF%=#RaV8&)rj+suBjn1gef%A4~U"
    b"%ckwo=zr65yZB<prL^;Bg5oC5U9z&I^q%0{C*iB7<y=;)<cn%{Xj?p?(s9R)R4>VyLRyTjhS}L^N4-x*E^ynpx%#x5ujLBHO&{-7"
    b"c%2G*U>*DBHm7%2PTgXj1)fncs_yqMq<w5&rxMaSGvD!Ina1(HiD`q^9uIc65-&EtjXL+GoP3*C-|G^3d#gA9?X*v8oZq}GYB+X("
    b"O6>oOHJA3c=UlCg_HFmO)vDerRWKTEqwzBuKZ8Dg77RCg=n_4$0GI?}-2"
)


@cache
def _plain_avif(side: int = 64) -> bytes:
    if side == _LARGE_AVIF_SIDE:
        return zlib.decompress(base64.b85decode(_LARGE_AVIF))
    return saved(Image.new("RGB", (side, side), "teal"), "AVIF", speed=10, quality=50)


def avif_of_many_items(count: int = 100_000) -> bytes:
    """Items of no meaning beside the picture."""
    parts = split_boxes(_plain_avif())
    meta = next(part for part in parts if part.kind == b"meta")
    inner = split_boxes(meta.payload[4:])
    for part in inner:
        if part.kind == b"iinf":
            entries = [
                Part(b"infe", b"\3\0\0\0" + struct.pack(">LH4s", item, 0, b"free") + b"\0")
                for item in range(1000, 1000 + count)
            ]
            part.payload = b"\1\0\0\0" + struct.pack(">L", count + 1) + part.payload[6:] + join_boxes(entries)
    grown = len(join_boxes(inner)) + 4 - len(meta.payload)
    meta.payload = meta.payload[:4] + join_boxes(inner)
    return _with_offsets_moved(join_boxes(parts), grown)


def _with_offsets_moved(data: bytes, by: int) -> bytes:
    """An AVIF of one item, whose place is an extent in the file."""
    at = data.index(b"iloc") + 4
    # version and flags; sizes of offset, length and base; one item of one extent, its offset in four bytes.
    place = at + 4 + 2 + 2 + 2 + 2 + 2
    (offset,) = struct.unpack_from(">L", data, place)
    return data[:place] + struct.pack(">L", offset + by) + data[place + 4 :]


def avif_of_other_size(side: int = _LARGE_AVIF_SIDE, claimed: int = 64) -> bytes:
    """A frame that is much larger than its container says."""
    data = _plain_avif(side)
    return data.replace(
        b"ispe\0\0\0\0" + struct.pack(">LL", side, side), b"ispe\0\0\0\0" + struct.pack(">LL", claimed, claimed)
    )


def avif_of_many_chunks(count: int = 1_000_000) -> bytes:
    """A sequence whose table of chunks is looked up in a table as long."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)

    def grown(parts: list[Part]) -> list[Part]:
        for part in parts:
            if part.kind in {b"moov", b"trak", b"mdia", b"minf", b"stbl"}:
                part.payload = join_boxes(grown(split_boxes(part.payload)))
            elif part.kind == b"stco":
                part.payload = bytes(4) + struct.pack(">L", count) + part.payload[8:12] * count
            elif part.kind == b"stsc":
                entries = b"".join(struct.pack(">LLL", 1 + number, 1, 1) for number in range(count))
                part.payload = bytes(4) + struct.pack(">L", count) + entries
            elif part.kind == b"stsz":
                part.payload = bytes(4) + struct.pack(">LL", 20, count)
        return parts

    return join_boxes(grown(split_boxes(data)))
