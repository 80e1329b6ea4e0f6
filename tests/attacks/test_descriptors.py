"""More connections than the service may have descriptors."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from testing.serving import Service, serving
from tests.attacks.neighbours import calm, neighbours

_DESCRIPTORS = 64
_CONNECTIONS = 120
_SECONDS = 8.0
_MOST_LOG_BYTES = 100_000


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has had all it needs to start, and may have few descriptors now."""
    with serving(tmp_path_factory.mktemp("scarce"), trunk="eager") as running:
        _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS, hard))
        yield running


@pytest.mark.parametrize("sent", [b"", b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n"], ids=["silent", "half a header"])
@pytest.mark.parametrize("returns", [False, True], ids=["once", "again and again"])
def test_connections_that_never_ask_make_room_for_those_that_do(scarce: Service, sent: bytes, returns: bool) -> None:
    place = (str(urlsplit(scarce.url).hostname), int(urlsplit(scarce.url).port or 0))
    before, size = calm(scarce), scarce.log.stat().st_size
    with ExitStack() as stack, neighbours(scarce) as seen:
        ends = time.monotonic() + _SECONDS
        while True:
            for _ in range(_CONNECTIONS):
                stack.enter_context(socket.create_connection(place)).sendall(sent)
            if not returns or time.monotonic() > ends - 1:
                break
            time.sleep(1)
            stack.pop_all().close()
        time.sleep(max(0, ends - time.monotonic()))
    seen.assert_unhurt(before)
    assert scarce.log.stat().st_size - size < _MOST_LOG_BYTES
    assert httpx.get(f"{scarce.url}/readyz").status_code == 200


def test_when_nothing_makes_room_the_log_stays_short_and_others_are_served_afterwards(scarce: Service) -> None:
    """Requests that are being received are not ended for others."""
    place = (str(urlsplit(scarce.url).hostname), int(urlsplit(scarce.url).port or 0))
    size = scarce.log.stat().st_size
    with ExitStack() as stack:
        for _ in range(_CONNECTIONS):
            caller = stack.enter_context(socket.create_connection(place))
            caller.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
            )
            time.sleep(0.01)  # until its header is read, it is a connection without a request, and is closed for others
        time.sleep(_SECONDS)
    assert 0 < scarce.log.stat().st_size - size < _MOST_LOG_BYTES
    assert httpx.get(f"{scarce.url}/readyz", timeout=60).status_code == 200
    # Said ten times in ten seconds, and then counted; the tests before have begun.
    assert "out of system resource" in scarce.log.read_text()
