"""A caller who hangs up leaves the queue, and what runs for nobody is given up."""

import socket
import time
from urllib.parse import urlsplit

import httpx

from testing.pictures import encoded, photograph
from testing.serving import Service
from tests.api.asking import JPEG

IMAGE = encoded(photograph("rocket"), "JPEG")
# Minutes of work for the processor.
LONG = "/v1/explain?method=scorecam&layer=blocks.6&target=1&target=2&target=3&target=4"


def call_and_hang_up(service: Service, path: str, after_s: float) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        connection.sendall(head.encode() + IMAGE)
        time.sleep(after_s)


def test_a_caller_who_hangs_up_leaves_the_place_to_the_next(narrow: Service) -> None:
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        call_and_hang_up(narrow, LONG, after_s=1.0)
        started = time.monotonic()
        while client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 429:
            assert time.monotonic() - started < 20
            time.sleep(0.05)
        assert client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 200
    assert "Traceback" not in narrow.log.read_text()


def test_while_he_waits_the_place_is_taken(narrow: Service) -> None:
    address = urlsplit(narrow.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST {LONG} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        connection.sendall(head.encode() + IMAGE)
        time.sleep(1.0)
        answer = httpx.post(narrow.url + "/v1/explain", content=IMAGE, headers=JPEG)
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
