"""Reads the three kinds of body (multipart, JSON, a raw image) into one shape."""

import asyncio
import binascii
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.errors import InvalidParameter, MalformedBody, UnsupportedMediaType
from app.parameters import ExplainParameters, PredictParameters, list_fields

Parameters = TypeVar("Parameters", bound=PredictParameters)

_IMAGE_TAKES = "one image file, as the multipart part image, as image.b64 in JSON, or as the body itself"
_BASE64_CHUNK = 4 * 2**18
# In JSON these are written as what they are; everywhere else all is text.
_NUMBERS = frozenset(
    {name for name, field in ExplainParameters.model_fields.items() if field.annotation in {int, float, float | None}}
)
_TRUTHS = frozenset({name for name, field in ExplainParameters.model_fields.items() if field.annotation is bool})
# More than any request needs; millions would keep the interpreter, and so the event loop, for seconds.
_MOST_JSON_VALUES = 4096
# Longer numbers are out of every range, and int() refuses thousands of digits.
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Body:
    """What a caller sent: the file's bytes and the fields as they came."""

    image: bytes
    fields: dict[str, Any]


class _Parser(MultiPartParser):
    """Keeps files in memory (their size is limited already) and knows whether the body was complete."""

    spool_max_size = 2**40
    complete = False

    def on_end(self) -> None:
        self.complete = True


async def read_body(
    request: Request, model: type[PredictParameters], reply_fields: frozenset[str] = frozenset()
) -> Body:
    """Reads a request body of any accepted content type, together with the query string.

    Args:
        request: the request.
        model: the fields; those that are lists may be repeated.
        reply_fields: names in the query string that shape the reply only; they may stand once and are left out.

    Raises:
        MalformedBody: JSON, multipart or base64 that is none.
        UnsupportedMediaType: another content type.
        InvalidParameter: no image, a second file, a single field twice.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    lists = list_fields(model)
    query = _query(request, reply_fields)
    if content_type == "multipart/form-data":
        image, pairs = await _read_multipart(request)
        return Body(image, _gather([*query, *pairs], lists))
    if content_type == "application/json":
        return await asyncio.to_thread(_read_json, await request.body(), query, lists)
    body = await request.body()
    if content_type.startswith("image/") or (not content_type and not body):
        if not body:
            raise _missing_image()
        return Body(body, _gather(query, lists))
    raise UnsupportedMediaType(
        f"the content type '{content_type or 'none'}' is not taken",
        field="Content-Type",
        takes="multipart/form-data, application/json or image/*",
    )


def validate(model: type[Parameters], fields: dict[str, Any], without: frozenset[str] = frozenset()) -> Parameters:
    """Validates fields; the first mistake becomes an `InvalidParameter` that says what the field takes.

    Args:
        model: the fields that there are.
        fields: as they came.
        without: names of the model that are no fields here.
    """
    known = [name for name in model.model_fields if name not in without]
    for name in fields:
        if name not in known:
            raise InvalidParameter(f"there is no field '{name}'", field=name, takes=f"fields: {', '.join(known)}")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        extra = model.model_fields[name].json_schema_extra
        takes = extra.get("takes") if isinstance(extra, dict) else None
        value = _shown(first["input"])
        raise InvalidParameter(f"{name}: {value} is not {takes}", field=name, takes=takes, value=value) from None


def check_json(fields: dict[str, Any]) -> None:
    """Refuses texts and truths for numbers, and whatever is no truth for truths, in the fields of a JSON body.

    Raises:
        InvalidParameter: the first of them.
    """
    for name, value in fields.items():
        is_wrong = (name in _NUMBERS and isinstance(value, str | bool)) or (
            name in _TRUTHS and not isinstance(value, bool)
        )
        if is_wrong:
            extra = ExplainParameters.model_fields[name].json_schema_extra
            takes = extra.get("takes") if isinstance(extra, dict) else None
            shown = _shown(value)
            raise InvalidParameter(f"{name}: {shown} is not {takes}", field=name, takes=takes, value=shown)


def _shown(value: object) -> str:
    """A caller's value as an error quotes it, never at length."""
    match value:
        case str():
            return value if len(value) <= 80 else f"{value[:77]}..."
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return json.dumps(value, default=str)


def _missing_image() -> InvalidParameter:
    return InvalidParameter("the image is missing", field="image", takes=_IMAGE_TAKES)


def _query(request: Request, reply_fields: frozenset[str]) -> list[tuple[str, str]]:
    pairs = request.query_params.multi_items()
    _gather([(name, value) for name, value in pairs if name in reply_fields], frozenset())
    return [(name, value) for name, value in pairs if name not in reply_fields]


def _gather(pairs: list[tuple[str, str]], lists: frozenset[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in lists:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidParameter(f"the field '{name}' stands twice", field=name, takes="one value")
        else:
            fields[name] = value
    return fields


async def _read_multipart(request: Request) -> tuple[bytes, list[tuple[str, str]]]:
    parser = _Parser(request.headers, request.stream(), max_files=64, max_fields=256)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBody(f"the multipart body cannot be read: {error.message}") from None
    if not parser.complete:
        raise MalformedBody("the multipart body ends before its closing boundary")
    image: bytes | None = None
    pairs: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            if name == "image":
                message = "the part 'image' is text: send the file itself (curl -F image=@photo.jpg)"
                raise InvalidParameter(message, field="image", takes=_IMAGE_TAKES)
            pairs.append((name, value))
        elif name != "image":
            raise InvalidParameter(f"there is no file part '{name}'", field=name, takes=_IMAGE_TAKES)
        elif image is not None:
            raise InvalidParameter("there is more than one image", field="image", takes=_IMAGE_TAKES)
        else:
            image = await value.read()
    if image is None:
        raise _missing_image()
    return image, pairs


def parse_json(body: bytes) -> dict[str, Any]:
    """Parses a JSON body, which must be an object.

    Raises:
        MalformedBody: it is none.
        InvalidParameter: too many values, or a key that stands twice.
    """
    if body.count(b",") >= _MOST_JSON_VALUES:
        takes = f"at most {_MOST_JSON_VALUES} values"
        raise InvalidParameter(f"the JSON body is too long: it takes {takes}", field="body", takes=takes)
    try:
        content = json.loads(
            body, parse_int=_parse_int, parse_constant=_refuse_constant, object_pairs_hook=_refuse_doubles
        )
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"the body is not JSON: {error}"[:300]) from None
    if not isinstance(content, dict):
        raise MalformedBody("the JSON body is not an object")
    return content


def _read_json(body: bytes, query: list[tuple[str, str]], lists: frozenset[str]) -> Body:
    content = parse_json(body)
    fields = _gather(query, lists)
    for name in fields.keys() & content.keys():
        raise InvalidParameter(f"the field '{name}' stands twice", field=name, takes="one value")
    image = content.pop("image", None)
    if image is None:
        raise _missing_image()
    check_json(content)
    return Body(read_image(image), fields | content)


def read_image(image: object) -> bytes:
    """The file in `{"b64": "..."}`.

    Raises:
        InvalidParameter: it is something else.
        MalformedBody: no base64.
    """
    takes = 'an object {"b64": "..."}'
    if not isinstance(image, dict) or not isinstance(image.get("b64"), str) or len(image) != 1:
        raise InvalidParameter(f"image is not {takes}", field="image", takes=takes)
    return decode_base64(image["b64"], "image.b64")


def _parse_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise InvalidParameter(f"the field '{name}' stands twice", field=name, takes="one value")
        fields[name] = value
    return fields


def decode_base64(text: str, field: str) -> bytes:
    """Decodes standard base64, in pieces: one long call would hold the interpreter and so the event loop.

    Raises:
        MalformedBody: characters or padding that base64 does not have.
    """
    pieces = []
    try:
        data = text.encode("ascii")
        for start in range(0, len(data), _BASE64_CHUNK):
            piece = data[start : start + _BASE64_CHUNK]
            if b"=" in piece and start + _BASE64_CHUNK < len(data):
                raise ValueError("padding before the end")
            pieces.append(binascii.a2b_base64(piece, strict_mode=True))
    except ValueError as error:
        raise MalformedBody(f"{field} is not base64: {error}", field=field, takes="base64 (RFC 4648)") from None
    return b"".join(pieces)
