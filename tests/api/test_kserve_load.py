"""Calls of many pictures under load: places, memory, and callers who hang up."""

import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from app.runtime.image_processes import MAX_HELD_BYTES
from testing.pictures import encoded, photograph
from testing.serving import Service
from tests.api.asking import JPEG
from tests.api.calls import NETWORK, call, instance, post

IMAGE = encoded(photograph("rocket"), "JPEG")
# Minutes of work for the processor, for each picture.
LONG = {"method": "scorecam", "layer": "blocks.6", "target": [1, 2, 3, 4]}


def call_and_hang_up(service: Service, instances: int, after_s: float) -> None:
    address = urlsplit(service.url)
    body = json.dumps({"instances": [instance(IMAGE)] * instances, "parameters": LONG}).encode()
    head = (
        f"POST /v1/models/{NETWORK}:explain HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(after_s)


def test_a_call_takes_one_place_however_many_instances_it_has(narrow: Service) -> None:
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        assert call(client, "explain", [instance(IMAGE)] * 9, metrics=False, max_side=32)


def test_a_caller_who_hangs_up_takes_all_instances_along(narrow: Service) -> None:
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        for _ in range(2):
            call_and_hang_up(narrow, 6, after_s=1.5)
            started = time.monotonic()
            while client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 429:
                assert time.monotonic() - started < 20
                time.sleep(0.05)
            assert client.post("/v1/explain", content=IMAGE, headers=JPEG).status_code == 200
        # Nor do they keep the turns of calls with many instances, of which there are four.
        for _ in range(4):
            call_and_hang_up(narrow, 2, after_s=0.3)
        started = time.monotonic()
        while post(client, "predict", [instance(IMAGE)] * 2).status_code == 429:
            assert time.monotonic() - started < 20
            time.sleep(0.05)
        assert call(client, "predict", [instance(IMAGE)] * 2)
    assert "Traceback" not in narrow.log.read_text()


def test_large_calls_do_not_wait_for_each_other_for_ever(client: httpx.Client) -> None:
    size, targets, calls, instances = (2048, 2048), 8, 10, 2
    # They need more than there is for decoded pictures, so that instances of one call wait for those of another.
    # Their base, and as many bytes for each PNG of noise.
    cost = 3 * math.prod(size) * (1 + targets)
    assert calls * instances * cost > MAX_HELD_BYTES
    large = instance(encoded(Image.new("RGB", size, "teal"), "PNG"))
    asked: dict[str, Any] = {"target": list(range(targets)), "max_side": 0, "include": ["overlay"], "metrics": False}

    def work(_number: int) -> int:
        return len(call(client, "explain", [large] * instances, **asked))

    with ThreadPoolExecutor(calls) as pool:
        assert list(pool.map(work, range(calls))) == [instances] * calls


def test_calls_at_once_are_answered_as_each_is_alone(client: httpx.Client) -> None:
    pictures = [encoded(photograph(name), "JPEG") for name in ("chelsea", "rocket", "coffee", "astronaut")]
    instances = [instance(picture) for picture in pictures]
    expected = [reply["predictions"][0]["index"] for reply in call(client, "predict", instances)]
    assert len(set(expected)) == len(expected)

    def work(number: int) -> list[int]:
        order = [(number + step) % 4 for step in range(4)]
        verb = ("predict", "explain")[number % 2]
        replies = call(client, verb, [instances[index] for index in order])
        found = {index: reply["predictions"][0]["index"] for index, reply in zip(order, replies, strict=True)}
        return [found[index] for index in range(4)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(16))) == [expected] * 16
