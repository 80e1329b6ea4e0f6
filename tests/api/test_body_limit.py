"""A body that is too large is answered, however it is sent, and not by a reset connection."""

import json
import socket
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from testing.serving import Service

MIB = b"x" * 2**20
SIZE_MIB = 100
TYPES = {
    "raw": "image/jpeg",
    "form": "multipart/form-data; boundary=b",
    "json": "application/json",
    "text": "text/plain",
}


def exchange(service: Service, head: Iterable[str], body: Iterable[bytes], *, wait: bool = False) -> tuple[int, bytes]:
    """Sends a request as it stands; returns the final status and the body of the answer."""
    address = urlsplit(service.url)
    lines = [*head, f"Host: {address.netloc}", "Connection: close", "", ""]
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        with connection.makefile("rb") as stream:
            if wait and (status := read_status(stream)) != 100:
                return status, stream.read()
            for piece in body:
                connection.sendall(piece)
            while (status := read_status(stream)) == 100:
                pass
            return status, stream.read()


def read_status(stream: Iterable[bytes]) -> int:
    lines = iter(stream)
    status = int(next(lines).split()[1])
    while next(lines) != b"\r\n":
        pass
    return status


def whole() -> Iterator[bytes]:
    yield from [MIB] * SIZE_MIB


def chunks() -> Iterator[bytes]:
    for _ in range(SIZE_MIB):
        yield b"100000\r\n" + MIB + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("expects", [False, True], ids=["at once", "expects 100"])
@pytest.mark.parametrize("chunked", [False, True], ids=["with length", "chunked"])
def test_a_body_of_100_mb_is_413(
    service: Service, client: httpx.Client, kind: str, expects: bool, chunked: bool
) -> None:
    head = ["POST /v1/explain HTTP/1.1", f"Content-Type: {TYPES[kind]}"]
    head.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE_MIB * len(MIB)}")
    if expects:
        head.append("Expect: 100-continue")
    status, answer = exchange(service, head, chunks() if chunked else whole(), wait=expects)
    error = json.loads(answer)
    expected = {(413, "body_too_large")}
    if kind == "form":
        # Garbage may be seen to be no multipart before it is seen to be long.
        expected |= {(400, "malformed_body")}
    assert (status, error["code"]) in expected
    if status == 413:
        assert error["detail"] == {"field": "body", "expected": "at most 32 MiB"}
    assert client.get("/livez").status_code == 200


def test_a_client_that_expects_nothing_sends_nothing_in_vain(service: Service) -> None:
    head = ["POST /v1/explain HTTP/1.1", "Content-Type: image/jpeg", "Expect: 100-continue"]
    status, _ = exchange(service, [*head, f"Content-Length: {10**15}"], [], wait=True)
    assert status == 413


@pytest.mark.parametrize("path", ["/nowhere", "/livez", "/v1/explain?image=sketch"])
def test_a_long_body_does_not_hide_another_answer(service: Service, path: str) -> None:
    head = [f"POST {path} HTTP/1.1", "Content-Type: image/jpeg", f"Content-Length: {SIZE_MIB * len(MIB)}"]
    status, answer = exchange(service, head, whole())
    assert status in (404, 405, 422)
    assert set(json.loads(answer)) == {"error", "code", "detail"}


def test_a_body_of_just_the_limit_is_read(client: httpx.Client) -> None:
    body = b"\xff\xd8\xff" + bytes(32 * 2**20 - 3)
    response = client.post("/v1/explain", content=body, headers={"content-type": "image/jpeg"})
    assert response.json()["code"] == "image_unreadable"
    response = client.post("/v1/explain", content=body + b"x", headers={"content-type": "image/jpeg"})
    assert response.json()["code"] == "body_too_large"


@pytest.mark.parametrize("content_type", TYPES.values())
def test_a_caller_who_hangs_up_is_no_fault_of_the_service(
    service: Service, client: httpx.Client, content_type: str
) -> None:
    address = urlsplit(service.url)
    head = f"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + b"--b\r\n")
    assert client.get("/livez").status_code == 200
    assert "Traceback" not in service.log.read_text()
