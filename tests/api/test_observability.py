"""What the service says of itself: metrics, logs, request ids and headers."""

import json
import re
import socket
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.errors import ERRORS
from testing.pictures import encoded, noise
from testing.serving import Service, log_line, serving, wait_for_in_flight
from tests.api.asking import JPEG, ask

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
STAGES = ("decode", "queue", "compute", "render")


@pytest.fixture
def samples(client: httpx.Client) -> Callable[[], Samples]:
    """All samples of `/metrics` by name and labels."""

    def read() -> Samples:
        text = client.get("/metrics").raise_for_status().text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return read


def growth(before: Samples, after: Samples, name: str, **labels: str) -> float:
    key = (name, frozenset(labels.items()))
    return after[key] - before.get(key, 0.0)


def test_a_request_counts_in_its_route_status_and_stages(
    client: httpx.Client, chelsea: bytes, samples: Callable[[], Samples]
) -> None:
    before = samples()
    reply = ask(client, chelsea, model="small", method="gradcam", metrics="false")
    after = samples()
    assert growth(before, after, "cam_requests_total", route="/v1/explain", http_method="POST", status="200") == 1
    total = {"route": "/v1/explain", "model": "small", "method": "gradcam"}
    assert growth(before, after, "cam_total_seconds_count", **total) == 1
    seconds = growth(before, after, "cam_total_seconds_sum", **total)
    assert seconds == pytest.approx(reply["timing_ms"]["total"] / 1e3, abs=1e-6)
    for stage in STAGES:
        assert growth(before, after, f"cam_{stage}_seconds_count", model="small") == 1
        seconds = growth(before, after, f"cam_{stage}_seconds_sum", model="small")
        assert seconds == pytest.approx(reply["timing_ms"][stage] / 1e3, abs=1e-6)
    assert growth(before, after, "cam_batch_size_sum", device="cpu") == 1
    assert growth(before, after, "cam_batch_fill_ratio_count", device="cpu") == 1


def test_a_reply_counts_before_it_has_come(service: Service, samples: Callable[[], Samples]) -> None:
    """Else who asks for the metrics after a reply would find them without it now and then."""
    before = samples()
    noisy = encoded(noise(2000, 2000, 3), "PNG", compress_level=1)
    fields = {"model": "small", "metrics": "false", "max_side": "0"}
    # Of 15 MB a socket takes a part; the service waits with the rest until that is read.
    narrow = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)])
    with (
        httpx.Client(base_url=service.url, transport=narrow, timeout=60) as slow,
        slow.stream("POST", "/v1/explain", files={"image": noisy}, data=fields) as response,
    ):
        now = samples()
        assert now["cam_in_flight", frozenset()] == 1
        answered = {"route": "/v1/explain", "http_method": "POST", "status": "200"}
        assert growth(before, now, "cam_requests_total", **answered) == 1
        response.read()
    assert growth(before, samples(), "cam_requests_total", **answered) == 1


def test_compare_and_predict_count_too(client: httpx.Client, chelsea: bytes, samples: Callable[[], Samples]) -> None:
    before = samples()
    ask(client, chelsea, "/v1/compare", model="small", method=["gradcam", "layercam"])
    ask(client, chelsea, "/v1/predict", model="small")
    after = samples()
    for route, method in (("/v1/compare", "several"), ("/v1/predict", "none")):
        assert growth(before, after, "cam_total_seconds_count", route=route, model="small", method=method) == 1


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/v1/explain", b"", 422, "invalid_parameter"),
        ("/v1/explain", b"no picture", 415, "unsupported_media_type"),
        ("/v1/explain?model=other", b"no picture", 404, "unknown_model"),
    ],
)
def test_a_refusal_counts_by_its_code(
    client: httpx.Client, samples: Callable[[], Samples], path: str, content: bytes, status: int, code: str
) -> None:
    before = samples()
    assert client.post(path, content=content, headers=JPEG).status_code == status
    after = samples()
    assert growth(before, after, "cam_rejected_total", reason=code) == 1
    labels = {"route": "/v1/explain", "http_method": "POST", "status": str(status)}
    assert growth(before, after, "cam_requests_total", **labels) == 1


def test_nothing_that_a_caller_writes_becomes_a_label(client: httpx.Client, samples: Callable[[], Samples]) -> None:
    word = "x7w9q2"
    client.get(f"/{word}")
    client.get(f"/v1/models/{word}")
    client.post(f"/v1/models/{word}:predict", json={"instances": [{}]})
    client.get(f"/docs/{word}")
    client.get(f"/static-offline-docs/{word}")
    client.request("PURGE" + word.upper(), "/v1/models")
    client.post("/v1/explain", params={"method": word, "model": word}, content=b"x", headers=JPEG)
    client.get("/v1/models", headers={"X-Request-ID": word, "User-Agent": word})
    text = client.get("/metrics").text
    assert word not in text.lower()
    assert (
        "cam_requests_total",
        frozenset({("route", "other"), ("http_method", "GET"), ("status", "404")}),
    ) in samples()
    template = {("route", "/v1/models/{name}"), ("http_method", "GET"), ("status", "404")}
    assert ("cam_requests_total", frozenset(template)) in samples()


def test_gauges_tell_the_state(client: httpx.Client, samples: Callable[[], Samples]) -> None:
    wait_for_in_flight(client, 0, [])  # what was just answered may still be on its way out
    now = samples()
    assert now["cam_ready", frozenset()] == 1
    assert now["cam_in_flight", frozenset()] == 0
    assert now["cam_queue_limit", frozenset()] == 128
    assert now["cam_queue_depth", frozenset({("device", "cpu")})] == 0
    assert now["cam_held_bytes", frozenset({("kind", "bodies")})] == 0
    assert now["cam_held_bytes", frozenset({("kind", "pictures")})] == 0
    assert now["cam_decoders_idle", frozenset()] >= 1
    networks = {dict(labels)["model"] for name, labels in now if name == "cam_model_info"}
    assert networks == {"tf_efficientnet_lite0", "small", "vit"}
    assert now["process_resident_memory_bytes", frozenset()] > 1e8


def test_programs_may_ask_for_openmetrics(client: httpx.Client) -> None:
    reply = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")


def test_server_timing_says_what_the_reply_says(client: httpx.Client, chelsea: bytes) -> None:
    for path in ("/v1/explain", "/v1/compare", "/v1/predict"):
        reply = client.post(path, files={"image": chelsea}, data={"model": "small"})
        said = dict(re.findall(r"(\w+);dur=([0-9.]+)", reply.headers["server-timing"]))
        assert {name: float(ms) for name, ms in said.items()} == reply.json()["timing_ms"]
    picture = client.post("/v1/explain", files={"image": chelsea}, headers={"Accept": "image/png"})
    timing = json.loads(picture.headers["x-explanation"])["timing_ms"]
    assert f"total;dur={timing['total']:.3f}" in picture.headers["server-timing"]


@pytest.mark.parametrize("given", ["a", "Root=1-67891233-abcdef012345678912345678", "x" * 128])
def test_a_callers_request_id_comes_back(client: httpx.Client, given: str) -> None:
    assert client.get("/v1/models", headers={"X-Request-ID": given}).headers["x-request-id"] == given
    assert client.get("/nothing", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'a"b', "a{b}", "a\tb"])
def test_others_get_a_new_one(client: httpx.Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    ids = {client.get("/v1/models", headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", made) for made in ids)


def test_the_log_is_an_object_a_line(service: Service, client: httpx.Client, chelsea: bytes) -> None:
    headers = {"X-Request-ID": "logged"}
    client.post("/v1/explain?alpha=7", files={"image": chelsea}, headers=headers)
    line = log_line(service.log, request_id="logged", logger="app.access")
    assert (line["level"], line["status"], line["code"]) == ("INFO", 422, "invalid_parameter")
    assert (line["http_method"], line["route"], line["path"]) == ("POST", "/v1/explain", "/v1/explain")
    assert line["client"] == "127.0.0.1"
    assert line["duration_ms"] > 0
    assert "time" in line


def test_a_path_cannot_forge_a_line_of_the_log(service: Service, client: httpx.Client) -> None:
    client.get('/a%0A{"level": "ERROR"}%0Ab', headers={"X-Request-ID": "forged"})
    line = log_line(service.log, request_id="forged")
    assert line["level"] == "INFO"
    assert "\n" not in line["path"]


def test_people_get_a_line_of_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"models": "vit", "trunk": "eager", "log_format": "text"}
    with serving(tmp_path_factory.mktemp("text"), ready=False, **settings) as running:
        httpx.get(f"{running.url}/v1/methods")
        running.wait_until_ready()
        log = running.log.read_text()
    assert re.search(r"^\d\d:\d\d:\d\d INFO: GET /v1/methods 200 \d+\.\d ms$", log, re.MULTILINE), log
    assert "/readyz" not in log, "probes would hide the rest"


def test_every_reply_tells_browsers_to_trust_nothing(client: httpx.Client, chelsea: bytes) -> None:
    replies = [
        client.get("/v1/models"),
        client.get("/nothing"),
        client.post("/v1/explain", files={"image": chelsea}, headers={"Accept": "image/png"}),
    ]
    for reply in replies:
        assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in reply.headers


def test_rejections_are_counted_for_known_codes_only(samples: Callable[[], Samples]) -> None:
    counted = {dict(labels)["reason"] for name, labels in samples() if name == "cam_rejected_total"}
    assert counted <= {error.code for error in ERRORS}
