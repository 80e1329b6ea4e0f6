"""What callers see while the service stops: it listens on, answers what it accepted, refuses the rest, ends with 0."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from testing.pictures import encoded, photograph
from testing.serving import serving, wait_for_in_flight
from tests.api.asking import JPEG

IMAGE = encoded(photograph("rocket"), "JPEG")
# Nothing is measured by it: a machine that is busy with other work takes minutes.
PATIENCE_S = 600
# Seconds of work: 256 passes.
SCORECAM = "/v1/explain?method=scorecam&layer=layer3&metrics=false"


def test_what_was_accepted_is_answered_and_the_rest_is_refused(tmp_path: Path) -> None:
    settings = {"drain_s": PATIENCE_S, "timeout_s": PATIENCE_S}
    with serving(tmp_path, models="small", trunk="eager", **settings) as service:
        with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client, ThreadPoolExecutor(4) as pool:
            accepted = [pool.submit(client.post, SCORECAM, content=IMAGE, headers=JPEG) for _ in range(4)]
            wait_for_in_flight(client, 4, accepted)
            service.process.send_signal(signal.SIGTERM)
            while (ready := client.get("/readyz")).status_code == 200:
                assert not any(request.done() for request in accepted)
            alive = client.get("/livez")
            refused = client.post("/v1/explain", content=IMAGE, headers=JPEG)
            answers = [request.result() for request in accepted]
        assert (ready.status_code, ready.json()["code"]) == (503, "draining")
        assert alive.status_code == 200
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert [answer.status_code for answer in answers] == [200] * 4
        assert service.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in service.log.read_text()


def test_sigterm_in_the_middle_of_load_loses_no_accepted_request(tmp_path: Path) -> None:
    callers, under_way = 8, threading.Semaphore(0)

    def call(url: str, name: str) -> list[str]:
        """What became of each request; the last one finds that nobody listens."""
        outcomes: list[str] = []
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while True:
                headers = {**JPEG, "X-Request-ID": f"{name}-{len(outcomes)}"}
                try:
                    response = client.post("/v1/explain?include=attribution", content=IMAGE, headers=headers)
                except httpx.TransportError:
                    return outcomes
                outcomes.append(response.json().get("code", "answered"))
                if len(outcomes) == 2:
                    under_way.release()

    settings = {"drain_s": PATIENCE_S, "timeout_s": PATIENCE_S}
    with serving(tmp_path, models="vit", trunk="eager", **settings) as service:
        with ThreadPoolExecutor(callers) as pool:
            calls = [pool.submit(call, service.url, str(number)) for number in range(callers)]
            for _ in range(callers):
                assert under_way.acquire(timeout=PATIENCE_S)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(PATIENCE_S) == 0
            outcomes = [call.result() for call in calls]
        seen = {line.get("request_id") for line in map(json.loads, service.log.read_text().splitlines())}
    for number, of_one in enumerate(outcomes):
        answered = of_one.count("answered")
        assert of_one == ["answered"] * answered + ["draining"] * (len(of_one) - answered)
        assert {f"{number}-{request}" for request in range(len(of_one))} <= seen
        # The request without an answer never reached the service.
        assert f"{number}-{len(of_one)}" not in seen


def test_what_takes_longer_than_the_drain_is_left_behind(tmp_path: Path) -> None:
    # Nothing is refused for its estimate, which a busy machine makes long.
    settings = {"drain_s": 2, "timeout_s": 100 * PATIENCE_S}
    with serving(tmp_path, models="tf_efficientnet_lite0", trunk="eager", **settings) as service:

        def call() -> str:
            try:
                query = "/v1/explain?method=scorecam&layer=blocks.6&fit=pad&target=1&target=2&target=3&target=4"
                return str(httpx.post(service.url + query, content=IMAGE, headers=JPEG, timeout=PATIENCE_S).status_code)
            except httpx.HTTPError as error:
                return type(error).__name__

        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client:
            accepted = pool.submit(call)
            wait_for_in_flight(client, 1, [accepted])
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(PATIENCE_S) == 0
            assert accepted.result() != "200"
        assert "not everything was answered" in service.log.read_text()
