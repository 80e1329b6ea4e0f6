"""What a decoding child and its parent say to each other.

A message is its length in four bytes and a JSON object; arrays and files follow it as bare bytes, whose number both
sides know. Nothing that a child says is ever unpickled: it may have been taken over by the picture that it read.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.imaging.decode import ACCEPTED_FORMATS, MIN_SIDE_PX
from app.imaging.errors import ImageTooSmall, ImageUnreadable, ImagingError, TooManyPixels, UnsupportedImage
from app.imaging.reading import Order

LENGTH = struct.Struct(">I")
MAX_BYTES = 1 << 12
# The child's answer when its memory does not suffice.
OUT_OF_MEMORY = {"error": "MemoryError"}

_MOST_BRACKETS = 16
_MOST_CHARACTERS = 500
# As a TIFF may claim.
_LONGEST_PX = 1 << 64


class Garbled(Exception):
    """A message that no child of ours would send."""


def pack(message: Mapping[str, object]) -> bytes:
    """A message as it is sent."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text


def unpack(text: bytes) -> dict[str, Any]:
    """Reads a message, without its length.

    Raises:
        Garbled: it is no JSON object.
    """
    if text.count(b"[") + text.count(b"{") > _MOST_BRACKETS:
        # The parser would run out of stack long before it runs out of text.
        raise Garbled("too deep")
    try:
        message = json.loads(text)
    except ValueError:
        raise Garbled("no JSON") from None
    if not isinstance(message, dict):
        raise Garbled("no object")
    return message


def describe_order(order: Order, data_bytes: int, limit_s: float) -> dict[str, object]:
    """Asks for a picture.

    Args:
        order: what is to be made of it.
        data_bytes: length of the file, which follows.
        limit_s: the child ends itself when it takes longer by far; its parent may be gone.
    """
    return {"order": asdict(order), "bytes": data_bytes, "limit_s": limit_s}


def order_of(message: Mapping[str, Any]) -> Order:
    """The order in a message of the parent's."""
    fields = message["order"]
    return Order(**{**fields, "input_size": tuple(fields["input_size"]), "mean": tuple(fields["mean"])})


def describe_error(error: ImagingError) -> dict[str, object]:
    """Says what is wrong with a picture."""
    size = {"width": error.width, "height": error.height} if isinstance(error, TooManyPixels | ImageTooSmall) else {}
    return {"error": type(error).__name__, "message": str(error), **size}


def error_of(message: Mapping[str, Any], max_pixels: int) -> ImagingError:
    """The error in a message of a child's.

    Raises:
        Garbled: it names no error of ours.
    """
    match message:
        case {"error": "UnsupportedImage"}:
            return UnsupportedImage(ACCEPTED_FORMATS)
        case {"error": "TooManyPixels"}:
            return TooManyPixels(*size_of(message), max_pixels)
        case {"error": "ImageTooSmall"}:
            return ImageTooSmall(*size_of(message), MIN_SIDE_PX)
        case {"error": "ImageUnreadable", "message": str(text)}:
            return ImageUnreadable(text[:_MOST_CHARACTERS])
    raise Garbled("no error of ours")


def size_of(message: Mapping[str, Any]) -> tuple[int, int]:
    """The (width, height) in a message of a child's, in px.

    Raises:
        Garbled: it has none.
    """
    match message:
        case {"width": int(width), "height": int(height)} if 0 < width <= _LONGEST_PX and 0 < height <= _LONGEST_PX:
            return width, height
    raise Garbled("no size")
