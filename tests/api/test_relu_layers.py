"""A layer that is the ReLU after a module: how it is named, requested, and what is refused."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from testing.serving import serving
from tests.api.asking import JPEG, JSON, ask, json_body, values

LAYER = "features.norm5+relu"
FIELDS = {"target": 3, "metrics": False, "include": "attribution", "method": "gradcam"}
FORM = {name: str(value).lower() for name, value in FIELDS.items()}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serving(tmp_path_factory.mktemp("dense"), models="dense", trunk="eager") as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def post(client: httpx.Client, image: bytes, query: str) -> httpx.Response:
    """Posts the picture itself with a query as it is written."""
    return client.post(f"/v1/explain?{query}&metrics=false&include=attribution&method=gradcam&target=3", content=image)


def test_the_network_states_the_path(dense: httpx.Client) -> None:
    described = dense.get("/v1/models/dense").json()
    assert described["layers"]["pre_gap"] == LAYER
    assert described["layers"]["last_norm"] == "features.norm0+relu", "as configured"


def test_every_way_to_ask_for_it_is_answered_as_pre_gap_is(dense: httpx.Client, chelsea: bytes) -> None:
    named = ask(dense, chelsea, **FORM)
    assert (named["layer"], named["layer_path"]) == ("pre_gap", LAYER)
    dense.headers.update(JPEG)
    replies: list[dict[str, Any]] = [
        post(dense, chelsea, "layer=features.norm5%2Brelu").json(),
        dense.post("/v1/explain", content=json_body(chelsea, layer=LAYER, **FIELDS), headers=JSON).json(),
    ]
    del dense.headers["content-type"]
    replies.append(ask(dense, chelsea, layer=LAYER, **FORM))
    for reply in replies:
        assert (reply["layer"], reply["layer_path"]) == (LAYER, LAYER)
        np.testing.assert_allclose(values(reply["explanations"][0]), values(named["explanations"][0]), rtol=1e-5)


def test_the_module_alone_is_another_layer(dense: httpx.Client, chelsea: bytes) -> None:
    found = ask(dense, chelsea, layer=["features.norm5", LAYER], **FORM)
    assert found["layer_path"] == ["features.norm5", LAYER]
    before, after = (values({"attribution": entry}) for entry in found["explanations"][0]["attribution"])
    assert np.abs(before - after).max() > 0.01 * np.abs(after).max()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("layer=features.norm5+relu", "no module 'features.norm5 relu'; in a query, write + as %2B"),
        ("layer=features.norm9%2Brelu", "no module 'features.norm9'"),
        ("layer=features.denseblock4%2Brelu", "applies no ReLU to what 'features.denseblock4' returns"),
        ("layer=features.conv0%2Brelu", "applies no ReLU to what 'features.conv0' returns"),
        ("layer=%2Brelu", "no module ''"),
        ("layer=features.norm5%2Brelu%2Brelu", "no module 'features.norm5+relu'"),
        ("layer=features.norm5%2BReLU", "no module 'features.norm5+ReLU'"),
        ("layer=pre_gap,features.norm5%2Brelu", "which is given already"),
    ],
)
def test_what_the_network_does_not_do_is_refused_in_words(
    dense: httpx.Client, chelsea: bytes, query: str, words: str
) -> None:
    for _ in range(2):  # the second time from what was found out the first
        response = dense.post(f"/v1/explain?{query}", content=chelsea, headers=JPEG)
        assert response.status_code == 422, response.text
        error = response.json()
        assert words in error["error"]
        assert (error["code"], error["detail"]["field"]) == ("invalid_parameter", "layer")
