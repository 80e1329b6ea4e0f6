"""Errors arrive as what they were, and nothing else that a child may say is taken for one."""

import pytest

from app.errors import ImageError, ImageUnreadable
from app.imaging.formats import unsupported
from app.imaging.inspection.limits import too_many_pixels, too_small
from app.imaging.messages import (
    LENGTH,
    ProtocolError,
    decode_message,
    decode_spec_of,
    error_message,
    error_of,
    pack,
    unpack,
)
from app.imaging.reading import DecodeSpec

DECODE_SPEC = DecodeSpec("pad", (160, 224), 256, "bicubic", (0.1, 0.2, 0.3), 4095, 1024)


def over_the_wire(message: dict[str, object]) -> dict[str, object]:
    packed = pack(message)
    assert LENGTH.unpack(packed[: LENGTH.size]) == (len(packed) - LENGTH.size,)
    return unpack(packed[LENGTH.size :])


def test_a_spec_arrives_as_it_was() -> None:
    assert decode_spec_of(over_the_wire(decode_message(DECODE_SPEC, 5, 20.0))) == DECODE_SPEC


@pytest.mark.parametrize(
    "error",
    [
        unsupported(),
        too_many_pixels(50_000, 40_000, 64_000_000),
        too_many_pixels(2**64 - 1, 48, 64_000_000),
        too_small(7, 4000),
        ImageUnreadable("the PNG file is cut short or corrupt"),
    ],
)
def test_an_error_arrives_with_its_words_and_details(error: ImageError) -> None:
    arrived = error_of(over_the_wire(error_message(error)), 64_000_000)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize(
    "text", [b"", b"\x80\x04N.", b"[1]", b"null", b"[" * 16_000, b'{"width": ' + b"9" * 9_000 + b"}"]
)
def test_what_is_no_object_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(text)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"error": "SystemExit"},
        {"error": ["TooManyPixels"]},
        {"error": "TooManyPixels"},
        {"error": "TooManyPixels", "width": "9", "height": 9},
        {"error": "TooManyPixels", "width": 10**4000, "height": 10**4000},
        {"error": "ImageTooSmall", "width": -1, "height": 9},
        {"error": "ImageUnreadable"},
        {"error": "ImageUnreadable", "message": {}},
    ],
)
def test_what_is_no_error_of_ours_is_a_protocol_error(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        error_of(message, 64_000_000)
