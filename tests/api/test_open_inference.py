"""The Open Inference Protocol: health, metadata, and no inference."""

from collections.abc import Iterator

import httpx
import pytest

import app
from testing.serving import Service, serving

NETWORKS = {"tf_efficientnet_lite0": 1000, "small": 10, "vit": 10}


def assert_refused(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    error = response.json()
    assert (response.status_code, error["code"]) == (status, code)
    assert list(error) == ["error", "code", "detail"]
    detail = error["detail"]
    assert isinstance(detail, dict)
    return detail


def test_the_service_says_what_it_is(client: httpx.Client) -> None:
    expected = {"name": "shapley-cam-service", "version": app.__version__, "extensions": []}
    assert client.get("/v2").json() == expected
    assert client.get("/v2/", follow_redirects=True).json() == expected


def test_the_service_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_says_what_goes_in_and_what_comes_out(client: httpx.Client, name: str, version: str) -> None:
    assert client.get(f"/v2/models/{name}{version}").json() == {
        "name": name,
        "versions": ["1"],
        "platform": "pytorch_torch",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "probability", "datatype": "FP32", "shape": [-1, NETWORKS[name]]},
            {"name": "logit", "datatype": "FP32", "shape": [-1, NETWORKS[name]]},
        ],
    }
    assert client.get(f"/v2/models/{name}{version}/ready").json() == {"name": name, "ready": True}


@pytest.mark.parametrize("rest", ["", "/ready"])
def test_a_network_or_version_that_is_not_there_is_404(client: httpx.Client, rest: str) -> None:
    for version in ("", "/versions/1"):
        detail = assert_refused(client.get(f"/v2/models/vgg99{version}{rest}"), 404, "unknown_model")
        assert (detail["field"], detail["expected"]) == ("model", "one of tf_efficientnet_lite0, small, vit")
    detail = assert_refused(client.get(f"/v2/models/small/versions/2{rest}"), 404, "unknown_model")
    assert (detail["field"], detail["expected"]) == ("version", "1")


@pytest.mark.parametrize("path", ["small", "small/versions/1", "small/versions/7", "vgg99"])
@pytest.mark.parametrize("body", [b"", b"{", b'{"inputs": []}', b"\0" * 2**20])
def test_inference_is_not_offered_and_names_what_is(client: httpx.Client, path: str, body: bytes) -> None:
    response = client.post(f"/v2/models/{path}/infer", content=body)
    instead = f"POST /v1/models/{path.partition('/')[0]}:predict"
    assert assert_refused(response, 501, "not_implemented") == {"expected": instead}
    assert instead in response.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models", "/v2/models/small/config", "/v2/repository/index", "/v2/nowhere"])
def test_other_paths_lead_nowhere(client: httpx.Client, path: str) -> None:
    assert_refused(client.get(path), 404, "not_found")


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose second network takes long enough to load to be caught at it."""
    models = "small,vit,tf_efficientnet_lite0"
    with serving(tmp_path_factory.mktemp("late"), ready=False, trunk="eager", models=models) as running:
        yield running


def test_a_network_that_is_still_loading_is_503_and_the_service_alive(late: Service) -> None:
    with httpx.Client(base_url=late.url, timeout=60) as client:
        assert "tf_efficientnet_lite0" in str(assert_refused(client.get("/v2/health/ready"), 503, "not_ready"))
        assert client.get("/v2/health/live").json() == {"live": True}
        for path in ("", "/ready", "/versions/1", "/versions/1/ready"):
            response = client.get(f"/v2/models/tf_efficientnet_lite0{path}")
            assert_refused(response, 503, "not_ready")
            assert response.headers["retry-after"] == "1"
        late.wait_until_ready()
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/tf_efficientnet_lite0/ready").json()["ready"] is True
