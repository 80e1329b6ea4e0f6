"""Reads the three kinds of body (multipart, JSON, a raw image) into one shape."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from app.api.content import check_charset, content_type_of
from app.api.json_body import duplicate, image_bytes, parse_json
from app.api.multipart import read_multipart
from app.errors import InvalidParameter, UnsupportedMediaType
from app.parameters import ExplainParameters, PredictParameters, list_fields

Parameters = TypeVar("Parameters", bound=PredictParameters)

_IMAGE_EXPECTED = "one image file, as the multipart part image, as image.b64 in JSON, or as the body itself"
# In JSON these must be numbers and booleans; everywhere else all values are text.
_NUMBERS = frozenset(
    {name for name, field in ExplainParameters.model_fields.items() if field.annotation in {int, float, float | None}}
)
_BOOLEANS = frozenset({name for name, field in ExplainParameters.model_fields.items() if field.annotation is bool})


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of the posted file, and the fields as they came."""

    image: bytes
    fields: dict[str, Any]


async def read_body(
    request: Request, model: type[PredictParameters], reply_fields: frozenset[str] = frozenset()
) -> Body:
    """Reads a request body of any accepted content type, together with the query string.

    Args:
        request: the request.
        model: the fields; those that are lists may be repeated.
        reply_fields: names in the query string that shape the reply only; each may be given once, and is left out.

    Raises:
        MalformedBody: the body is not valid JSON, multipart or base64.
        UnsupportedMediaType: another content type.
        InvalidParameter: no image, a second file, or a single field that is given more than once.
    """
    content_type, parameters = content_type_of(request)
    lists = list_fields(model)
    query = _query(request, reply_fields)
    if content_type in {"multipart/form-data", "application/json"}:
        check_charset(parameters)
    if content_type == "multipart/form-data":
        return await asyncio.to_thread(_read_multipart, await receive(request), parameters, query, lists)
    if content_type == "application/json":
        return await asyncio.to_thread(_read_json, await receive(request), query, lists)
    body = await receive(request)
    if content_type.startswith("image/") or (not content_type and not body):
        if not body:
            raise _missing_image()
        return Body(body, _collect(query, lists))
    raise UnsupportedMediaType(
        f"the content type '{content_type or 'none'}' is not supported",
        field="Content-Type",
        expected="multipart/form-data, application/json or image/*",
    )


async def receive(request: Request) -> bytes:
    """The whole body, which the request itself does not keep."""
    return b"".join([piece async for piece in request.stream()])


def validate(model: type[Parameters], fields: dict[str, Any], without: frozenset[str] = frozenset()) -> Parameters:
    """Validates fields; the first mistake becomes an `InvalidParameter` that says what was expected.

    Args:
        model: the fields that there are.
        fields: as they came.
        without: names of the model that are no fields here.
    """
    known = [name for name in model.model_fields if name not in without]
    for name in fields:
        if name not in known:
            raise InvalidParameter(f"there is no field '{name}'", field=name, expected=f"fields: {', '.join(known)}")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        expected, value = _expected(model, name), _quoted(first["input"])
        message = f"field '{name}': expected {expected}, got {value}"
        raise InvalidParameter(message, field=name, expected=expected, value=value) from None


def check_json(fields: dict[str, Any]) -> None:
    """Refuses fields of a JSON body whose number or boolean is written as something else.

    Raises:
        InvalidParameter: the first of them.
    """
    for name, value in fields.items():
        is_no_number = name in _NUMBERS and isinstance(value, str | bool)
        if is_no_number or (name in _BOOLEANS and not isinstance(value, bool)):
            got = f"{'the string ' if isinstance(value, str) else ''}{_quoted(value)}"
            message = f"field '{name}': numbers and booleans must be JSON numbers and booleans, got {got}"
            expected = _expected(ExplainParameters, name)
            raise InvalidParameter(message, field=name, expected=expected, value=_quoted(value))


def _expected(model: type[PredictParameters], name: str) -> str:
    """What a field of this name may hold, in words."""
    extra = model.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["expected"])


def _quoted(value: object) -> str:
    """A caller's value as an error quotes it, shortened."""
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
    return InvalidParameter("the image is missing", field="image", expected=_IMAGE_EXPECTED)


def _query(request: Request, reply_fields: frozenset[str]) -> list[tuple[str, str]]:
    pairs = request.query_params.multi_items()
    _collect([(name, value) for name, value in pairs if name in reply_fields], frozenset())
    return [(name, value) for name, value in pairs if name not in reply_fields]


def _collect(pairs: list[tuple[str, str]], lists: frozenset[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in lists:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise duplicate(name)
        else:
            fields[name] = value
    return fields


def _read_multipart(
    body: bytes, parameters: dict[bytes, bytes], query: list[tuple[str, str]], lists: frozenset[str]
) -> Body:
    image: bytes | None = None
    pairs: list[tuple[str, str]] = []
    for part in read_multipart(body, parameters.get(b"boundary")):
        if not part.is_file:
            if part.name == "image":
                message = "the part 'image' is text, not a file: send the file itself (curl -F image=@photo.jpg)"
                raise InvalidParameter(message, field="image", expected=_IMAGE_EXPECTED)
            pairs.append((part.name, part.text))
        elif part.name != "image":
            raise InvalidParameter(f"there is no file part '{part.name}'", field=part.name, expected=_IMAGE_EXPECTED)
        elif image is not None:
            raise InvalidParameter("there is more than one image", field="image", expected=_IMAGE_EXPECTED)
        else:
            image = part.data
    if image is None:
        raise _missing_image()
    return Body(image, _collect([*query, *pairs], lists))


def _read_json(body: bytes, query: list[tuple[str, str]], lists: frozenset[str]) -> Body:
    content = parse_json(body)
    fields = _collect(query, lists)
    for name in fields.keys() & content.keys():
        raise duplicate(name)
    image = content.pop("image", None)
    if image is None:
        raise _missing_image()
    check_json(content)
    return Body(image_bytes(image), fields | content)
