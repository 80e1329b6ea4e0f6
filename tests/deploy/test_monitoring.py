"""What watches the service: its rules and its dashboard hold for what the service really says of itself."""

import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from testing.pictures import encoded, photograph
from testing.serving import ROOT, Service, serving
from tests.tools import tool

_PROMETHEUS = ROOT / "deploy/prometheus"
_GRAFANA = ROOT / "deploy/grafana"
_KEY = "a-key-of-the-monitoring-test"

# A function or an aggregation is followed by a parenthesis; these are the other words of the language.
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
_PROMETHEUS_OWN = {"up", "ALERTS"}
# Not on a machine without a GPU.
_ONLY_ON_A_GPU = {"cam_device_memory_bytes"}
_WAIT_S = 60


def _tool(name: str) -> str:
    return tool(name, "prometheus")


def _promtool(*arguments: str | Path) -> None:
    run = subprocess.run([_tool("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _dashboard() -> dict:
    return json.loads((_GRAFANA / "dashboards/service.json").read_text(encoding="utf-8"))


def _rules() -> list[dict]:
    groups = yaml.safe_load((_PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> dict[str, str]:
    """Every query of the dashboard, by its panel, with Grafana's variables as Grafana would fill them in."""
    queries = {}
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", []):
            expression = re.sub(r"\$(instance|model)\b", ".*", target["expr"]).replace("$__rate_interval", "1m")
            assert "$" not in expression, expression
            queries[f"{panel['title']} {target['refId']}"] = expression
    return queries


def _names(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r'"(\\.|[^"\\])*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b\d[\w.]*", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])", bare)) - _WORDS


@contextmanager
def _prometheus(folder: Path, service: Service) -> Iterator[httpx.Client]:
    """Runs Prometheus with the configuration of the project, on one service that listens here, and in haste."""
    configuration = yaml.safe_load((_PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [service.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    (folder / "rules.yml").write_bytes((_PROMETHEUS / "rules.yml").read_bytes())
    (folder / "metrics-key").write_text(_KEY + "\n", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [
                _tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(_WAIT_S)


def _ask(prometheus: httpx.Client, expression: str) -> list[dict]:
    answer = prometheus.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    return answer["data"]["result"]


def _wait_for(prometheus: httpx.Client, expression: str, folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            if _ask(prometheus, expression):
                return
        except (httpx.TransportError, json.JSONDecodeError):
            pass  # it is starting
        assert time.monotonic() < deadline, (expression, (folder / "log.txt").read_text())
        time.sleep(0.3)


def _use(client: httpx.Client) -> None:
    """What a service sees on any day: explanations, predictions, and callers who make mistakes."""
    key = {"Authorization": f"Bearer {_KEY}"}
    image = {"image": ("cat.jpg", encoded(photograph("chelsea"), "JPEG"))}
    assert client.post("/v1/explain", files=image, headers=key).status_code == 200
    assert client.post("/v1/predict", files=image, headers=key).status_code == 200
    assert client.post("/v1/explain", files=image, data={"layer": "none"}, headers=key).status_code == 422
    assert client.post("/v1/explain", files=image).status_code == 401


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("watched")
    keys = folder / "keys"
    keys.write_text(f"monitoring: {_KEY}\n", encoding="utf-8")
    with serving(folder, models="vit", api_keys_file=keys) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            _use(client)
        yield running


@pytest.fixture(scope="module")
def exposed(service: Service) -> set[str]:
    """The names of everything that the service exposes."""
    text = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {_KEY}"}).text
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
    return {
        family.name + suffix
        for family in text_string_to_metric_families(text)
        for suffix in suffixes.get(family.type, ("",))
    }


def test_the_configuration_and_the_rules_are_valid():
    _promtool("check", "config", _PROMETHEUS / "prometheus.yml")
    _promtool("check", "rules", _PROMETHEUS / "rules.yml")


def test_each_alert_fires_when_it_should_and_only_then():
    _promtool("test", "rules", _PROMETHEUS / "rules_test.yml")


def test_each_alert_is_tested():
    tests = (_PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in _rules()} == set(re.findall(r"\bCam[A-Z]\w+", tests))


def test_each_alert_says_what_happened_and_what_to_do():
    for rule in _rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}


def test_the_alert_for_memory_is_below_the_limit_of_the_container():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    limit = compose["services"]["service"]["deploy"]["resources"]["limits"]["memory"]
    gib = float(re.fullmatch(r"\$\{MEMORY_LIMIT:-(\d+)g\}", limit)[1])
    (rule,) = (rule for rule in _rules() if rule["alert"] == "CamMemoryNearLimit")
    assert float(re.search(r"> ([\d.]+) \* 2 \^ 30", rule["expr"])[1]) == 0.75 * gib


def test_the_dashboard_is_well_formed():
    dashboard = _dashboard()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)
        assert panel["type"] == "row" or references
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


def test_the_dashboard_asks_the_data_source_that_is_provisioned():
    sources = yaml.safe_load((_GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    (source,) = sources["datasources"]
    targets = [target for panel in _dashboard()["panels"] for target in panel.get("targets", [])]
    assert {target["datasource"]["uid"] for target in targets} == {source["uid"]}


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path):
    rules = [{"record": f"panel:query:{number}", "expr": query} for number, query in enumerate(_queries().values())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    _promtool("check", "rules", path)


def test_names_are_told_from_the_rest_of_an_expression():
    expression = 'sum by (le) (rate(a_b{c="d(e)"}[5m])) / ignoring(f) g offset 1h > 2 * 2 ^ 30 or vector(0)'
    assert _names(expression) == {"a_b", "g"}


def test_queries_and_rules_name_only_what_the_service_exposes(exposed: set[str]):
    expressions = [*_queries().values(), *(rule["expr"] for rule in _rules())]
    named = set().union(*map(_names, expressions)) - _PROMETHEUS_OWN - _ONLY_ON_A_GPU
    assert named <= exposed, named - exposed


def test_every_query_finds_series_in_a_prometheus_that_watches_the_service(tmp_path: Path, service: Service):
    with _prometheus(tmp_path, service) as prometheus:
        _wait_for(prometheus, "count_over_time(cam_ready[1m]) > 2", tmp_path)
        # Rates are of what happened between two scrapes.
        with httpx.Client(base_url=service.url, timeout=60) as client:
            _use(client)
        _wait_for(prometheus, 'rate(cam_requests_total{route="/v1/predict"}[1m]) > 0', tmp_path)
        for panel, query in _queries().items():
            found = _ask(prometheus, query)
            if not _names(query) & _ONLY_ON_A_GPU:
                assert found, (panel, query)
                assert all(series["value"][1] != "NaN" for series in found), (panel, query, found)
        (group,) = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        assert {rule["name"]: rule["health"] for rule in group["rules"]} == {rule["alert"]: "ok" for rule in _rules()}
        assert all(rule["state"] == "inactive" for rule in group["rules"]), group["rules"]
