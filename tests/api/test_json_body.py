"""JSON bodies: what is read of them equals what Python's own parser reads."""

import base64
import json
import tracemalloc
from typing import Any

import pytest

from app.api.json_body import image_bytes, parse_json
from app.errors import InvalidParameter, MalformedBody

DATA = bytes(range(256)) * 9000
TEXT = base64.b64encode(DATA).decode()
ESCAPED = TEXT.translate({ord(letter): f"\\u{ord(letter):04x}" for letter in set(TEXT)})


def image_of(body: str) -> bytes:
    return image_bytes(parse_json(body.encode())["image"])


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("/", r"\/"),
        TEXT.replace("+", r"\u002b"),
        ESCAPED,
        TEXT[:5] + ESCAPED[5 * len(r"\u0000") :],
    ],
    ids=["plain", "slashes", "pluses", "all", "all but some"],
)
def test_a_picture_is_read_however_it_is_escaped(text: str) -> None:
    assert json.loads(f'"{text}"') == TEXT
    for between in ("", " ", "\n\t  "):
        assert image_of(f'{{"image": {{"b64"{between}:{between}"{text}"}}}}') == DATA


def test_a_picture_whose_name_is_escaped_is_read() -> None:
    short = base64.b64encode(b"GIF89a").decode()
    assert image_of(rf'{{"image": {{"\u0062\u0036\u0034": "{short}"}}}}') == b"GIF89a"


@pytest.mark.parametrize("text", ["====", "AAA=AAAA", "AAAAA", "A" * 2**20 + "=" + "A" * 7, r"A\\A", r"AA\nA", "é"])
def test_what_is_no_base64_is_malformed(text: str) -> None:
    with pytest.raises(MalformedBody, match="is not valid base64"):
        image_of(f'{{"image": {{"b64": "{text}"}}}}')


@pytest.mark.parametrize(
    "content",
    [
        {"target": ['a "quoted" label', "back\\slash", '\\"', "Ωμέγα ✓"], "alpha": 0.5},
        {"a": {"data": None, "c": ["b64", ": "]}, '"b64': "x", "b64\\": "y"},
        {"x" * 1000: [[[True, False, None]]]},
    ],
)
def test_all_but_pictures_is_read_as_python_reads_it(content: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        read = parse_json(json.dumps(content, ensure_ascii=ascii_only).encode())
        # A key that ends like a picture's keeps its text as it stood in the body.
        assert {
            name: bytes(value).decode() if isinstance(value, memoryview) else value for name, value in read.items()
        } == content


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "' + b"x" * 2**20 + b'"}',
        b'{"target": [' + b"1," * 4096 + b"1]}",
        b'{"target": "' + b'\\"' * 40_000 + b'"}',
        b"{" + b" " * 2**20 + b"}",
        b'{"image": "' + b"A" * 2**20 + b'"}',
    ],
)
def test_all_but_pictures_is_bounded(body: bytes) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse_json(body)
    assert raised.value.detail["field"] == "body"


@pytest.mark.parametrize(
    "body", ['{"a": "é"}'.encode("utf-16"), b'{"a": "\xff"}', b'{"a": "', b'{"b64": "', b"[1]", b'"']
)
def test_what_is_no_object_in_utf_8_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_json(body)


def test_a_picture_is_in_memory_once_besides_its_text() -> None:
    body = f'{{"image": {{"b64": "{TEXT}"}}}}'.encode()
    tracemalloc.start()
    assert image_bytes(parse_json(body)["image"]) == DATA
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(DATA) + 4 * 2**20
