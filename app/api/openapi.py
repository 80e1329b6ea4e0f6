"""The parts of the OpenAPI document that FastAPI cannot derive: bodies that are read by hand, and errors."""

import base64
import io
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.config import JsonDict

from app.api.instances import MOST_INSTANCES
from app.errors import ERRORS
from app.imaging.formats import titles
from app.parameters import CompareParameters, ExplainParameters, PredictParameters, list_fields
from app.schemas import ErrorReply
from app.settings import Settings

# How an operation that takes pictures can fail.
UPLOAD_STATUSES = (400, 401, 404, 406, 413, 415, 422, 429, 500, 503, 504)

# Every network has this one version of the Open Inference Protocol.
VERSION = "1"

# By the beginning of the names of their schemas.
_FIELDS = {"Explain": ExplainParameters, "Compare": CompareParameters, "Predict": PredictParameters}
_REFERENCE = "#/components/schemas/{model}"
_BASE64 = "The file, base64 (RFC 4648)."
# Both names that OpenAPI has had for it.
_IS_BASE64: JsonDict = {"format": "byte", "contentEncoding": "base64"}


class JsonImage(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    b64: str = Field(description=_BASE64, json_schema_extra=_IS_BASE64)


class Upload(BaseModel):
    """An image in a multipart body."""

    image: bytes = Field(
        description=f"The file: {titles()}.",
        json_schema_extra={"format": "binary", "contentMediaType": "application/octet-stream"},
    )


class JsonInstance(BaseModel):
    """An instance as the service's own JSON bodies have it."""

    model_config = ConfigDict(extra="forbid")

    image: JsonImage


class DataInstance(BaseModel):
    """An instance that is a file and nothing else."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description=_BASE64, json_schema_extra=_IS_BASE64)


class Call(BaseModel):
    """What the KServe V1 protocol posts."""

    model_config = ConfigDict(extra="forbid")

    instances: list[JsonInstance | JsonImage | DataInstance] = Field(
        min_length=1, max_length=MOST_INSTANCES, description="The pictures, in any of the three shapes."
    )


def _bodies() -> Iterator[type[BaseModel]]:
    """The multipart and the JSON body of each operation that takes one picture."""
    for name, fields in _FIELDS.items():
        path = f"`/v1/{name.lower()}`"
        yield create_model(f"{name}Form", __base__=(Upload, fields), __doc__=f"The multipart body of {path}.")
        yield create_model(f"{name}Json", __base__=fields, __doc__=f"The JSON body of {path}.", image=(JsonImage, ...))


def _call(name: str) -> type[BaseModel]:
    """The body of an operation that takes several pictures."""
    parameters: Any = (_FIELDS[name] | None, Field(None, description="The same for all instances."))
    return create_model(f"{name}Call", __base__=Call, __doc__=f"The body of `:{name.lower()}`.", parameters=parameters)


_BODIES = tuple(_bodies())
_CALLS = (_call("Explain"), _call("Predict"))
# Their network stands in the path.
_CALL_FIELDS = (ExplainParameters, PredictParameters)


def upload(prefix: str, parameters: type[PredictParameters]) -> dict[str, Any]:
    """The request body of an operation that takes a picture, in its three content types."""
    lists = sorted(list_fields(parameters))

    def schema(kind: str) -> dict[str, str]:
        return {"$ref": _REFERENCE.format(model=f"{prefix}{kind}")}

    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": schema("Form"),
                    # A list is the same field repeated, as curl -F writes it.
                    "encoding": {name: {"style": "form", "explode": True} for name in lists},
                },
                "application/json": {
                    "schema": schema("Json"),
                    "example": {"image": {"b64": _example_image()}},
                },
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


def call(prefix: str, **parameters: object) -> dict[str, Any]:
    """The request body of an operation that takes several pictures, with an example of these parameters."""
    example = {"instances": [{"image": {"b64": _example_image()}}], "parameters": parameters}
    schema = {"$ref": _REFERENCE.format(model=f"{prefix}Call")}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def documented(*statuses: int, png: str = "", headers: dict[str, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """The error replies of an operation, with their codes.

    Args:
        statuses: of the errors.
        png: what an `image/png` reply is, where there is one.
        headers: of that reply, with their descriptions.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [error for error in ERRORS if error.status == status]
        lines = [f"`{kind.code}`: {(kind.__doc__ or '').strip()}" for kind in kinds]
        responses[status] = {"model": ErrorReply, "description": "\n\n".join(lines)}
    if png:
        responses[200] = {
            "description": png,
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {
                name: {"description": text, "schema": {"type": "string"}} for name, text in (headers or {}).items()
            },
        }
    return responses


def install_openapi(app: FastAPI, settings: Settings) -> None:
    """Adds what the settings make of the document: the body schemas, and examples of what stands in paths."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = derive()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            bodies: tuple[type[BaseModel], ...] = (*_BODIES, *_CALLS, *_CALL_FIELDS)
            for body in bodies:
                schema = body.model_json_schema(ref_template=_REFERENCE)
                schemas.update(schema.pop("$defs", {}))
                schemas[body.__name__] = schema if body in _CALLS else _as_configured(schema, settings)
                if body not in _CALLS:
                    (_as_form if issubclass(body, Upload) else _as_json)(schema["properties"])
            for fields in _CALL_FIELDS:
                del schemas[fields.__name__]["properties"]["model"]
            _tidy(document, settings)
            if settings.api_keys_file is not None:
                _guard(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _tidy(document: dict[str, Any], settings: Settings) -> None:
    """Fills in parts of paths for the API page, and takes out the errors of FastAPI itself, which never come."""
    examples = {"name": settings.models[0], "version": VERSION, "request_id": "order-66"}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                parameter["example"] = examples[parameter["name"]]
        if operation["responses"].get("422", {}).get("description") == "Validation Error":
            del operation["responses"]["422"]
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    # Pairs and boxes hold one kind of number each; to say so by position is more than most readers understand.
    for kept in (kept for schema in schemas.values() for kept in schema.get("properties", {}).values()):
        if "prefixItems" in kept:
            kept["items"] = kept.pop("prefixItems")[0]


def _guard(document: dict[str, Any]) -> None:
    """Asks for a key wherever one is asked for."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if "401" in operation["responses"]:
            operation["security"] = [{"key": []}]


def _as_configured(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """States what the settings decide: the networks, and how many targets."""
    properties = schema["properties"]
    title = properties["model"].get("title")
    description = properties["model"].get("description")
    properties["model"] = {
        "type": "string",
        "title": title,
        "description": description,
        "enum": list(settings.models),
        "default": settings.models[0],
    }
    if "target" in properties:
        properties["target"]["maxItems"] = settings.max_targets
    for name, kept in properties.items():
        kept.pop("expected", None)
        if name == "layer":
            kept.update(next(kind for kind in kept.pop("anyOf") if kind["type"] == "array"), default=["pre_gap"])
    return schema


def _as_form(properties: dict[str, Any]) -> None:
    """A form has no null: what may be left out is left out."""
    for kept in properties.values():
        kinds = [kind for kind in kept.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1 and len(kept["anyOf"]) == 2:
            del kept["anyOf"]
            kept.pop("default", None)
            kept.update(kinds[0])


def _as_json(properties: dict[str, Any]) -> None:
    """In JSON a list may be its only value, a target a number, and the default of some a null."""
    for name, kept in properties.items():
        kinds = []
        if kept.get("type") == "array":
            names = ("type", "items", "minItems", "maxItems", "uniqueItems")
            array = {key: kept.pop(key) for key in names if key in kept}
            if name == "target":
                array["items"] = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
            kinds = [array, array["items"]]
        elif name == "model":
            kinds = [{"type": kept.pop("type"), "enum": kept.pop("enum")}]
        if name in {"model", "layer"}:
            kinds.append({"type": "null"})
        if kinds:
            kept["anyOf"] = kinds


def _example_image() -> str:
    """A picture that the example call really sends: a disc on a gradient."""
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(230, 120, 30))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=70)
    return base64.b64encode(file.getvalue()).decode()
