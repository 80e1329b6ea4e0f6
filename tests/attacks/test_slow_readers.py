"""A reply is work until its last byte is sent: so long, and no longer, are its place and its pictures held."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from testing.pictures import encoded, noise
from testing.serving import Service, serving
from testing.watching import held_bytes, shared_bytes

PICTURE = encoded(noise(2000, 2000, 3), "PNG", compress_level=1)
WAIT_S = 60


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one place."""
    with serving(tmp_path_factory.mktemp("narrow"), queue_size=1, trunk="eager") as running:
        yield running


def in_flight(service: Service) -> float:
    metrics = httpx.get(f"{service.url}/metrics").text
    (line,) = (line for line in metrics.splitlines() if line.startswith("cam_in_flight"))
    return float(line.split()[-1])


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_a_reply_that_is_not_read_holds_its_place_and_its_memory_until_it_is_given_up(
    narrow: Service, accept: str
) -> None:
    address = urlsplit(narrow.url)
    head = (
        "POST /v1/explain?max_side=0&include=overlay&metrics=false HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(head.encode() + PICTURE)
        first = connection.recv(1 << 10)
        assert first.startswith(b"HTTP/1.1 200")
        time.sleep(1)
        # 12 MB of noise, of which the socket has taken a part.
        assert in_flight(narrow) == 1
        assert held_bytes(narrow) >= shared_bytes(narrow) > 10_000_000
        small = encoded(noise(64, 64, 3), "PNG")
        refused = httpx.post(f"{narrow.url}/v1/predict", content=small, headers={"Content-Type": "image/png"})
        assert refused.json()["code"] == "queue_full"
        deadline = time.monotonic() + WAIT_S
        while in_flight(narrow) or held_bytes(narrow) or shared_bytes(narrow):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_reply_that_is_read_to_its_end_leaves_nothing(narrow: Service) -> None:
    answer = httpx.post(
        f"{narrow.url}/v1/explain?max_side=0&metrics=false",
        content=PICTURE,
        headers={"Content-Type": "image/png"},
        timeout=60,
    )
    assert answer.status_code == 200
    assert len(answer.content) > 15_000_000
    deadline = time.monotonic() + WAIT_S
    while in_flight(narrow) or held_bytes(narrow) or shared_bytes(narrow):
        assert time.monotonic() < deadline
        time.sleep(0.05)
