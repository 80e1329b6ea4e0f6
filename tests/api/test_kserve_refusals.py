"""What a caller of the KServe V1 protocol can send wrongly, and which instance the answer names."""

import json
from typing import Any

import httpx
import pytest
from PIL import Image

from testing.pictures import encoded, photograph
from tests.api.asking import JSON
from tests.api.calls import NETWORK, b64, call, instance, post
from tests.api.mistakes import Mistake, assert_named, claiming, raw, text

PICTURE = encoded(photograph("chelsea"), "JPEG", quality=90)
GOOD = instance(PICTURE)
EXPLAIN, PREDICT = f"/v1/models/{NETWORK}:explain", f"/v1/models/{NETWORK}:predict"
# A picture that takes long to be found out, and one that is found out at once.
CUT = instance(encoded(photograph("coffee").resize((3000, 2000)), "JPEG", quality=95)[:-200_000])
NO_PICTURE = instance(b"no picture at all")
NO_BASE64 = {"b64": "this is no base64!"}


def body(*instances: Any, **others: Any) -> dict[str, Any]:
    return text(json.dumps({"instances": instances, **others}))


def invalid(name: str, field: str, request: dict[str, Any], path: str = EXPLAIN, says: str = "") -> Mistake:
    return Mistake(name, 422, "invalid_parameter", field, request, path, says)


def fields(**parameters: Any) -> dict[str, Any]:
    return body(GOOD, parameters=parameters)


MISTAKES = [
    Mistake("no JSON", 400, "malformed_body", None, text("{"), EXPLAIN),
    Mistake("a JSON array", 400, "malformed_body", None, text("[]"), EXPLAIN),
    Mistake("another type", 415, "unsupported_media_type", "Content-Type", raw(PICTURE, "image/jpeg"), EXPLAIN),
    Mistake("a form", 415, "unsupported_media_type", "Content-Type", {"files": {"image": PICTURE}}, EXPLAIN),
    Mistake("no type", 415, "unsupported_media_type", "Content-Type", {"content": b"{}"}, PREDICT),
    Mistake("no body", 415, "unsupported_media_type", "Content-Type", {}, PREDICT),
    Mistake(
        "a picture for an answer",
        406,
        "not_acceptable",
        "Accept",
        body(GOOD) | {"headers": JSON | {"accept": "image/png"}},
        EXPLAIN,
    ),
    Mistake("an unknown model", 404, "unknown_model", "model", body(GOOD), "/v1/models/vgg99:explain", "small"),
    invalid("no instances", "instances", text("{}"), says="1 to 64"),
    invalid("an empty list", "instances", body(), PREDICT, says="1 to 64"),
    invalid("65 instances", "instances", body(*[{"b64": ""}] * 65), says="1 to 64"),
    invalid("an object of instances", "instances", text('{"instances": {"b64": ""}}')),
    invalid("an unknown key", "signature_name", body(GOOD, signature_name="x"), says="instances and parameters"),
    invalid("a key twice", "instances", text('{"instances": [], "instances": []}')),
    invalid("a list of parameters", "parameters", body(GOOD, parameters=[1]), says="object"),
    invalid("an empty list of parameters", "parameters", body(GOOD, parameters=[]), says="object"),
    invalid("a field in the query", "alpha", body(GOOD) | {"params": {"alpha": "0.5"}}, says="parameters"),
    invalid("a model among the fields", "model", fields(model=NETWORK), says="fields: fit"),
    invalid("an image among the fields", "image", fields(image="overlay")),
    invalid("a field out of range", "alpha", fields(alpha=7), says="from 0 to 1"),
    invalid("a number as text", "alpha", fields(alpha="0.5"), says="a number"),
    invalid("an unknown method", "method", fields(method="eigencam"), says="shapleycam"),
    invalid("an unknown layer", "layer", fields(layer="nowhere.at.all")),
    invalid("a layer to predict", "layer", body(GOOD, parameters={"layer": "pre_gap"}), PREDICT, says="top_k"),
    invalid("too many classes", "top_k", fields(top_k=1001), PREDICT, says="1 to 1000"),
    invalid("too many targets", "target", fields(target=list(range(17))), says="16"),
    invalid("thousands of values", "body", text('{"instances": [' + "1," * 5000 + "1]}")),
    invalid(
        "too many maps",
        "include",
        body(*[GOOD] * 64, parameters={"target": list(range(16)), "include": ["heatmap", "explanation_map"]}),
        says="67108864 px",
    ),
]

NO_IMAGES = [
    ("nothing", {}, 422, "invalid_parameter", "image"),
    ("a string", "x", 422, "invalid_parameter", "instances"),
    ("a null", None, 422, "invalid_parameter", "instances"),
    ("two shapes", GOOD | {"b64": b64(PICTURE)}, 422, "invalid_parameter", "image"),
    ("an unknown key", GOOD | {"label": 3}, 422, "invalid_parameter", "label"),
    ("another key alone", {"url": "x"}, 422, "invalid_parameter", "url"),
    ("an image that is a string", {"image": b64(PICTURE)}, 422, "invalid_parameter", "image"),
    ("an image of more", {"image": {"b64": b64(PICTURE), "url": "x"}}, 422, "invalid_parameter", "image"),
    ("a number", {"b64": 1}, 422, "invalid_parameter", "b64"),
    ("a null for data", {"data": None}, 422, "invalid_parameter", "data"),
    ("no base64", NO_BASE64, 400, "malformed_body", "b64"),
    ("base64 for URLs", {"data": "_-_-"}, 400, "malformed_body", "data"),
    ("base64 without padding", {"image": {"b64": b64(PICTURE)[:-3]}}, 400, "malformed_body", "image.b64"),
    ("an empty file", {"b64": ""}, 415, "unsupported_media_type", "image"),
    ("no picture", NO_PICTURE, 415, "unsupported_media_type", "image"),
    ("half a picture", instance(PICTURE[:9999]), 422, "image_unreadable", "image"),
    ("one pixel", instance(encoded(Image.new("RGB", (1, 1)), "PNG")), 422, "image_too_small", "image"),
    ("a claim", instance(claiming(50_000, 50_000)), 413, "too_many_pixels", "image"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named(client: httpx.Client, mistake: Mistake) -> None:
    response = client.post(mistake.path, **mistake.request)
    assert_named(mistake, response)
    assert "instance" not in response.json()["detail"]


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize(("name", "bad", "status", "code", "field"), NO_IMAGES, ids=[row[0] for row in NO_IMAGES])
def test_a_bad_instance_is_named(
    client: httpx.Client, verb: str, name: str, bad: Any, status: int, code: str, field: str
) -> None:
    response = post(client, verb, [GOOD, GOOD, bad])
    error = response.json()
    assert (response.status_code, error["code"]) == (status, code), name
    assert (error["detail"]["instance"], error["detail"]["field"]) == (2, field)
    assert error["detail"]["expected"]
    assert error["error"].startswith("instance 2: ")


@pytest.mark.parametrize(
    ("instances", "lowest", "code"),
    [
        ([GOOD, CUT, NO_PICTURE], 1, "image_unreadable"),
        ([GOOD, NO_PICTURE, CUT], 1, "unsupported_media_type"),
        ([CUT, GOOD, NO_BASE64, NO_PICTURE], 0, "image_unreadable"),
        ([GOOD, NO_BASE64, NO_PICTURE], 1, "malformed_body"),
        ([GOOD] * 9 + [CUT, NO_PICTURE, NO_BASE64, {}], 9, "image_unreadable"),
    ],
    ids=["slow and fast", "fast and slow", "slow and no base64", "no base64 and fast", "many"],
)
def test_of_several_bad_instances_the_first_is_named(
    client: httpx.Client, instances: list[Any], lowest: int, code: str
) -> None:
    for verb in ("predict", "explain", "explain"):
        error = post(client, verb, instances, top_k=1).json()
        assert (error["detail"]["instance"], error["code"]) == (lowest, code)


def test_a_call_that_went_wrong_disturbs_no_other(client: httpx.Client) -> None:
    (expected,) = call(client, "predict", [GOOD])
    for bad in (CUT, NO_PICTURE, NO_BASE64):
        assert post(client, "explain", [GOOD, bad]).status_code >= 400
    assert call(client, "predict", [GOOD])[0]["predictions"][0]["index"] == expected["predictions"][0]["index"]


@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_another_http_method_is_405_and_the_right_one_named(client: httpx.Client, verb: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = client.request(method, f"/v1/models/{NETWORK}:{verb}")
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
        assert response.headers["allow"] == "POST"


SIXTEEN = list(range(16))
SQUARE = instance(encoded(Image.new("RGB", (1024, 1024), "teal"), "PNG"))
LARGER = instance(encoded(Image.new("RGB", (1024, 1025), "teal"), "PNG"))


def test_overlays_that_are_too_large_together_are_refused(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"target": SIXTEEN, "metrics": False, "max_side": 0, "include": ["overlay"]}
    response = post(client, "explain", [SQUARE, SQUARE, LARGER, SQUARE], **asked)
    error = response.json()
    assert (response.status_code, error["code"]) == (422, "invalid_parameter")
    assert error["detail"]["field"] == "max_side"
    assert "at most 67108864 px" in error["detail"]["expected"]
    assert "instance" not in error["detail"]
    # Exactly so many are allowed, and pictures that nobody draws count for nothing.
    replies = call(client, "explain", [SQUARE] * 4, **asked)
    assert [len(reply["explanations"]) for reply in replies] == [16] * 4
    assert call(client, "explain", [LARGER] * 5, **asked | {"include": []})


def test_a_picture_that_cannot_be_used_is_named_before_overlays_that_are_too_large(client: httpx.Client) -> None:
    for _ in range(3):
        response = post(client, "explain", [SQUARE] * 5 + [NO_PICTURE], target=SIXTEEN, max_side=0, metrics=False)
        assert (response.status_code, response.json()["detail"]["instance"]) == (415, 5)


def test_attributions_of_too_many_values_together_are_refused(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"layer": "conv1", "method": "fakecam", "target": SIXTEEN[:10], "metrics": False}
    response = post(client, "explain", [GOOD] * 40, "small", include=["attribution"], **asked)
    error = response.json()
    assert (response.status_code, error["code"], error["detail"]["field"]) == (422, "invalid_parameter", "include")
    assert "at most 4194304 values" in error["detail"]["expected"]


def test_what_all_instances_take_together_must_fit_the_time(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"layer": "blocks.3", "method": "shapley-sampling", "metrics": False, "include": []}
    assert call(client, "explain", [GOOD], permutations=2, **asked)
    response = post(client, "explain", [GOOD] * 64, permutations=64, **asked)
    error = response.json()
    assert (response.status_code, error["detail"]["field"]) == (422, "permutations")
    assert error["detail"]["estimate_s"] > error["detail"]["limit_s"] == 120
