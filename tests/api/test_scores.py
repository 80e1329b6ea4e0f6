"""Networks with sigmoids on the wire: several labels, each for itself, and a single logit as two labels."""

import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from testing.serving import serving
from tests.api.calls import b64


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serving(tmp_path_factory.mktemp("scores"), models="findings,mole", trunk="eager") as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def ask(client: httpx.Client, path: str, image: bytes, **fields: Any) -> dict[str, Any]:
    response = client.post(path, files={"image": image}, data=fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_each_of_several_labels_has_a_probability_of_its_own(scored: httpx.Client, chelsea: bytes) -> None:
    described = scored.get("/v1/models/findings").json()
    assert (described["scores"], described["classes"], described["channels"]) == ("sigmoid", 14, 3)
    predictions = ask(scored, "/v1/predict", chelsea, model="findings", top_k=14)["predictions"]
    for each in predictions:
        assert each["probability"] == pytest.approx(sigmoid(each["logit"]), rel=1e-5)
    assert abs(sum(each["probability"] for each in predictions) - 1) > 0.1
    assert [each["logit"] for each in predictions] == sorted((each["logit"] for each in predictions), reverse=True)


def test_a_single_logit_has_two_labels_and_each_is_explained(scored: httpx.Client, chelsea: bytes) -> None:
    assert scored.get("/v1/models/mole").json()["classes"] == 2
    assert scored.get("/v1/models/mole/labels").json() == {"labels": ["not malignant", "malignant"]}
    fields = {"model": "mole", "target": ["malignant", "not malignant"], "utility": "logit", "method": "gradcam"}
    reply = ask(scored, "/v1/explain", chelsea, **fields)
    malignant, other = reply["explanations"]
    assert reply["utility"] == malignant["utility"] == "pre-softmax"
    assert malignant["target"]["logit"] == pytest.approx(-other["target"]["logit"], rel=1e-5)
    assert malignant["target"]["probability"] + other["target"]["probability"] == pytest.approx(1, abs=1e-6)
    for one, minus in zip(malignant["attribution"]["values"], other["attribution"]["values"], strict=True):
        assert one == pytest.approx([-value for value in minus], rel=1e-4, abs=1e-5)
    assert malignant["metrics"].keys() == other["metrics"].keys()


def test_cam_takes_the_logit_of_a_sigmoid_network_by_either_name(scored: httpx.Client, chelsea: bytes) -> None:
    fields = {"model": "mole", "method": "cam", "target": "malignant"}
    one, other = (ask(scored, "/v1/explain", chelsea, utility=name, **fields) for name in ("logit", "pre-softmax"))
    assert one["explanations"][0]["attribution"] == other["explanations"][0]["attribution"]


def test_both_names_of_one_utility_are_a_double(scored: httpx.Client, chelsea: bytes) -> None:
    fields = {"model": "findings", "utility": ["probability", "post-softmax"]}
    response = scored.post("/v1/compare", files={"image": chelsea}, data=fields)
    assert response.status_code == 422
    assert response.json()["detail"]["field"] == "utility"
    assert "each once" in response.json()["error"]


def test_kserve_answers_with_the_same_scores(scored: httpx.Client, chelsea: bytes) -> None:
    body = {"instances": [{"image": {"b64": b64(chelsea)}}], "parameters": {"top_k": 2}}
    (reply,) = scored.post("/v1/models/mole:predict", json=body).json()["predictions"]
    direct = ask(scored, "/v1/predict", chelsea, model="mole", top_k=2)["predictions"]
    assert [each["probability"] for each in reply["predictions"]] == pytest.approx(
        [each["probability"] for each in direct], rel=1e-4
    )
