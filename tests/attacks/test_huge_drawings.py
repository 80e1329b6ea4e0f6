"""Drawings as large as the service makes them: bounded, counted while they last, and ended with their caller."""

import socket
import time
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from PIL import Image

from testing.footprint import children_of, resident_mib
from testing.pictures import encoded
from testing.serving import Service
from testing.watching import held_bytes, shared_bytes
from tests.attacks.neighbours import calm, neighbours, resident_after

# 64 megapixels in 0.2 MB.
HUGE = encoded(Image.new("RGB", (8000, 8000), "teal"), "PNG")
ASKED = {"max_side": 0, "include": "overlay", "metrics": "false"}
WAIT_S = 60


def until_free(service: Service) -> None:
    """Waits until nothing is held any more, by the service's account and in truth."""
    deadline = time.monotonic() + WAIT_S
    while held_bytes(service) or shared_bytes(service):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def head(query: str) -> bytes:
    return (
        f"POST /v1/explain?{query} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(HUGE)}\r\n\r\n"
    ).encode()


def post_and_hang_up(service: Service, query: str, after_s: float) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head(query) + HUGE)
        time.sleep(after_s)


def query(targets: int) -> str:
    return urlencode([*ASKED.items(), *(("target", str(number)) for number in range(targets))])


def test_more_overlays_than_memory_has_room_for_are_refused_by_their_size(attacked: Service) -> None:
    with neighbours(attacked) as seen:
        answer = httpx.post(
            f"{attacked.url}/v1/explain?{query(16)}", content=HUGE, headers={"Content-Type": "image/png"}, timeout=60
        )
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid_parameter"
    assert answer.json()["detail"]["field"] == "max_side"
    seen.assert_unhurt(calm(attacked))


@pytest.mark.parametrize("after_s", [0.5, 3.0])
def test_drawings_of_callers_who_hang_up_end_and_their_memory_is_free(attacked: Service, after_s: float) -> None:
    before = calm(attacked)
    pid = attacked.process.pid
    usual = resident_mib(pid) + sum(map(resident_mib, children_of(pid)))
    with neighbours(attacked) as seen:
        for _ in range(3):
            post_and_hang_up(attacked, query(4), after_s)
        until_free(attacked)
    seen.assert_unhurt(before)
    assert resident_after(attacked, usual + 30) < usual + 30


def test_what_drawings_take_up_is_counted(attacked: Service) -> None:
    address = urlsplit(attacked.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head(query(2)) + HUGE)
        most, deadline = 0, time.monotonic() + WAIT_S
        while not most and time.monotonic() < deadline:
            held = held_bytes(attacked)
            most = shared_bytes(attacked)
            assert most <= max(held, held_bytes(attacked))
    assert most
    until_free(attacked)
