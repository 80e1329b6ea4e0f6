"""A reply with its pictures spliced in is the JSON that it would be with base64 in its fields, however large."""

import asyncio
import base64
import json

import numpy as np
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from app.api.pictures import Pictures
from app.imaging.png import encode_png
from app.schemas import Png
from tests.imaging.pictures import noise


class Album(Png):
    """A picture beside others, and words."""

    words: str
    others: list[Png]


async def sent(response: Response) -> bytes:
    if not isinstance(response, StreamingResponse):
        return bytes(response.body)
    return b"".join([bytes(piece) async for piece in response.body_iterator])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (7, 5, 3), (900, 800, 3)], ids=str)
def test_every_picture_is_where_it_belongs(shape: tuple[int, ...]) -> None:
    pixels = [noise(*shape), noise(3, 4, 3), noise(8, 8)]
    pictures = Pictures()
    first, *others = (pictures.add(picture) for picture in pixels)
    album = Album(**first.model_dump(), words='Ωμέγα "✓" 0.', others=others)
    response = pictures.respond(album)
    body = asyncio.run(sent(response))
    assert response.headers["content-length"] == str(len(body))
    assert response.headers["content-type"] == "application/json"
    assert isinstance(response, StreamingResponse) == (shape == (900, 800, 3))
    reply = json.loads(body)
    assert reply["words"] == album.words
    for found, expected in zip([reply, *reply["others"]], pixels, strict=True):
        assert base64.b64decode(found["b64"], validate=True) == encode_png(expected)
        assert (found["height"], found["width"]) == expected.shape[:2]


def test_a_mark_leads_to_its_file_and_a_reply_without_pictures_is_plain() -> None:
    pictures = Pictures()
    marks = [pictures.add(np.full((2, 2), value, np.uint8)) for value in range(12)]
    assert pictures.file(marks[11]) == encode_png(np.full((2, 2), 11, np.uint8))
    assert (
        pictures.respond(Png(width=1, height=1, b64=None)).body
        == Png(width=1, height=1, b64=None).model_dump_json().encode()
    )
