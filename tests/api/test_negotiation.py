"""Which media type an answer has, and the figures that travel with a picture."""

import base64
import json
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.pictures import encoded, photograph
from testing.serving import LABELS
from tests.api.asking import JPEG, ask, ask_one, pixels, without_times

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def post_png(client: httpx.Client, photo: bytes, /, **query: Any) -> tuple[Image.Image, dict[str, Any]]:
    response = client.post("/v1/explain", params=query, files={"image": photo}, headers={"accept": "image/png"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    header = response.headers["x-explanation"]
    assert header.isascii()
    assert len(header) <= 4096
    figures = json.loads(header)
    assert header == json.dumps(figures, separators=(",", ":"))
    return Image.open(BytesIO(response.content), formats=["PNG"]), figures


@pytest.mark.parametrize("image", ["overlay", "heatmap"])
def test_the_picture_is_that_of_the_json_reply(client: httpx.Client, chelsea: bytes, image: str) -> None:
    picture, _ = post_png(client, chelsea, image=image)
    expected = pixels(ask_one(client, chelsea)[image])
    assert picture.size == expected.shape[1::-1]
    np.testing.assert_allclose(np.asarray(picture).astype(int), expected.astype(int), atol=1)


def test_the_picture_is_the_overlay_whatever_include_says(client: httpx.Client, chelsea: bytes) -> None:
    picture, _ = post_png(client, chelsea, include="heatmap")
    assert picture.size == (451, 300)


def test_the_header_is_the_reply_without_values_and_pictures(client: httpx.Client, chelsea: bytes) -> None:
    _, figures = post_png(client, chelsea, target=["predicted", "287"])
    reply = ask(client, chelsea)
    assert list(figures) == list(reply)
    (mine,), (theirs,) = figures["explanations"], reply["explanations"]
    assert list(mine) == list(theirs)
    assert mine["attribution"] == {"shape": [7, 7], "standard_error": None}
    assert mine["overlay"] == {"media_type": "image/png", "width": 451, "height": 300}
    assert mine["heatmap"] is None
    assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=0.1)
    assert figures["view"] == reply["view"]
    assert [entry["label"] for entry in figures["predictions"]] == [entry["label"] for entry in reply["predictions"]]


def test_the_header_stays_within_4_kib(client: httpx.Client, chelsea: bytes) -> None:
    _, figures = post_png(client, chelsea, top_k=1000)
    assert 20 < len(figures["predictions"]) < 1000
    label = LABELS.index("é" * 3000)
    _, figures = post_png(client, chelsea, model="small", target=label, metrics="false")
    assert figures["predictions"] == []
    assert figures["explanations"][0]["target"]["index"] == label
    assert LABELS[label].startswith(figures["explanations"][0]["target"]["label"])


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/png, application/json;q=0.9", "image/png"),
        ("image/png;q=0.5, application/json", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        (BROWSER, "application/json"),
    ],
)
def test_the_best_liked_type_that_can_be_made_is_sent(
    client: httpx.Client, chelsea: bytes, accept: str, media_type: str
) -> None:
    response = client.post("/v1/explain?metrics=false", content=chelsea, headers={**JPEG, "accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type


def test_several_accept_lines_are_one_list(client: httpx.Client, chelsea: bytes) -> None:
    headers = [*JPEG.items(), ("accept", "text/html"), ("accept", "image/png")]
    response = client.post("/v1/explain?metrics=false", content=chelsea, headers=headers)
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/v1/explain", "text/html"),
        ("/v1/explain", "image/jpeg"),
        ("/v1/explain", "application/json;q=0"),
        ("/v1/predict", "image/png"),
        ("/v1/compare", "image/jpeg"),
    ],
)
def test_what_cannot_be_made_is_406(client: httpx.Client, chelsea: bytes, path: str, accept: str) -> None:
    response = client.post(path, content=chelsea, headers={**JPEG, "accept": accept})
    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"
    assert response.json()["detail"]["field"] == "Accept"


def test_the_three_kinds_of_body_are_answered_alike(client: httpx.Client) -> None:
    image = encoded(photograph("coffee"), "JPEG", quality=90)
    fields: dict[str, Any] = {"target": ["predicted", "504"], "include": ["attribution", "heatmap"], "top_k": 3}
    body = {"image": {"b64": base64.b64encode(image).decode()}, **fields, "metrics": False}
    forms = fields | {"metrics": "false"}
    responses = [
        client.post("/v1/explain", files={"image": image}, data=forms),
        client.post("/v1/explain", json=body),
        client.post("/v1/explain", content=image, params=forms, headers=JPEG),
        client.post("/v1/explain", files={"image": image}, params=forms),
        client.post("/v1/explain", json={"image": body["image"]}, params=forms),
    ]
    first, *others = [without_times(response.json()) for response in responses]
    assert len(first["explanations"]) == 2
    for other in others:
        _assert_alike(first, other)


def _assert_alike(first: Any, other: Any) -> None:
    """Equal but for the last digits, which differ with where a tensor lies in memory."""
    match first:
        case dict():
            assert list(first) == list(other)
            for name in first:
                if name != "b64":
                    _assert_alike(first[name], other[name])
        case list():
            assert len(first) == len(other)
            for mine, theirs in zip(first, other, strict=True):
                _assert_alike(mine, theirs)
        case float():
            assert first == pytest.approx(other, rel=1e-3, abs=1e-5)
        case _:
            assert first == other


def test_the_front_door_tells_programs_that_the_service_is_alive(client: httpx.Client) -> None:
    for accept in ("*/*", "application/json", "text/plain", "image/png"):
        response = client.get("/", headers={"accept": accept})
        assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_the_front_door_answers_browsers_with_the_page(client: httpx.Client) -> None:
    response = client.get("/", headers={"accept": BROWSER})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["vary"] == "Accept"
    assert "<title>Why did the network say that?" in response.text
