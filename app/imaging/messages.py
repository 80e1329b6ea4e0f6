"""The protocol between an image process and its parent.

A message is its length in four bytes and a JSON object; files and pixels follow it as bare bytes, whose number both
sides know, and shared memory is passed as descriptors. Nothing from a child is ever unpickled: the picture that it read
may have taken it over.
"""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.errors import ImageError, ImageUnreadable
from app.imaging.formats import unsupported
from app.imaging.inspection.limits import too_many_pixels, too_small
from app.imaging.overlay import Canvas, Colouring
from app.imaging.pixels import MAX_LEVEL, Depth
from app.imaging.reading import DecodeSpec
from app.imaging.rendering import Drawing, RenderSpec, SheetText

LENGTH = struct.Struct(">I")
# Of a child's messages; those of a parent may be longer.
MAX_MESSAGE_BYTES = 1 << 12
# The child's answer when its memory does not suffice.
OUT_OF_MEMORY = {"error": "MemoryError"}

_MAX_BRACKETS = 16
_MAX_CHARACTERS = 500
_MAX_DESCRIPTORS = 2
# A TIFF may claim that much.
_MAX_SIDE_PX = 1 << 64
_TABLE_BYTES = 768


class ProtocolError(Exception):
    """A message that no sound child would send."""


def pack(message: Mapping[str, object]) -> bytes:
    """Encodes a message."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text


def unpack(text: bytes) -> dict[str, Any]:
    """Decodes a message, which comes without its length.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        # The parser would run out of stack long before it runs out of text.
        raise ProtocolError("the message is nested too deeply")
    try:
        message = json.loads(text)
    except ValueError:
        raise ProtocolError("the message is not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("the message is not an object")
    return message


class Channel:
    """The child's end of the socket to its parent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: Mapping[str, object]) -> None:
        """Sends a message."""
        self.write(pack(message))

    def write(self, data: bytes) -> None:
        """Sends bare bytes."""
        self._connection.sendall(data)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The parent's next message with its descriptors; None when it has hung up."""
        length, descriptors, _, _ = socket.recv_fds(self._connection, LENGTH.size, _MAX_DESCRIPTORS)
        if not length:
            return None
        length += self.read(LENGTH.size - len(length))
        message: dict[str, Any] = json.loads(self.read(LENGTH.unpack(length)[0]))
        return message, descriptors

    def read(self, count: int) -> bytes:
        """Receives bare bytes.

        Raises:
            EOFError: the parent has hung up.
        """
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            received = self._connection.recv_into(rest)
            if received == 0:
                raise EOFError
            rest = rest[received:]
        return bytes(data)


def decode_message(spec: DecodeSpec, data_bytes: int, limit_s: float) -> dict[str, object]:
    """The request to decode a picture.

    Args:
        spec: what to make of it.
        data_bytes: length of the file, which follows.
        limit_s: processor time that may pass until its size is known.
    """
    return {"decode": asdict(spec), "bytes": data_bytes, "limit_s": limit_s}


def decode_spec_of(message: Mapping[str, Any]) -> DecodeSpec:
    """The spec in such a request."""
    fields = message["decode"]
    return DecodeSpec(**{**fields, "input_size": tuple(fields["input_size"]), "mean": tuple(fields["mean"])})


def render_message(spec: RenderSpec, starts: Sequence[int], limit_s: float) -> tuple[dict[str, object], bytes]:
    """The request to draw pictures.

    Args:
        spec: what to draw.
        starts: where each file begins in the shared memory.
        limit_s: processor time that it may take.

    Returns:
        The message, and the bytes that follow it.
    """
    message: dict[str, object] = {
        "canvas": asdict(spec.canvas) if spec.canvas else None,
        "alpha": spec.colouring.alpha,
        "drawings": [(drawing.kind, drawing.size, len(drawing.data)) for drawing in spec.drawings],
        "sheet": asdict(spec.sheet) if spec.sheet else None,
        "starts": list(starts),
        "limit_s": limit_s,
    }
    return message, spec.colouring.table + b"".join(drawing.data for drawing in spec.drawings)


def receive_render_spec(message: Mapping[str, Any], channel: Channel) -> RenderSpec:
    """The spec in such a request; reads the bytes that follow the message."""
    table = channel.read(_TABLE_BYTES)
    drawings = tuple(
        Drawing(kind, (width, height), channel.read(count)) for kind, (width, height), count in message["drawings"]
    )
    canvas, sheet = _with_tuples(message["canvas"]), _with_tuples(message["sheet"])
    return RenderSpec(
        Canvas(**canvas) if canvas else None,
        Colouring(table, message["alpha"]),
        drawings,
        SheetText(**sheet) if sheet else None,
    )


def _with_tuples(fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields with tuples again, of which JSON made lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in (fields or {}).items()}


def error_message(error: ImageError) -> dict[str, object]:
    """The answer that says what is wrong with a picture."""
    return {"error": type(error).__name__, "message": error.message, **error.facts}


def error_of(message: Mapping[str, Any], max_pixels: int) -> ImageError:
    """The error in a child's answer.

    Raises:
        ProtocolError: it names no known error.
    """
    match message:
        case {"error": "UnsupportedImage"}:
            return unsupported()
        case {"error": "TooManyPixels"}:
            return too_many_pixels(*size_of(message), max_pixels)
        case {"error": "ImageTooSmall"}:
            return too_small(*size_of(message))
        case {"error": "ImageUnreadable", "message": str(text)}:
            return ImageUnreadable(text[:_MAX_CHARACTERS])
    raise ProtocolError("an unknown error")


def size_of(message: Mapping[str, Any]) -> tuple[int, int]:
    """The (width, height) in a child's answer, in px.

    Raises:
        ProtocolError: it has none.
    """
    match message:
        case {"width": int(width), "height": int(height)} if 0 < width <= _MAX_SIDE_PX and 0 < height <= _MAX_SIDE_PX:
            return width, height
    raise ProtocolError("no valid size")


def depth_of(message: Mapping[str, Any]) -> Depth | None:
    """How the range is used, in a child's answer; None for 8 bits a channel.

    Raises:
        ProtocolError: it says neither.
    """
    match message:
        case {"depth": None}:
            return None
        case {"depth": {"highest": int(top), "clipped": int(clipped)}} if 0 <= top <= MAX_LEVEL and clipped >= 0:
            return Depth(top, clipped)
    raise ProtocolError("no valid depth")


def lengths_of(message: Mapping[str, Any], limits: Sequence[int]) -> list[int]:
    """The lengths of drawn files in a child's answer, in bytes.

    Args:
        message: the answer.
        limits: how long each file may be.

    Raises:
        ProtocolError: it has not one valid length for each file.
    """
    lengths = message.get("lengths")
    if not isinstance(lengths, list) or len(lengths) != len(limits):
        raise ProtocolError("not a length for each file")
    for length, limit in zip(lengths, limits, strict=True):
        if not isinstance(length, int) or not 0 < length <= limit:
            raise ProtocolError("no valid length")
    return lengths
