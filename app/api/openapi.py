"""The parts of the OpenAPI document that FastAPI cannot derive: bodies that are read by hand, and errors."""

import base64
import io
from typing import Any

from fastapi import FastAPI
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from app.errors import ERRORS
from app.parameters import CompareParameters, ExplainParameters, PredictParameters, list_fields
from app.schemas import ErrorReply
from app.settings import Settings

# How an operation that takes a picture can fail.
UPLOAD_STATUSES = (400, 404, 406, 413, 415, 422, 429, 500, 503, 504)

_REFERENCE = "#/components/schemas/{model}"


class JsonImage(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid")

    b64: str = Field(description="The file, base64 (RFC 4648).")


class Upload(BaseModel):
    """An image in a multipart body."""

    image: bytes = Field(
        description="The file: JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF.",
        json_schema_extra={"format": "binary", "contentMediaType": "application/octet-stream"},
    )


class ExplainForm(Upload, ExplainParameters):
    """The multipart body of `/v1/explain`."""


class CompareForm(Upload, CompareParameters):
    """The multipart body of `/v1/compare`."""


class PredictForm(Upload, PredictParameters):
    """The multipart body of `/v1/predict`."""


class ExplainJson(ExplainParameters):
    """The JSON body of `/v1/explain`."""

    image: JsonImage


class CompareJson(CompareParameters):
    """The JSON body of `/v1/compare`."""

    image: JsonImage


class PredictJson(PredictParameters):
    """The JSON body of `/v1/predict`."""

    image: JsonImage


_BODIES: tuple[type[BaseModel], ...] = (
    ExplainForm,
    ExplainJson,
    CompareForm,
    CompareJson,
    PredictForm,
    PredictJson,
)


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
    """Adds the body schemas, as the settings make them."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = derive()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for body in _BODIES:
                schema = body.model_json_schema(ref_template=_REFERENCE)
                schemas.update(schema.pop("$defs", {}))
                schemas[body.__name__] = _as_configured(schema, settings)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


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
        kept.pop("takes", None)
        if name == "layer":
            kept.update(next(kind for kind in kept.pop("anyOf") if kind["type"] == "array"), default=["pre_gap"])
    return schema


def _example_image() -> str:
    """A picture that the example call really sends: a disc on a gradient."""
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(230, 120, 30))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=70)
    return base64.b64encode(file.getvalue()).decode()
