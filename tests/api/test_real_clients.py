"""The protocols' own clients, from PyPI, find what they look for.

They live in `.venv-clients`, which `make test` builds; without it these tests fail.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from testing.serving import ROOT, Service
from tests.api.asking import ask, pixels, values

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NETWORK = "tf_efficientnet_lite0"


def run(script: str, address: str, picture: Path) -> dict[str, Any]:
    """What a script of `clients/` has seen."""
    assert PYTHON.exists(), "the protocols' clients are not installed: run `make .venv-clients/.installed`"
    command = [PYTHON, Path(__file__).with_name("clients") / script, address, NETWORK, picture]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert isinstance(seen, dict)
    return seen


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory, chelsea: bytes) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "chelsea.png"
    file.write_bytes(chelsea)
    return file


@pytest.fixture(scope="module")
def kserve(service: Service, picture: Path) -> dict[str, Any]:
    return run("kserve_client.py", service.url, picture)


@pytest.fixture(scope="module")
def triton(service: Service, picture: Path) -> dict[str, Any]:
    return run("triton_client.py", service.url.removeprefix("http://"), picture)


def test_kserve_finds_the_service_alive_and_its_network_ready(kserve: dict[str, Any]) -> None:
    first, second = kserve["first_version"], kserve["second_version"]
    assert (first["live"], first["model_ready"]) == (True, True)
    assert (second["live"], second["ready"], second["model_ready"]) == (True, True, True)


def test_kserve_finds_no_network_that_is_not_loaded(kserve: dict[str, Any]) -> None:
    assert kserve["second_version"]["unknown_model_ready"] is False
    assert kserve["first_version"]["unknown_model"].startswith("404 there is no network 'vgg99' here")


def test_kserve_predicts_what_the_service_predicts(
    kserve: dict[str, Any], client: httpx.Client, chelsea: bytes
) -> None:
    expected = ask(client, chelsea, "/v1/predict", top_k=3)["predictions"]
    predictions = kserve["first_version"]["predict"]["predictions"]
    assert len(predictions) == 2
    for reply in predictions:
        assert [found["label"] for found in reply["predictions"]] == [entry["label"] for entry in expected]
        for found, entry in zip(reply["predictions"], expected, strict=True):
            assert found["logit"] == pytest.approx(entry["logit"], abs=1e-3)


def test_kserve_explains_what_the_service_explains(
    kserve: dict[str, Any], client: httpx.Client, chelsea: bytes
) -> None:
    (expected,) = ask(client, chelsea, include="heatmap,attribution")["explanations"]
    explanations = kserve["first_version"]["explain"]["explanations"]
    assert len(explanations) == 2
    for reply in explanations:
        (found,) = reply["explanations"]
        np.testing.assert_allclose(values(found), values(expected), rtol=1e-3, atol=1e-4)
        assert np.abs(pixels(found["heatmap"]).astype(int) - pixels(expected["heatmap"])).max() <= 1
        assert found["overlay"] is None


def test_kserve_is_told_which_instance_is_no_picture(kserve: dict[str, Any]) -> None:
    assert kserve["first_version"]["no_picture"].startswith("415 instance 2: ")


def test_both_clients_are_told_where_to_post_pictures_instead(kserve: dict[str, Any], triton: dict[str, Any]) -> None:
    message = f"inference on tensors is not supported: send pictures to POST /v1/models/{NETWORK}:predict"
    assert kserve["second_version"]["infer"].startswith(f"501 {message}")
    assert triton["infer"] == ["501", message]


def test_triton_finds_the_service_and_its_network_ready(triton: dict[str, Any]) -> None:
    assert (triton["live"], triton["ready"]) == (True, True)
    assert triton["model_ready"] == [True, True]
    assert triton["unknown_ready"] == [False, False]


def test_triton_reads_what_the_service_and_its_network_are(triton: dict[str, Any]) -> None:
    assert triton["server"].keys() == {"name", "version", "extensions"}
    model = triton["model"]
    assert model == triton["version"]
    assert (model["name"], model["versions"]) == (NETWORK, ["1"])
    assert [tensor["datatype"] for tensor in model["inputs"]] == ["BYTES"]
    assert [tensor["shape"] for tensor in model["outputs"]] == [[-1, 1000], [-1, 1000]]
