"""What callers see while the service stops: it listens on, answers what it accepted, refuses the rest, ends with 0."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.api.asking import JPEG
from tests.api.serving import serving
from tests.imaging.pictures import encoded, photograph

IMAGE = encoded(photograph("rocket"), "JPEG")
SCORECAM = "/v1/explain?method=scorecam&layer=last_conv&metrics=false"


def test_what_was_accepted_is_answered_and_the_rest_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, models="small", drain_s=60) as service:
        service.wait_until_ready()
        with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
            accepted = [pool.submit(client.post, SCORECAM, content=IMAGE, headers=JPEG) for _ in range(4)]
            time.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            ready, alive = client.get("/readyz"), client.get("/livez")
            refused = client.post("/v1/explain", content=IMAGE, headers=JPEG)
            answers = [request.result() for request in accepted]
        assert (ready.status_code, ready.json()["code"]) == (503, "draining")
        assert alive.status_code == 200
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert [answer.status_code for answer in answers] == [200] * 4
        assert service.process.wait(30) == 0
        assert "Traceback" not in service.log.read_text()


def test_sigterm_in_the_middle_of_load_loses_no_accepted_request(tmp_path: Path) -> None:
    def call(url: str) -> list[str]:
        outcomes: list[str] = []
        with httpx.Client(base_url=url, timeout=60) as client:
            while outcomes[-1:] != ["nobody listens"]:
                try:
                    response = client.post("/v1/explain?include=attribution", content=IMAGE, headers=JPEG)
                except httpx.TransportError as error:
                    # Only a caller who has been refused before may find the door closed.
                    refused = outcomes[-1:] == ["draining"] or isinstance(error, httpx.ConnectError)
                    outcomes.append("nobody listens" if refused else f"lost: {error!r}")
                else:
                    outcomes.append(response.json().get("code", "answered"))
        return outcomes

    with serving(tmp_path, models="small", drain_s=30) as service:
        service.wait_until_ready()
        with ThreadPoolExecutor(8) as pool:
            callers = [pool.submit(call, service.url) for _ in range(8)]
            time.sleep(2)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
            outcomes = [caller.result() for caller in callers]
    for of_one in outcomes:
        answered = of_one.count("answered")
        assert answered > 1
        assert of_one[:answered] == ["answered"] * answered
        assert set(of_one[answered:]) == {"draining", "nobody listens"}


def test_what_takes_longer_than_the_drain_is_left_behind(tmp_path: Path) -> None:
    with serving(tmp_path, models="tf_efficientnet_lite0", drain_s=2) as service:
        service.wait_until_ready()

        def call() -> str:
            try:
                query = "/v1/explain?method=scorecam&layer=blocks.6&fit=pad&target=1&target=2&target=3&target=4"
                return str(httpx.post(service.url + query, content=IMAGE, headers=JPEG, timeout=60).status_code)
            except httpx.HTTPError as error:
                return type(error).__name__

        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(call)
            time.sleep(1)
            started = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
            assert time.monotonic() - started < 10
            assert accepted.result() != "200"
        assert "not everything was answered" in service.log.read_text()
