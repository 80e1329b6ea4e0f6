"""A service with keys, CORS and traces, as an operator sets it up."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.serving import Service, log_line, serving
from tests.api.collector import Collector, collecting

OPS, ALICE = "0123456789abcdef-ops", "0123456789abcdef-alice"
PAGE = "https://pages.example"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "keys"
    path.write_text(f"ops: {OPS}\nalice: {ALICE}\n")
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, keys_file: Path, collector: Collector) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_SERVICE_NAME", "cams")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        folder = tmp_path_factory.mktemp("guarded")
        with serving(folder, models="small,pair", api_keys_file=keys_file, cors_origins=PAGE, trunk="eager") as running:
            yield running


@pytest.fixture(scope="module")
def caller(guarded: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, headers={"Authorization": f"Bearer {ALICE}"}, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(guarded: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/"])
def test_probes_need_no_key(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(path).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_the_page_and_its_files_need_none(stranger: httpx.Client, accept: str) -> None:
    for path in ("/", "/page/main.js", "/page/examples/coffee.jpg"):
        assert stranger.get(path, headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/explain"),
        ("POST", "/v1/models/small:explain"),
        ("GET", "/v1/models"),
        ("GET", "/v1/requests/order-66"),
        ("GET", "/v2"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/livez/"),
        ("GET", "/livez/../metrics"),
        ("POST", "/"),
        ("POST", "/page/main.js"),
        ("GET", "/page"),
        ("GET", "/pages"),
        ("OPTIONS", "/v1/explain"),
    ],
)
def test_everything_else_does(stranger: httpx.Client, method: str, path: str) -> None:
    reply = stranger.request(method, path)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json()["code"] == "unauthorized"
    assert reply.json()["detail"]["field"] == "Authorization"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Basic {OPS}", f"Bearer {OPS[:-1]}", f"Bearer {OPS}x", f"Bearer {OPS} {ALICE}", OPS],
)
def test_what_is_no_key_does_not_open(stranger: httpx.Client, authorization: str) -> None:
    assert stranger.get("/v1/models", headers={"Authorization": authorization}).status_code == 401


def test_two_keys_are_none(stranger: httpx.Client) -> None:
    headers = [("Authorization", f"Bearer {OPS}"), ("Authorization", f"Bearer {ALICE}")]
    assert stranger.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_opens(stranger: httpx.Client, scheme: str) -> None:
    assert stranger.get("/v1/models", headers={"Authorization": f"{scheme} {OPS}"}).status_code == 200


def test_a_large_body_without_a_key_is_answered_and_not_kept(stranger: httpx.Client) -> None:
    reply = stranger.post("/v1/explain", content=bytes(20 * 2**20), headers={"Content-Type": "image/png"})
    assert reply.status_code == 401


def test_log_and_metrics_know_the_callers_name_and_not_its_key(
    guarded: Service, caller: httpx.Client, chelsea: bytes
) -> None:
    request_id = "order-66/a"
    reply = caller.post("/v1/explain", files={"image": chelsea}, headers={"X-Request-ID": request_id})
    assert reply.headers["x-request-id"] == request_id
    line = log_line(guarded.log, request_id=request_id, logger="app.access")
    assert line["key"] == "alice"
    assert (line["route"], line["status"], line["model"], line["method"]) == ("/v1/explain", 200, "small", "shapleycam")
    families = {family.name: family for family in text_string_to_metric_families(caller.get("/metrics").text)}
    counted = {sample.labels["key"] for sample in families["cam_key_requests"].samples}
    assert "alice" in counted
    for key in (OPS, ALICE):
        assert key not in guarded.log.read_text()
        assert key not in caller.get("/metrics").text


def test_a_changed_file_is_obeyed_without_a_restart(guarded: Service, stranger: httpx.Client, keys_file: Path) -> None:
    before = keys_file.read_text()
    new = "0123456789abcdef-bob"

    def status(key: str) -> int:
        return stranger.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    keys_file.write_text(before.replace(f"ops: {OPS}", f"bob: {new}"))
    try:
        deadline = time.monotonic() + 20
        while status(new) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert status(OPS) == 401
        assert status(ALICE) == 200
    finally:
        keys_file.write_text(before)
    while status(OPS) != 200:
        time.sleep(0.1)
    assert guarded.process.poll() is None


def test_the_openapi_document_asks_for_the_key(caller: httpx.Client) -> None:
    document = caller.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in {"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
            assert (operation.get("security", []) == []) is is_open, path
            assert ("401" in operation["responses"]) is not is_open, path


def test_pages_of_the_named_origin_may_call(stranger: httpx.Client, caller: httpx.Client) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    reply = stranger.options("/v1/explain", headers={"Origin": PAGE, **asked})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    reply = caller.get("/v1/models", headers={"Origin": PAGE})
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert {"X-Explanation", "X-Request-ID"} <= set(reply.headers["access-control-expose-headers"].split(", "))
    refused = stranger.get("/v1/models", headers={"Origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE, "the page could not read the error"


def test_other_pages_may_not(stranger: httpx.Client, caller: httpx.Client) -> None:
    other = {"Origin": "https://evil.example"}
    reply = stranger.options("/v1/explain", headers={**other, "Access-Control-Request-Method": "POST"})
    assert reply.status_code == 400
    assert "access-control-allow-origin" not in caller.get("/v1/models", headers=other).headers


def test_a_request_is_one_trace_with_its_stages(caller: httpx.Client, chelsea: bytes, collector: Collector) -> None:
    parent = "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{TRACE}-{parent}-01", "X-Request-ID": "traced"}
    reply = caller.post("/v1/explain", files={"image": chelsea}, headers=headers)
    timing = reply.json()["timing_ms"]
    spans = collector.trace(TRACE, "POST /v1/explain")
    server = spans["POST /v1/explain"]
    assert server.parent_span_id.hex() == parent
    assert collector.services == {"cams"}
    assert collector.paths == {"/v1/traces"}, "metrics and logs have other ways"
    for stage in ("decode", "queue", "compute", "render"):
        span = spans[stage]
        assert span.parent_span_id == server.span_id
        lasted_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        assert lasted_ms == pytest.approx(timing[stage], abs=0.01)
        assert server.start_time_unix_nano <= span.start_time_unix_nano
        assert {item.key: item.value.string_value for item in span.attributes}["cam.model"] == "small"


def test_questions_about_requests_make_no_spans(caller: httpx.Client, collector: Collector) -> None:
    trace = TRACE[::-1]
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    for path in ("/v1/requests/order-66", "/v1/models"):
        caller.get(path, headers=headers)
    assert set(collector.trace(trace, "GET /v1/models")) == {"GET /v1/models"}


def test_log_lines_carry_the_trace(guarded: Service, caller: httpx.Client) -> None:
    caller.get("/v1/models", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-ID": "with-trace"})
    line = log_line(guarded.log, request_id="with-trace")
    assert line["trace_id"] == TRACE


def test_a_network_of_few_classes_lists_them_all_by_default(caller: httpx.Client, chelsea: bytes) -> None:
    for path in ("/v1/explain", "/v1/predict", "/v1/compare"):
        reply = caller.post(path, files={"image": chelsea}, data={"model": "pair"})
        assert {prediction["label"] for prediction in reply.json()["predictions"]} == {"yes", "no"}
    refused = caller.post("/v1/predict", files={"image": chelsea}, data={"model": "pair", "top_k": 5})
    assert refused.status_code == 422
    assert refused.json()["detail"]["expected"] == "a whole number from 1 to 2"
