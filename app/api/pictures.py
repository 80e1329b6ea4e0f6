"""Pictures inside a JSON reply: spliced in as base64 while it is sent, never held as text."""

import base64
import re
import secrets
from collections.abc import AsyncIterator, Iterator

import numpy as np
import numpy.typing as npt
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.imaging.png import encode_png
from app.schemas import Png

_JSON = "application/json"
# A multiple of 3: its base64 has no padding. To encode more at once would hold the event loop for too long.
_PIECE_BYTES = 3 * 2**16
# Replies up to here are sent in one piece.
_SMALL_BYTES = 2**21


class Pictures:
    """The PNG files of one reply, each with a mark that stands for it in the text."""

    def __init__(self) -> None:
        # Nothing that a caller or a label says can hold it.
        self._mark = secrets.token_hex(16)
        self._files: list[bytes] = []

    def add(self, pixels: npt.NDArray[np.uint8]) -> Png:
        """Encodes a picture, HW or HWC uint8; what it returns has the mark in place of the base64."""
        self._files.append(encode_png(pixels))
        height, width = pixels.shape[:2]
        return Png(width=width, height=height, b64=f"{self._mark}{len(self._files) - 1}.")

    def file(self, png: Png) -> bytes:
        """The file that a mark stands for."""
        assert png.b64 is not None
        return self._files[int(png.b64.removeprefix(self._mark).removesuffix("."))]

    def respond(self, reply: BaseModel) -> Response:
        """The reply as JSON with all its pictures."""
        parts = re.split(rf"{self._mark}(\d+)\.", reply.model_dump_json())
        texts = [text.encode() for text in parts[::2]]
        files = [self._files[int(number)] for number in parts[1::2]]
        length = sum(map(len, texts)) + sum(4 * -(-len(file) // 3) for file in files)
        if length <= _SMALL_BYTES:
            return Response(b"".join(_spliced(texts, files)), media_type=_JSON)

        async def stream() -> AsyncIterator[bytes]:
            for piece in _spliced(texts, files):
                yield piece

        return StreamingResponse(stream(), media_type=_JSON, headers={"Content-Length": str(length)})


def _spliced(texts: list[bytes], files: list[bytes]) -> Iterator[bytes]:
    """A text, a file as base64, a text, and so on."""
    for text, file in zip(texts, [*files, b""], strict=True):
        yield text
        view = memoryview(file)
        for start in range(0, len(file), _PIECE_BYTES):
            yield base64.b64encode(view[start : start + _PIECE_BYTES])
