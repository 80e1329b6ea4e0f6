"""Run-length coded BMPs give the pixels that Pillow's own decoder gives, in a bounded number of steps."""

import random
from io import BytesIO

import pytest
from PIL import BmpImagePlugin, Image, ImageFile

from app.errors import ImageUnreadable
from app.imaging.inspection import bmp
from app.imaging.inspection.bmp import decode_runs
from testing.attacks.bombs import _bmp
from testing.pictures import MAX_PIXELS, decode, rgb


def coded(rng: random.Random, width: int, height: int, *, four_bits: bool, stray: bool) -> bytes:
    """Run lengths as an encoder may write them: runs, pixels as they are, moves and ends; `stray` breaks the rules."""
    pieces = []
    for _ in range(height):
        left = width
        while left > 0:
            count = min(left, rng.randint(1, 255))
            kind = rng.random()
            if kind < 0.3 and count >= 3:
                size = (count + 1) // 2 if four_bits else count
                pieces.append(bytes([0, count]) + rng.randbytes(size) + bytes(size % 2))
            elif kind < 0.4 and count < left:
                pieces.append(bytes([0, 2, count, 0]))
            else:
                count += rng.randint(0, 40) if stray and count < 200 else 0
                pieces.append(bytes([count, rng.randrange(256)]))
            left -= count
            if stray and rng.random() < 0.1:
                break
        pieces.append(b"\0\0")
    return b"".join(pieces) + b"\0\1"


def by_pillow(data: bytes, width: int, height: int, *, four_bits: bool) -> bytes:
    """What Pillow's decoder makes of them."""
    kept = []
    decoder = BmpImagePlugin.BmpRleDecoder("P", "P", four_bits, -1)
    decoder.state = ImageFile.PyCodecState()
    decoder.state.xsize, decoder.state.ysize = width, height
    decoder.fd = BytesIO(data)
    decoder.set_as_raw = lambda pixels, *_: kept.append(pixels)
    decoder.decode(b"")
    return kept[0][: width * height]


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("stray", [False, True])
def test_pixels_are_those_of_pillow(four_bits: bool, stray: bool) -> None:
    rng = random.Random(5)
    for _ in range(200):
        width, height = rng.randint(1, 600), rng.randint(1, 12)
        data = coded(rng, width, height, four_bits=four_bits, stray=stray)
        if stray:
            data = data[: rng.randint(0, len(data))]
        expected = by_pillow(data, width, height, four_bits=four_bits)
        assert decode_runs(data, 0, width, height, four_bits=four_bits) == expected


@pytest.mark.parametrize(("compression", "bits"), [(1, 8), (2, 4)])
def test_a_whole_file_is_read_as_before(monkeypatch: pytest.MonkeyPatch, compression: int, bits: int) -> None:
    data = coded(random.Random(7), 61, 40, four_bits=bits == 4, stray=False)
    file = _bmp((61, 40), compression, data, bits)
    picture = decode(file, MAX_PIXELS)
    monkeypatch.setitem(Image.DECODERS, "bmp_rle", BmpImagePlugin.BmpRleDecoder)
    expected = decode(file, MAX_PIXELS)
    assert (rgb(picture.pixels) == rgb(expected.pixels)).all()


def test_steps_that_lead_nowhere_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmp, "MAX_ESCAPES", 100)
    still = b"\0\2\0\0"
    assert decode_runs(still * 99 + b"\7\1\0\1", 0, 7, 1, four_bits=False) == b"\1" * 7
    with pytest.raises(ImageUnreadable, match="more than 100 lines, moves and stretches of single pixels"):
        decode_runs(still * 101 + b"\7\1\0\1", 0, 7, 1, four_bits=False)
