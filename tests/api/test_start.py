"""From the first breath of the service to its last: readiness, limits, failed starts, the end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from service_models import CATALOGUE
from testing.footprint import children_of
from testing.pictures import encoded, photograph
from testing.serving import Service, environment, serving, start
from tests.api.asking import JPEG

IMAGE = encoded(photograph("rocket"), "JPEG")
FIVE = "target=1&target=2&target=3&target=4&target=5"
LIMITS = {"queue_size": 1, "timeout_s": 5, "max_megapixels": 0.5, "max_body_mib": 1, "max_targets": 4}


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with narrow limits that has just opened its socket."""
    networks = "small,tf_efficientnet_lite0"
    with serving(tmp_path_factory.mktemp("loading"), ready=False, models=networks, **LIMITS) as running:
        yield running


def test_while_networks_load_the_service_is_alive_and_not_ready(loading: Service) -> None:
    with httpx.Client(base_url=loading.url) as client:
        answers = {
            path: client.get(path) for path in ("/readyz", "/v1/models/tf_efficientnet_lite0", "/livez", "/v1/models")
        }
        answers["/v1/explain"] = client.post("/v1/explain?model=tf_efficientnet_lite0", content=IMAGE, headers=JPEG)
    assert answers["/livez"].status_code == 200
    assert answers["/v1/models"].json() == {"models": ["small", "tf_efficientnet_lite0"]}
    for path in ("/readyz", "/v1/models/tf_efficientnet_lite0", "/v1/explain"):
        assert (answers[path].status_code, answers[path].json()["code"]) == (503, "not_ready")
        assert answers[path].headers["retry-after"]
    loading.wait_until_ready()
    with httpx.Client(base_url=loading.url) as client:
        assert client.get("/v1/models/tf_efficientnet_lite0").json()["ready"] is True
        assert client.get("/readyz").json() == {"status": "ready"}
    assert "http://127.0.0.1:" in loading.log.read_text().split("ready. The page: ")[1]


def test_the_limits_that_an_operator_sets_hold(loading: Service) -> None:
    loading.wait_until_ready()
    large = encoded(photograph("coffee").resize((1000, 600)), "JPEG", quality=60)
    with httpx.Client(base_url=loading.url, timeout=60) as client:
        assert client.post("/v1/predict", content=large, headers=JPEG).json()["code"] == "too_many_pixels"
        assert client.post("/v1/predict", content=bytes(2**20 + 1), headers=JPEG).json()["code"] == "body_too_large"
        response = client.post(f"/v1/explain?{FIVE}", content=IMAGE, headers=JPEG)
        assert (response.status_code, response.json()["detail"]["expected"]) == (422, "at most 4 targets")


def test_more_than_the_queue_holds_is_429_and_too_slow_is_504(loading: Service) -> None:
    loading.wait_until_ready()
    with httpx.Client(base_url=loading.url, timeout=60) as client:
        # Nobody reads pictures.
        for process in children_of(loading.process.pid):
            os.kill(process, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/predict", content=IMAGE, headers=JPEG), range(4)))
        refused = [answer for answer in answers if answer.status_code == 429]
        late = [answer for answer in answers if answer.status_code == 504]
        assert refused
        assert late
        assert len(refused) + len(late) == 4
        assert all(answer.json()["code"] == "queue_full" and answer.headers["retry-after"] for answer in refused)
        assert all(answer.json()["code"] == "timeout" for answer in late)
        deadline = time.monotonic() + 60
        while client.post("/v1/predict", content=IMAGE, headers=JPEG).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_sigterm_ends_the_service_in_good_order(loading: Service) -> None:
    """Runs last of those that use this service."""
    loading.wait_until_ready()
    loading.process.send_signal(signal.SIGTERM)
    assert loading.process.wait(30) == 0
    assert "Traceback" not in loading.log.read_text()


FAILURES = {
    "a broken file": ({"models": "resnet18"}, "resnet18.safetensors"),
    "an unknown network": ({"models": "resnet19"}, "resnet19"),
    "no way to the hub": ({"models": "vgg16"}, "vgg16.safetensors"),
    "a device that is none": ({"device": "banana"}, "banana"),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit status and terminal of each start that must fail, two at a time."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "resnet18.safetensors").write_bytes(b"no weights at all")
    # A port where nothing listens stands for a machine without a way out.
    nowhere = "http://127.0.0.1:9"
    offline = {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "https_proxy": nowhere, "http_proxy": nowhere}
    caches = {"TORCH_HOME": str(folder), "HF_HOME": str(folder)}

    def run(number: int, settings: dict[str, str]) -> tuple[int, str]:
        log = folder / f"{number}.txt"
        process = start(environment(weights_dir=folder, **settings) | offline | caches, log)
        try:
            return process.wait(90), log.read_text()
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(run, range(len(FAILURES)), [settings for settings, _ in FAILURES.values()])
        return dict(zip(FAILURES, ends, strict=True))


@pytest.mark.parametrize("name", FAILURES)
def test_a_network_that_cannot_be_loaded_ends_the_service_with_its_reason(
    failed: dict[str, tuple[int, str]], name: str
) -> None:
    status, terminal = failed[name]
    assert status > 0
    said = [json.loads(line) for line in terminal.splitlines() if line.startswith("{")]
    assert FAILURES[name][1] in "".join(line["message"] for line in said if line["level"] == "ERROR")
    assert "Traceback" not in terminal
    assert "The page: " not in terminal


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CAM_PORT", "abc"),
        ("CAM_PORT", "65536"),
        ("CAM_MODELS", ","),
        ("CAM_MAX_BODY_MIB", "0"),
        ("CAM_MAX_MEGAPIXELS", "-1"),
        ("CAM_MAX_TARGETS", "many"),
        ("CAM_QUEUE_SIZE", ""),
        ("CAM_TIMEOUT_S", "0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str, value: str
) -> None:
    monkeypatch.setenv(setting, value)
    assert main(["serve"]) == 2
    assert f"{setting}: " in caplog.text


def test_the_command_line_lists_the_networks_of_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CATALOGUE)


def test_a_port_that_is_taken_is_said(service: Service, tmp_path: Path) -> None:
    port = service.url.rpartition(":")[2]
    log = tmp_path / "log.txt"
    assert start(environment(port=port), log).wait(90) > 0
    assert "address already in use" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "The page: " not in log.read_text()
