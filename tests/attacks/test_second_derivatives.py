"""Networks with operations that PyTorch cannot differentiate twice: they start, and no request ends in a 500."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor, nn

from app.main import create_app
from app.runtime.runtime import Runtime
from app.runtime.served import ServedNetwork
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import Network, Preprocessing, calibrate_random_weights
from testing.pictures import encoded, photograph
from testing.serving import serving
from tests.api.asking import JPEG, ask_one, values
from tests.cam.opaque import SigmoidOnce

PHOTO = encoded(photograph("chelsea"), "JPEG")
SECOND_ORDER = ("shapleycam", "shapleycam-h", "shapleycam-e")
FIRST_ORDER = ("gradcam", "hirescam", "layercam", "aumann-shapley", "scorecam")
WAIT_S = 60


def test_a_network_with_hard_sigmoids_is_explained_at_its_inner_layers(tmp_path: Path) -> None:
    with (
        serving(tmp_path, models="gated", trunk="eager") as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        for layer in ("features.1", "features.4.block.2", "features.9"):
            for method in SECOND_ORDER:
                found = ask_one(client, PHOTO, method=method, layer=layer, metrics="false", include="attribution")
                assert found["hvp_norm"] > 0
                assert abs(values(found)).max() > 0
        assert "hardsigmoid" not in service.log.read_text()


class Odd(nn.Module):
    """A network that cannot be traced, with such a sigmoid between its two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 8, 3)
        self.classify = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        activations = self.inner(images)
        gates = SigmoidOnce.apply(activations) if images.sum() < torch.inf else activations
        return self.classify(self.last(activations * gates).relu().mean(dim=(2, 3)))


class RuntimeOfOdd(Runtime):
    """A runtime whose network is no library's."""

    def load(self) -> None:
        """Loads and warms it as others are."""
        device = torch.device("cpu")
        view = Preprocessing((32, 32), 32)
        model = calibrate_random_weights(Odd(), 0, view.input_size).requires_grad_(False)
        layers = {"pre_gap": "last", "last_conv": "inner"}
        labels = tuple(map(str, range(10)))
        worker = self.workers[str(device)] = DeviceWorker(device, self.meters)
        served = ServedNetwork(Network("odd", model, view, layers, labels, "random", device), worker)
        worker.submit(served.warm).result()
        self.networks["odd"] = served


@pytest.fixture(scope="module")
def odd() -> Iterator[TestClient]:
    runtime = RuntimeOfOdd(Settings(models=("odd",)))
    with TestClient(create_app(runtime.settings, runtime)) as client:
        deadline = time.monotonic() + WAIT_S
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, "a network without a second derivative must start"
            time.sleep(0.05)
        yield client


def explain(client: TestClient, **fields: str) -> httpx.Response:
    return client.post("/v1/explain", content=PHOTO, headers=JPEG, params={"include": "attribution", **fields})


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_method_that_needs_what_there_is_not_is_refused_by_name(odd: TestClient, method: str) -> None:
    response = explain(odd, layer="last_conv", method=method)
    assert response.status_code == 422
    error = response.json()
    assert (error["code"], error["detail"]["field"]) == ("invalid_parameter", "method")
    assert error["error"].startswith(f"'{method}' needs the second derivative of 'SigmoidOnce', which follows 'inner'")
    assert "gradcam" in error["error"]
    # What was asked wrongly says nothing of the device.
    assert odd.get("/readyz").status_code == 200


@pytest.mark.parametrize("method", FIRST_ORDER)
def test_other_methods_answer_there(odd: TestClient, method: str) -> None:
    response = explain(odd, layer="last_conv", method=method)
    assert response.status_code == 200, response.text
    assert abs(values(response.json()["explanations"][0])).max() > 0


def test_after_that_operation_every_method_answers(odd: TestClient) -> None:
    response = explain(odd, layer="pre_gap", method="shapleycam")
    assert response.status_code == 200, response.text
    assert response.json()["explanations"][0]["hvp_norm"] > 0
