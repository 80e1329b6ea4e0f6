"""Encodes pictures as PNG."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

# Overlays are photographs: on these, run lengths over filtered rows are both smaller and faster than zlib's search for
# matches. One filter for all rows instead of the best of five for each, as libraries choose it, takes less than half
# the time (500 x 333: 4.3 ms and 233 kB, against 9.6 ms and 215 kB with Pillow).
_LEVEL = 1
_STRATEGY = zlib.Z_RLE
_AVERAGE = 3
_COLOUR_TYPES = {1: 0, 3: 2}


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes a picture losslessly (PNG specification, third edition).

    Args:
        pixels: HW (grey) or HWC (RGB) uint8, [0, 255].

    Returns:
        The PNG file.
    """
    height, width, channels = (*pixels.shape, 1)[:3]
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, _STRATEGY)
    rows = _filtered(pixels.reshape(height, width * channels), channels)
    data = compressor.compress(rows.data) + compressor.flush()
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _filtered(rows: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Each byte less the mean of its neighbours to the left and above, each row behind the number of this filter."""
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, channels:] = rows[:, :-channels]
    above[1:] = rows[:-1]
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _AVERAGE
    # Half the sum, rounded down, without leaving 8 bits.
    np.subtract(rows, (left & above) + ((left ^ above) >> 1), out=filtered[:, 1:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
