"""Bodies that name an encoding other than UTF-8."""

import httpx
import pytest

from testing.pictures import encoded, photograph
from testing.serving import Service
from tests.attacks.neighbours import resident_after
from tests.attacks.sending import assert_nobody_is_hurt

PICTURE = encoded(photograph("chelsea").resize((64, 48)), "JPEG")
CHARSETS = ["punycode", "idna", "undefined", "unicode_escape", "rot13", "utf-16", "latin-1", "x" * 900, "", "utf-7"]
REQUESTS = 300


def form(field: bytes, *lines: str) -> bytes:
    head = '--b\r\nContent-Disposition: form-data; name="target"\r\n' + "".join(f"{line}\r\n" for line in lines)
    image = b'\r\n--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head.encode() + b"\r\n" + field + image + PICTURE + b"\r\n--b--\r\n"


def assert_refused(answer: httpx.Response, field: str = "Content-Type") -> None:
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type"), answer.text
    detail = answer.json()["detail"]
    assert (detail["field"], detail["expected"]) == (field, "charset=utf-8, or none")


@pytest.mark.parametrize("media_type", ["multipart/form-data; boundary=b", "application/json"])
def test_another_charset_than_utf_8_is_refused_by_its_name(
    attacked: Service, attacker: httpx.Client, media_type: str
) -> None:
    body = form(b"a" * 300_000) if "form" in media_type else b'{"target": "' + b"a" * 300_000 + b'"}'

    def attack() -> None:
        for charset in CHARSETS:
            for path in ("/v1/explain", "/v1/predict", "/v1/compare"):
                headers = {"Content-Type": f'{media_type}; charset="{charset}"'}
                assert_refused(attacker.post(path, content=body, headers=headers))

    assert_nobody_is_hurt(attacked, attack)


def test_a_call_of_several_pictures_in_another_charset_is_refused(attacker: httpx.Client) -> None:
    path = "/v1/models/tf_efficientnet_lite0:predict"
    headers = {"Content-Type": "application/json; charset=utf-16"}
    assert_refused(attacker.post(path, content=b"{}", headers=headers))


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-16"])
def test_a_field_of_another_charset_is_refused(attacker: httpx.Client, charset: str) -> None:
    body = form(b"a" * 300_000, f"Content-Type: text/plain; charset={charset}")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_refused(attacker.post("/v1/explain", content=body, headers=headers), "target")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", "us-ascii", '"utf-8"'])
def test_utf_8_is_taken_by_any_of_its_names(attacker: httpx.Client, charset: str) -> None:
    for field in (b"tabby", b"predicted"):
        headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
        body = form(field, f"Content-Type: text/plain; charset={charset}")
        assert attacker.post("/v1/explain", content=body, headers=headers).status_code == 200


def test_names_of_charsets_do_not_stay_in_memory(attacked: Service, attacker: httpx.Client) -> None:
    def ask(first: int) -> None:
        for number in range(first, first + REQUESTS):
            headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={'x' * 900}{number}"}
            assert_refused(attacker.post("/v1/predict", content=form(b"a"), headers=headers))

    ask(0)
    before = resident_after(attacked, 0.0, limit_s=0.0)
    ask(REQUESTS)
    # Each name kept Python's memory of codecs 52 KB larger.
    assert resident_after(attacked, before + 5, limit_s=5.0) < before + 5
