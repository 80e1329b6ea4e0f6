"""Reads JSON bodies in which pictures are long and all else is short; no step blocks other threads for long."""

import binascii
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

from app.api.content import MAX_TEXT_BYTES
from app.errors import InvalidParameter, MalformedBody

# More than any request needs; millions would hold the interpreter lock, and so stop the event loop, for seconds.
_MAX_VALUES = 4096
# Those around so many names and values, and as many escaped ones within them.
_MAX_QUOTES = 8 * _MAX_VALUES
# Longer numbers are out of every range, and int() refuses thousands of digits.
_MAX_DIGITS = 20
# A multiple of four characters.
_PIECE_BYTES = 2**20
_MAX_ESCAPE_BYTES = len(r"\u002b")

# What comes before the base64 of a picture, and how many bytes back it is looked for.
_BEFORE_PICTURE = re.compile(rb'"(?:b64|data)"\s*:\s*"$')
_LOOK_BACK = 64


def parse_json(body: bytes) -> dict[str, Any]:
    """Parses a JSON body, which must be an object; pictures stay base64, as `memoryview`s of the body.

    Raises:
        MalformedBody: the body is not a JSON object.
        InvalidParameter: too long besides its pictures, too many values, or a key that is given more than once.
    """
    text, pictures = _without_pictures(body)
    if text.count(b",") >= _MAX_VALUES:
        raise _too_long(f"at most {_MAX_VALUES} values")

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in pairs:
            if name in fields:
                raise duplicate(name)
            fields[name] = pictures.get(value, value) if isinstance(value, str) else value
        return fields

    try:
        content = json.loads(
            text.decode("utf-8-sig"), parse_int=_parse_int, parse_constant=_refuse_constant, object_pairs_hook=as_object
        )
    except json.JSONDecodeError as error:
        # Positions would be those of the text without pictures.
        raise MalformedBody(f"the body is not valid JSON: {error.msg}"[:300]) from None
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body is not valid JSON: {error}"[:300]) from None
    if not isinstance(content, dict):
        raise MalformedBody("the JSON body must be an object")
    return content


def _without_pictures(body: bytes) -> tuple[bytes, dict[str, memoryview]]:
    """Replaces the base64 of each picture in a body by a short name; returns the new body, and the pictures by name.

    Raises:
        InvalidParameter: the new body is too long.
    """
    view, end = memoryview(body), 0
    pieces: list[bytes | memoryview] = []
    # Random, so that no caller can put such a name into a body.
    prefix = secrets.token_hex(8)
    pictures: dict[str, memoryview] = {}
    for start, stop in _strings(body):
        if _BEFORE_PICTURE.search(body[max(0, start - _LOOK_BACK) : start]):
            name = f"{prefix}{len(pictures)}"
            pictures[name] = view[start:stop]
            pieces += [view[end:start], name.encode()]
            end = stop
    pieces.append(view[end:])
    if sum(map(len, pieces)) > MAX_TEXT_BYTES:
        raise _too_long(f"at most {MAX_TEXT_BYTES // 2**10} KiB besides its pictures")
    return b"".join(pieces), pictures


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each string of a JSON document, without its quotes."""
    start = -1
    last = -1
    for _ in range(_MAX_QUOTES):
        quote = body.find(b'"', last + 1)
        if quote < 0:
            return
        if start < 0:
            start = quote + 1
        elif not _is_escaped(body[max(last + 1, quote - MAX_TEXT_BYTES) : quote]):
            yield start, quote
            start = -1
        last = quote
    raise _too_long(f"at most {_MAX_QUOTES} quotation marks")


def _is_escaped(before: bytes) -> bool:
    """Whether the number of backslashes at the end is odd, so that they escape what follows."""
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _too_long(expected: str) -> InvalidParameter:
    return InvalidParameter(f"the JSON body is too long: {expected} are allowed", field="body", expected=expected)


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def duplicate(name: str) -> InvalidParameter:
    """The error of a field that is given more than once."""
    return InvalidParameter(f"field '{name}' is given more than once", field=name, expected="one value")


def image_bytes(image: object) -> bytes:
    """The file in `{"b64": "..."}`.

    Raises:
        InvalidParameter: it is something else.
        MalformedBody: it is not valid base64.
    """
    expected = 'an object {"b64": "..."}'
    if not isinstance(image, dict) or not isinstance(image.get("b64"), str | memoryview) or len(image) != 1:
        raise InvalidParameter(f"field 'image': expected {expected}", field="image", expected=expected)
    return decode_base64(image["b64"], "image.b64")


def decode_base64(text: str | memoryview, field: str) -> bytes:
    """Decodes standard base64, in pieces: one long call would hold the interpreter lock, and so stop the event loop.

    Args:
        text: as a string, or as it was written in a JSON document.
        field: its name, for errors.

    Raises:
        MalformedBody: it is not valid base64.
    """
    decoded, rest = [], b""
    try:
        data = memoryview(text.encode("ascii")) if isinstance(text, str) else text
        for piece, is_last in _unescaped(data):
            characters = rest + piece
            whole = len(characters) if is_last else len(characters) // 4 * 4
            ready, rest = characters[:whole], characters[whole:]
            if b"=" in ready and not is_last:
                raise ValueError("padding before the end")
            decoded.append(binascii.a2b_base64(ready, strict_mode=True))
    except ValueError as error:
        raise MalformedBody(
            f"field '{field}' is not valid base64: {error}", field=field, expected="base64 (RFC 4648)"
        ) from None
    return b"".join(decoded)


def _unescaped(data: memoryview) -> Iterator[tuple[bytes, bool]]:
    """Yields an escaped JSON string in pieces, unescaped, each with whether it is the last.

    Raises:
        ValueError: it is not a valid JSON string, or not ASCII.
    """
    start = 0
    while True:
        piece = bytes(data[start : start + _PIECE_BYTES])
        is_last = start + len(piece) == len(data)
        if b"\\" in piece:
            # No escape is cut in two. One of a backslash may be, but base64 has none.
            if not is_last and (escape := piece.rfind(b"\\", len(piece) - _MAX_ESCAPE_BYTES + 1)) > 0:
                piece = piece[:escape]
            start += len(piece)
            piece = json.loads(b'"' + piece + b'"').encode("ascii")
        else:
            start += len(piece)
        yield piece, is_last
        if is_last:
            return
