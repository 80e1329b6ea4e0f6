"""BMP: whether its pixels can all be there; and run-length coded ones, which Pillow reads with loops in Python."""

import re
import struct
from operator import mul

from PIL import Image, ImageFile

from app.imaging.inspection.limits import check_pixels, cut_short, too_many

# Steps that are taken one by one: ends of lines, moves and pixels that are stored as they are.
MAX_ESCAPES = 1 << 18

_RUN_LENGTHS = {1, 2}
_END_OF_LINE, _END, _MOVE = range(3)
# Many, but so many that what they stand for does not fill the memory.
_RUNS = re.compile(rb"(?:[\x01-\xff].){1,4096}", re.DOTALL)
_PIXELS = [bytes([value]) for value in range(256)]
_PAIRS = [bytes([value >> 4, value & 15]) for value in range(256)]


def inspected_bmp(data: bytes, max_pixels: int) -> bytes:
    """See `app.imaging.inspection`."""
    (header_bytes,) = struct.unpack_from("<I", data.ljust(18, b"\0"), 14)
    head = data[18:50].ljust(32, b"\0")
    compression = 0
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", head)
    else:
        width, height, _, bits, compression = struct.unpack_from("<IIHHI", head)
        height = height if height < 1 << 31 else (1 << 32) - height
    check_pixels(width, height, max_pixels)
    row_bytes = width * bits // 8
    offset = int.from_bytes(data[10:14], "little")
    if compression not in _RUN_LENGTHS and row_bytes * height > len(data) - offset:
        raise cut_short("BMP")
    return data


class RunLengthDecoder(ImageFile.PyDecoder):
    """Reads what Pillow's reads, to the same pixels; in steps that each take one call of C for many runs."""

    _pulls_fd = True

    def decode(self, _buffer: Image.DecoderInput) -> tuple[int, int]:
        """Reads from the file, which stands where the pixels begin."""
        if self.fd is None:
            raise cut_short("BMP")
        start = self.fd.tell()
        width, height = self.state.xsize, self.state.ysize
        pixels = decode_runs(self.fd.read(), start % 2, width, height, four_bits=self.args[1])
        rawmode = "L" if self.mode in {"1", "L"} else "P"
        self.set_as_raw(pixels, rawmode, (0, self.args[-1]))
        return -1, 0


def decode_runs(coded: bytes, odd: int, width: int, height: int, *, four_bits: bool) -> bytes:
    """Decodes the run lengths of a BMP.

    Args:
        coded: the runs and what follows them.
        odd: whether they begin at an odd byte of the file; stored pixels end at an even one.
        width: of the picture in px.
        height: of the picture in px.
        four_bits: whether a byte is two pixels.

    Returns:
        A byte a pixel in the order of the file, fewer than there should be where the file ends early.
    """
    pixels, wanted = bytearray(), width * height
    at = column = escapes = 0
    while len(pixels) < wanted and at + 1 < len(coded):
        if coded[at]:
            found = _RUNS.match(coded, at)
            if found is None:
                break
            run = _unrolled(found[0], four_bits=four_bits)[: max(0, width - column)] if column < width else b""
            pixels += run
            column += len(run)
            at = found.end()
            continue
        escapes += 1
        if escapes > MAX_ESCAPES:
            raise too_many("BMP", "lines, moves and stretches of single pixels in its run lengths", MAX_ESCAPES)
        kind = coded[at + 1]
        at += 2
        if kind == _END_OF_LINE:
            pixels += bytes(-len(pixels) % width)
            column = 0
        elif kind == _END:
            break
        elif kind == _MOVE:
            if at + 1 >= len(coded):
                break
            pixels += bytes(min(wanted - len(pixels), coded[at] + coded[at + 1] * width))
            column = len(pixels) % width
            at += 2
        else:
            count = min(wanted - len(pixels), kind)
            stored = coded[at : at + ((count + 1) // 2 if four_bits else count)]
            pixels += b"".join(map(_PAIRS.__getitem__, stored))[:count] if four_bits else stored
            column += kind
            at += len(stored) + (len(stored) + at + odd) % 2
    return bytes(pixels[:wanted])


def _unrolled(runs: bytes, *, four_bits: bool) -> bytes:
    """The pixels of runs: a count and a value each, or two values in turn."""
    counts, values = runs[0::2], runs[1::2]
    if not four_bits:
        return b"".join(map(mul, map(_PIXELS.__getitem__, values), counts))
    return b"".join([(_PAIRS[value] * 128)[:count] for count, value in zip(counts, values, strict=True)])


Image.register_decoder("bmp_rle", RunLengthDecoder)
