"""Sends what no HTTP client would send."""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from urllib.parse import urlsplit

from testing.serving import Service
from tests.attacks.neighbours import calm, neighbours


@dataclass(frozen=True, slots=True)
class RawReply:
    """What came back.

    Attributes:
        status: 0 where the connection was closed without an answer.
        head: status line and headers in lower case.
        body: as it came.
    """

    status: int
    head: str
    body: bytes


def exchange(service: Service, *pieces: bytes, timeout_s: float = 60.0) -> RawReply:
    """Sends bytes as they are, and reads until the service closes the connection."""
    place = urlsplit(service.url)
    received = bytearray()
    with socket.create_connection((place.hostname, place.port), timeout_s) as connection, suppress(OSError):
        # Whoever is refused may find the connection closed while he still sends.
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
        while piece := connection.recv(65536):
            received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return RawReply(int(head.split()[1]) if head else 0, head.decode("latin-1").lower(), body)


def posted(body: bytes, content_type: str, *lines: str, path: str = "/v1/explain") -> bytes:
    """A request with a body of this type."""
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Type: {content_type}", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


_calm = cache(partial(calm, seconds=2.0))


def assert_nobody_is_hurt(service: Service, attack: Callable[[], None]) -> None:
    """Attacks, and sees what others see of it."""
    before = _calm(service)
    with neighbours(service) as seen:
        attack()
    seen.assert_unhurt(before)
