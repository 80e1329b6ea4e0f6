"""Pictures inside a JSON reply: spliced in as base64 while it is sent, never held as text."""

import asyncio
import base64
import re
import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.runtime.drawn_picture import DrawnPicture
from app.schemas import Png

# JSON in the making: a text as it is, or a file that becomes base64.
Piece = bytes | DrawnPicture

_JSON, _PNG = "application/json", "image/png"
# A multiple of 3: its base64 has no padding. To encode more at once would hold the event loop for too long.
_PIECE_BYTES = 3 * 2**16
# Replies up to here are sent in one piece: the socket takes them at once. Of a longer one each piece waits until most
# of the last is on its way, and so does its end, so that what it holds is held until then.
_SMALL_BYTES = 2**16


class ReplyPictures:
    """The PNG files of one reply, each with a mark that stands for it in the text; several threads may add to it."""

    def __init__(self) -> None:
        # Nothing that a caller or a label says can hold it.
        self._mark = secrets.token_hex(16)
        self._files: list[DrawnPicture] = []
        self._adding = threading.Lock()

    def add(self, picture: DrawnPicture) -> Png:
        """Adds a picture; what it returns has the mark in place of the base64."""
        with self._adding:
            number = len(self._files)
            self._files.append(picture)
        width, height = picture.size
        return Png(width=width, height=height, b64=f"{self._mark}{number}.")

    def splice(self, reply: BaseModel) -> list[Piece]:
        """A reply as JSON, cut where its pictures stand."""
        parts = re.split(rf"{self._mark}(\d+)\.", reply.model_dump_json())
        return [self._files[int(part)] if number % 2 else part.encode() for number, part in enumerate(parts)]

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
    """JSON as a response."""
    length = sum(4 * -(-piece.length // 3) if isinstance(piece, DrawnPicture) else len(piece) for piece in pieces)
    return _respond(_encoded(pieces), length, _JSON)


def send_png(picture: DrawnPicture) -> Response:
    """A picture itself as a response."""
    return _respond(_read(picture), picture.length, _PNG)


def _respond(content: Iterator[bytes], length: int, media_type: str) -> Response:
    """A response; what is large is streamed."""
    if length <= _SMALL_BYTES:
        return Response(b"".join(content), media_type=media_type)

    async def stream() -> AsyncIterator[bytes]:
        for piece in content:
            yield piece
            # To send is no pause where the caller has hung up.
            await asyncio.sleep(0)

    return StreamingResponse(stream(), media_type=media_type, headers={"Content-Length": str(length)})


def _encoded(pieces: list[Piece]) -> Iterator[bytes]:
    """The texts, and the files as base64."""
    for piece in pieces:
        if isinstance(piece, DrawnPicture):
            yield from map(base64.b64encode, _read(piece))
        else:
            yield piece


def _read(picture: DrawnPicture) -> Iterator[bytes]:
    for start in range(0, picture.length, _PIECE_BYTES):
        yield picture.read(start, _PIECE_BYTES)
