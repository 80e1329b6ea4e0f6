"""The largest bodies of every kind, of which none may hold the event loop."""

import base64

import httpx
import pytest

from testing.serving import Service
from tests.attacks.sending import assert_nobody_is_hurt

SIZE = 4 * 2**20 - 4096
JSON, FORM = "application/json", "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="target"\r\n\r\nx\r\n'


def filled(before: bytes, text: bytes, after: bytes = b"") -> bytes:
    return before + text * ((SIZE - len(before) - len(after)) // len(text)) + after


def picture(text: bytes) -> bytes:
    return filled(b'{"image": {"b64": "', text, b'"}}')


KINDS = {
    "base64": (JSON, picture(base64.b64encode(b"GIF")), 415),
    "escaped base64": (JSON, picture(b"\\u0041"), 415),
    "escaped quotes": (JSON, picture(b'\\"'), 422),
    "a long field": (JSON, filled(b'{"model": "', b"x", b'"}'), 422),
    "nesting": (JSON, filled(b'{"model": ', b"["), 422),
    "quotes": (JSON, filled(b"", b'"'), 422),
    "spaces": (JSON, filled(b"{", b" ", b"}"), 422),
    "CR": (FORM, filled(FILE, b"\r", b"\r\n--b--"), 415),
    "broken boundaries": (FORM, filled(FILE, b"\r\n--bX", b"\r\n--b--"), 400),
    "parts": (FORM, filled(b"", FIELD, b"--b--"), 400),
    "a long text": (FORM, filled(FIELD[:-3], b"x", b"\r\n--b--"), 422),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_body_holds_nobody_up(attacked: Service, attacker: httpx.Client, kind: str) -> None:
    media_type, body, status = KINDS[kind]

    def attack() -> None:
        for _ in range(3):
            answer = attacker.post("/v1/explain", content=body, headers={"Content-Type": media_type})
            assert answer.status_code == status, answer.text

    assert_nobody_is_hurt(attacked, attack)
