"""Asks the service, and reads what it answers."""

import base64
import json
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

JPEG = {"content-type": "image/jpeg"}
JSON = {"content-type": "application/json"}


def ask(client: httpx.Client, image: bytes, path: str = "/v1/explain", **fields: Any) -> dict[str, Any]:
    """Posts a picture as a multipart form; a list repeats its field."""
    response = client.post(path, files={"image": image}, data=fields)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert isinstance(reply, dict)
    return reply


def ask_one(client: httpx.Client, image: bytes, **fields: Any) -> dict[str, Any]:
    """The only explanation of a reply."""
    (explanation,) = ask(client, image, **fields)["explanations"]
    assert isinstance(explanation, dict)
    return explanation


def json_body(image: bytes, **fields: Any) -> bytes:
    """A JSON body."""
    return json.dumps({"image": {"b64": base64.b64encode(image).decode()}, **fields}).encode()


def pixels(png: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Decodes a picture of a reply, and checks what the reply says of it."""
    assert png["media_type"] == "image/png"
    picture = Image.open(BytesIO(base64.b64decode(png["b64"], validate=True)), formats=["PNG"])
    picture.load()
    assert picture.size == (png["width"], png["height"])
    return np.asarray(picture)


def values(explanation: dict[str, Any]) -> npt.NDArray[np.float64]:
    """The attribution, and checks what the reply says of it."""
    found = np.array(explanation["attribution"]["values"], dtype=np.float64)
    assert list(found.shape) == explanation["attribution"]["shape"]
    return found


def without_times(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply as far as it is the same at any time."""
    return {name: value for name, value in reply.items() if name != "timing_ms"}
