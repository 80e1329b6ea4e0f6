"""Requests that come in absurd pieces, or of which there is too much besides the body."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from testing.serving import Service
from tests.attacks.sending import RawReply, assert_nobody_is_hurt, exchange, posted

HEAD = (
    b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: image/jpeg\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
WIRE_BYTES = 2**20
ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def chunks(size: int, extension: bytes = b"") -> bytes:
    chunk = f"{size:x}".encode() + extension + b"\r\n" + b"x" * size + b"\r\n"
    return HEAD + chunk * (WIRE_BYTES // len(chunk)) + b"0\r\n\r\n"


def assert_malformed(answer: RawReply) -> None:
    assert answer.status == 400
    assert json.loads(answer.body)["code"] == "malformed_body"
    for header in (
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "content-security-policy",
        "x-request-id",
    ):
        assert header in answer.head


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_bodies_in_tiny_chunks_hold_nobody_up(attacked: Service, size: int) -> None:
    def attack() -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: exchange(attacked, chunks(size)), range(8)))
        # Seventeen bytes may be somebody's way to write; less is not.
        expected = {400, 0} if size < 16 else {415}
        assert {answer.status for answer in answers} <= expected

    assert_nobody_is_hurt(attacked, attack)


def test_a_body_in_tiny_chunks_is_refused_before_it_is_there(attacked: Service) -> None:
    assert_malformed(exchange(attacked, chunks(1)[:40_000]))


def test_what_frames_a_body_is_bounded(attacked: Service) -> None:
    assert_malformed(exchange(attacked, chunks(20, b";" + b"y" * 5000)[:100_000]))
    assert_malformed(exchange(attacked, HEAD + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 300))


@pytest.mark.parametrize(
    "header",
    [b"X: " + b"x" * 40_000, b"X: x\r\n" * 300, b"X" * 40_000, b"Cookie: a=" + b"b" * 40_000],
    ids=["long", "many", "a name", "a cookie"],
)
def test_a_header_that_is_too_long_is_refused(attacked: Service, header: bytes) -> None:
    assert_malformed(exchange(attacked, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header))
    assert_malformed(exchange(attacked, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n"))


def test_what_is_no_http_is_answered_in_the_shape_of_all_errors(attacked: Service) -> None:
    assert_malformed(exchange(attacked, b"\x16\x03\x01 hello\r\n\r\n"))


@pytest.mark.parametrize("options", ["Upgrade, HTTP2-Settings", "close, Upgrade"])
def test_a_body_is_read_though_its_caller_would_rather_have_another_protocol(attacked: Service, options: str) -> None:
    # As Java's own client writes it.
    header = (f"Connection: {options}", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    request = posted(b'{"image": 1}', "application/json", *header)
    answer = exchange(
        attacked, request.replace(b"Connection: close\r\n", b"", 1), ALIVE[:-2] + b"Connection: close\r\n\r\n"
    )
    assert b"field 'image': expected an object" in answer.body
    assert (b"alive" in answer.body) == ("close" not in options)


def test_what_came_before_is_answered_first(attacked: Service) -> None:
    answer = exchange(attacked, ALIVE + b"garbage\r\n\r\n")
    assert answer.status == 200
    assert b"alive" in answer.body


def test_thousands_of_requests_at_once_hold_nobody_up(attacked: Service) -> None:
    def attack() -> None:
        for _ in range(5):
            answer = exchange(attacked, ALIVE * 10_000)
            assert answer.status == 200
            assert answer.body.count(b"alive") < 100

    assert_nobody_is_hurt(attacked, attack)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('Cookie: a="' + "\\" * 32_000 + '"', 415),
        ("Accept: " + "a," * 16_000, 406),
        ("Range: bytes=" + "0-0," * 8000, 415),
        ("Authorization: Bearer " + "x" * 32_000, 415),
    ],
    ids=lambda value: str(value)[:6],
)
def test_long_headers_hold_nobody_up(attacked: Service, header: str, status: int) -> None:
    request = posted(b"x", "image/jpeg", header)

    def attack() -> None:
        for _ in range(10):
            assert exchange(attacked, request).status == status

    assert_nobody_is_hurt(attacked, attack)


def test_a_query_of_thousands_of_fields_is_refused(attacker: httpx.Client) -> None:
    answer = attacker.get("/v1/methods?" + "a&" * 15_000)
    assert (answer.status_code, answer.json()["detail"]["field"]) == (422, "query")
    assert attacker.get("/v1/methods?" + "a&" * 255).status_code == 200
