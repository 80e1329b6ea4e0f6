"""Whatever a caller sends wrongly is answered as docs/api.md says, and harms no other request."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.pictures import encoded, gradient
from testing.serving import Service
from tests.api.asking import JSON, ask_one, json_body, values
from tests.api.mistakes import BODIES, COMPARISONS, FIELDS, FILES, IMAGE, Mistake, assert_named

ALONE = [*FILES, *BODIES, *FIELDS]
MISTAKES = [*ALONE, *COMPARISONS]


@pytest.mark.parametrize("mistake", ALONE, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_and_the_next_request_unharmed(
    client: httpx.Client, good: Callable[[], None], mistake: Mistake
) -> None:
    assert_named(mistake, client.post(mistake.path, **mistake.request))
    good()


@pytest.mark.parametrize("size", [(8, 500_000), (500_000, 8)])
def test_a_long_and_thin_picture_is_explained_at_once(
    client: httpx.Client, good: Callable[[], None], size: tuple[int, int]
) -> None:
    image = encoded(Image.fromarray(gradient(size[1], size[0])), "PNG")
    for fit in ("crop", "stretch", "pad"):
        started = time.perf_counter()
        explanation = ask_one(client, image, fit=fit)
        assert time.perf_counter() - started < 5
        assert max(explanation["overlay"]["width"], explanation["overlay"]["height"]) == 1024
    good()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/explain", "POST"),
        ("PUT", "/v1/explain", "POST"),
        ("DELETE", "/v1/predict", "POST"),
        ("POST", "/livez", "GET"),
        ("POST", "/v1/models", "GET"),
        ("PATCH", "/v1/models/small", "GET"),
    ],
)
def test_another_http_method_is_405_and_the_right_one_named(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    body = response.json()
    assert list(body) == ["error", "code", "detail"]
    assert (body["code"], body["detail"]["expected"]) == ("method_not_allowed", allowed)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/models/small/weights", "/v2/models/small/config", "/%ed%a0%80"]
)
def test_a_path_that_leads_nowhere_is_404(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        response = client.request(method, path)
        assert response.status_code == 404
        assert list(response.json()) == ["error", "code", "detail"]
        assert response.json()["code"] == "not_found"


def test_a_model_that_is_not_loaded_is_404_and_the_loaded_ones_named(client: httpx.Client) -> None:
    for path in ("/v1/models/vgg99", "/v1/models/vgg99/labels", "/v1/models/%00%ff"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["code"] == "unknown_model"
        assert response.json()["detail"]["expected"] == "one of tf_efficientnet_lite0, small, vit"


def test_a_null_in_json_is_the_default_where_a_field_has_none(client: httpx.Client) -> None:
    body = json_body(IMAGE, model=None, layer=None, tolerance=None, metrics=False)
    assert client.post("/v1/explain", content=body, headers=JSON).json()["layer"] == "pre_gap"


def test_json_may_carry_one_target_as_a_number_or_none_to_send(client: httpx.Client) -> None:
    body = json_body(IMAGE, target=285, include=[], metrics=False)
    (explanation,) = client.post("/v1/explain", content=body, headers=JSON).json()["explanations"]
    assert explanation["target"]["index"] == 285
    assert [explanation[name] for name in ("heatmap", "overlay", "attribution")] == [None] * 3


def test_bad_input_at_the_same_time_disturbs_no_good_request(service: Service, client: httpx.Client) -> None:
    expected = values(ask_one(client, IMAGE, include="attribution", metrics="false"))

    def work(number: int) -> int:
        if number % 2:
            mistake = MISTAKES[number * 7 % len(MISTAKES)]
            return httpx.post(service.url + mistake.path, timeout=60, **mistake.request).status_code
        found = values(ask_one(client, IMAGE, include="attribution", metrics="false"))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        return 200

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(work, range(60)))
    assert statuses[::2] == [200] * 30
    assert max(statuses) < 500


def test_nothing_of_this_was_unforeseen(service: Service, client: httpx.Client) -> None:
    """Runs last in this file: the service's log holds no traceback."""
    assert client.get("/livez").status_code == 200
    assert "Traceback" not in service.log.read_text()
    assert json.loads(client.get("/readyz").text) == {"status": "ready"}
