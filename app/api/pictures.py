"""Pictures inside a JSON reply: spliced in as base64 while it is sent, never held as text."""

import base64
import re
import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.imaging.png import encode_png
from app.schemas import Png

# JSON in the making: a text as it is, or (a view) a file that becomes base64.
Piece = bytes | memoryview

_JSON = "application/json"
# A multiple of 3: its base64 has no padding. To encode more at once would hold the event loop for too long.
_PIECE_BYTES = 3 * 2**16
# Replies up to here are sent in one piece.
_SMALL_BYTES = 2**21


class Pictures:
    """The PNG files of one reply, each with a mark that stands for it in the text; several threads may add to it."""

    def __init__(self) -> None:
        # Nothing that a caller or a label says can hold it.
        self._mark = secrets.token_hex(16)
        self._files: list[bytes] = []
        self._adding = threading.Lock()

    def add(self, pixels: npt.NDArray[np.uint8]) -> Png:
        """Encodes a picture, HW or HWC uint8; what it returns has the mark in place of the base64."""
        file = encode_png(pixels)
        with self._adding:
            number = len(self._files)
            self._files.append(file)
        height, width = pixels.shape[:2]
        return Png(width=width, height=height, b64=f"{self._mark}{number}.")

    def file(self, png: Png) -> bytes:
        """The file that a mark stands for."""
        assert png.b64 is not None
        return self._files[int(png.b64.removeprefix(self._mark).removesuffix("."))]

    def splice(self, reply: BaseModel) -> list[Piece]:
        """A reply as JSON, cut where its pictures stand."""
        parts = re.split(rf"{self._mark}(\d+)\.", reply.model_dump_json())
        return [
            memoryview(self._files[int(part)]) if number % 2 else part.encode() for number, part in enumerate(parts)
        ]

    def respond(self, reply: BaseModel) -> Response:
        """The reply as JSON with all its pictures."""
        return send(self.splice(reply))


def listed(name: str, replies: Sequence[list[Piece]]) -> list[Piece]:
    """An object with one key, the list of these replies."""
    pieces: list[Piece] = [f'{{"{name}":['.encode()]
    for number, reply in enumerate(replies):
        pieces += [b","] * (number > 0) + reply
    return [*pieces, b"]}"]


def send(pieces: list[Piece]) -> Response:
    """JSON as a response; what is large is streamed."""
    length = sum(4 * -(-len(piece) // 3) if isinstance(piece, memoryview) else len(piece) for piece in pieces)
    if length <= _SMALL_BYTES:
        return Response(b"".join(_encoded(pieces)), media_type=_JSON)

    async def stream() -> AsyncIterator[bytes]:
        for piece in _encoded(pieces):
            yield piece

    return StreamingResponse(stream(), media_type=_JSON, headers={"Content-Length": str(length)})


def _encoded(pieces: list[Piece]) -> Iterator[bytes]:
    """The texts, and the files as base64."""
    for piece in pieces:
        if isinstance(piece, memoryview):
            for start in range(0, len(piece), _PIECE_BYTES):
                yield base64.b64encode(piece[start : start + _PIECE_BYTES])
        else:
            yield piece
