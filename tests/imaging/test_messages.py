"""Errors arrive as what they were, and nothing else that a child may say is taken for one."""

import pytest

from app.imaging.decode import ACCEPTED_FORMATS
from app.imaging.errors import ImageTooSmall, ImageUnreadable, ImagingError, TooManyPixels, UnsupportedImage
from app.imaging.messages import LENGTH, Garbled, describe_error, describe_order, error_of, order_of, pack, unpack
from app.imaging.reading import Order

ORDER = Order("pad", (160, 224), 256, "bicubic", (0.1, 0.2, 0.3), 1024)


def over_the_wire(message: dict[str, object]) -> dict[str, object]:
    packed = pack(message)
    assert LENGTH.unpack(packed[: LENGTH.size]) == (len(packed) - LENGTH.size,)
    return unpack(packed[LENGTH.size :])


def test_an_order_arrives_as_it_was() -> None:
    assert order_of(over_the_wire(describe_order(ORDER, 5, 20.0))) == ORDER


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedImage(ACCEPTED_FORMATS),
        TooManyPixels(50_000, 40_000, 64_000_000),
        TooManyPixels(2**64 - 1, 48, 64_000_000),
        ImageTooSmall(7, 4000, 8),
        ImageUnreadable("The PNG file is cut short or corrupt."),
    ],
)
def test_an_error_arrives_with_its_words_and_details(error: ImagingError) -> None:
    arrived = error_of(over_the_wire(describe_error(error)), 64_000_000)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize(
    "text", [b"", b"\x80\x04N.", b"[1]", b"null", b"[" * 16_000, b'{"width": ' + b"9" * 9_000 + b"}"]
)
def test_what_is_no_object_is_garbled(text: bytes) -> None:
    with pytest.raises(Garbled):
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
def test_what_is_no_error_of_ours_is_garbled(message: dict[str, object]) -> None:
    with pytest.raises(Garbled):
        error_of(message, 64_000_000)
