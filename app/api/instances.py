"""The body of the KServe V1 protocol: several pictures, and the fields that are the same for all."""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from app.api.body import check_json, receive
from app.api.content import check_charset, content_type_of
from app.api.json_body import decode_base64, image_bytes, parse_json
from app.errors import InvalidParameter, ServiceError, UnsupportedMediaType

MOST_INSTANCES = 64

_INSTANCES_EXPECTED = f"a list of 1 to {MOST_INSTANCES} instances"
_INSTANCE_EXPECTED = 'one of {"image": {"b64": "..."}}, {"b64": "..."} and {"data": "..."}'
_SHAPES = ("image", "b64", "data")


@dataclass(frozen=True, slots=True)
class Instances:
    """What a caller sent.

    Attributes:
        images: the files in order, up to the first instance that holds none.
        flaw: what is wrong with that instance, where there is one.
        fields: the parameters as they came.
    """

    images: list[bytes]
    flaw: ServiceError | None
    fields: dict[str, Any]


async def read_instances(request: Request) -> Instances:
    """Reads the body of a call.

    Raises:
        UnsupportedMediaType: another content type than JSON.
        MalformedBody: no JSON.
        InvalidParameter: a field in the query, an unknown key, no instances or too many, parameters that are none.
    """
    content_type, parameters = content_type_of(request)
    if content_type != "application/json":
        message = f"the content type '{content_type or 'none'}' is not supported"
        raise UnsupportedMediaType(message, field="Content-Type", expected="application/json")
    check_charset(parameters)
    for name in request.query_params:
        message = f"there is no field '{name}' in the query"
        raise InvalidParameter(message, field=name, expected="no fields in the query: send them in parameters")
    return await asyncio.to_thread(_read, await receive(request))


def at_instance(number: int, error: ServiceError) -> ServiceError:
    """An error that says which instance it is about."""
    message = f"instance {number}: {error.message}"
    facts = error.facts | {"instance": number}
    return type(error)(message, field=error.field, expected=error.expected, headers=error.headers, **facts)


def _read(body: bytes) -> Instances:
    content = parse_json(body)
    for name in content:
        if name not in ("instances", "parameters"):
            raise InvalidParameter(f"there is no field '{name}'", field=name, expected="instances and parameters")
    instances = content.get("instances")
    if not isinstance(instances, list) or not 1 <= len(instances) <= MOST_INSTANCES:
        message = f"field 'instances': expected {_INSTANCES_EXPECTED}"
        raise InvalidParameter(message, field="instances", expected=_INSTANCES_EXPECTED)
    fields = content.get("parameters")
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        expected = "an object of fields"
        raise InvalidParameter(f"field 'parameters': expected {expected}", field="parameters", expected=expected)
    check_json(fields)
    images: list[bytes] = []
    for number, instance in enumerate(instances):
        try:
            images.append(_image_of(instance))
        except ServiceError as error:
            return Instances(images, at_instance(number, error), fields)
    return Instances(images, None, fields)


def _image_of(instance: object) -> bytes:
    """The file of an instance.

    Raises:
        InvalidParameter: it has none, or something beside it.
        MalformedBody: no base64.
    """
    if not isinstance(instance, dict):
        raise InvalidParameter("an instance must be an object", field="instances", expected=_INSTANCE_EXPECTED)
    for name in instance:
        if name not in _SHAPES:
            raise InvalidParameter(f"there is no field '{name}'", field=name, expected=_INSTANCE_EXPECTED)
    if len(instance) != 1:
        message = "there is more than one image" if instance else "the image is missing"
        raise InvalidParameter(message, field="image", expected=_INSTANCE_EXPECTED)
    ((name, value),) = instance.items()
    if name == "image":
        return image_bytes(value)
    if not isinstance(value, str | memoryview):
        raise InvalidParameter(f"field '{name}' must be a string", field=name, expected="base64 (RFC 4648)")
    return decode_base64(value, name)
