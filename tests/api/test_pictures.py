"""A reply with its pictures spliced in is the JSON that it would be with base64 in its fields, however large."""

import asyncio
import base64
import json
import os

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from app.api.pictures import ReplyPictures, send_png
from app.imaging.shared import SharedBytes
from app.runtime.drawn_picture import DrawnPicture
from app.schemas import Png
from testing.pictures import noise


def drawn(*sizes: int) -> list[tuple[bytes, DrawnPicture]]:
    """Files of these sizes, side by side in one memory."""
    files = [noise(1, size, seed=size).tobytes() for size in sizes]
    memory = SharedBytes(sum(sizes))
    os.pwrite(memory.descriptor, b"".join(files), 0)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        (file, DrawnPicture((number + 1, 2), start, len(file), memory))
        for number, (file, start) in enumerate(zip(files, starts, strict=True))
    ]


class Album(Png):
    """A picture beside others, and words."""

    words: str
    others: list[Png]


async def sent(response: Response) -> bytes:
    if not isinstance(response, StreamingResponse):
        return bytes(response.body)
    return b"".join([bytes(piece) async for piece in response.body_iterator])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 1000, 2**21 + 1])
def test_every_picture_is_where_it_belongs(size: int) -> None:
    files = drawn(size, 3, 64)
    pictures = ReplyPictures()
    first, *others = (pictures.add(picture) for _, picture in files)
    album = Album(**first.model_dump(), words='Ωμέγα "✓" 0.', others=others)
    response = pictures.respond(album)
    body = asyncio.run(sent(response))
    assert response.headers["content-length"] == str(len(body))
    assert response.headers["content-type"] == "application/json"
    assert isinstance(response, StreamingResponse) == (size > 2**16)
    reply = json.loads(body)
    assert reply["words"] == album.words
    for found, (file, picture) in zip([reply, *reply["others"]], files, strict=True):
        assert base64.b64decode(found["b64"], validate=True) == file
        assert (found["width"], found["height"]) == picture.size


@pytest.mark.parametrize("size", [5, 2**20])
def test_a_picture_is_sent_as_it_is(size: int) -> None:
    _, (file, picture) = drawn(9, size)
    response = send_png(picture)
    assert asyncio.run(sent(response)) == file
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == str(size)


def test_a_reply_without_pictures_is_plain() -> None:
    png = Png(width=1, height=1, b64=None)
    assert ReplyPictures().respond(png).body == png.model_dump_json().encode()
