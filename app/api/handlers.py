"""Turns whatever is raised into the one shape of error that the contract knows."""

import json
import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.record import record_of
from app.cam.errors import CamError, LayerError, MethodError
from app.errors import (
    ImageTooSmall,
    ImageUnreadable,
    Internal,
    InvalidParameter,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    TooManyPixels,
    UnsupportedMediaType,
    WorkerFailed,
)
from app.imaging import errors as imaging
from app.runtime.devices import is_out_of_memory

_LOG = logging.getLogger(__name__)
_MOST_CHARACTERS = 2000


def add_handlers(app: FastAPI) -> None:
    """Registers a handler for every kind of exception."""
    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        ServiceError: _answer,
        CamError: _answer,
        imaging.ImagingError: _answer,
        RequestValidationError: _answer,
        HTTPException: _answer,
        ClientDisconnect: _hang_up,
        Exception: _answer,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _answer(request: Request, error: Exception) -> Response:
    return respond(request, error)


def respond(request: Request, error: Exception) -> Response:
    """The reply to an exception."""
    answer = as_service_error(request, error)
    if record := record_of(request.scope):
        record.code = answer.code
    detail = {name: _cut(value) for name, value in answer.detail.items()}
    content = {"error": _cut(answer.message), "code": answer.code, "detail": detail}
    # JSON lets callers send halves of surrogate pairs, which UTF-8 cannot say.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(text, answer.status, answer.headers, "application/json")


async def _hang_up(_request: Request, _error: Exception) -> Response:
    """The caller left before its body was complete: nobody reads the answer, and nothing is wrong here."""
    return Response(status_code=400)


def _cut(value: object) -> object:
    """What a caller sent may be quoted, but not megabytes of it."""
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]}..."
    return value


def as_service_error(request: Request, error: Exception) -> ServiceError:
    """The answer to an exception; one that nobody foresaw is logged and answered without its internals."""
    match error:
        case ServiceError():
            return error
        case CamError():
            return _of_engine(error)
        case imaging.ImagingError():
            return _of_image(error)
        case RequestValidationError():
            first = error.errors()[0]
            field = str(first["loc"][-1])
            takes = first.get("ctx", {}).get("expected", first["msg"]).replace("'", "")
            return InvalidParameter(f"{field}: takes {takes}", field=field, takes=takes)
        case HTTPException(status_code=404):
            return NotFound(f"there is nothing at {request.url.path}")
        case HTTPException(status_code=405):
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{request.url.path} does not take {request.method}"
            return MethodNotAllowed(message, headers=error.headers, takes=allowed)
        case _ if is_out_of_memory(error):
            _LOG.warning("out of memory: %r", error)
            return WorkerFailed("the service has too little memory left for this request", headers={"Retry-After": "1"})
        case _:
            # As it came over the wire, where line breaks are escaped.
            path = request.scope.get("raw_path", b"").decode("ascii", "replace")
            _LOG.error("unforeseen error in %s %s", request.method, path, exc_info=error)
            return Internal("the service failed; its log says why")


def _of_engine(error: CamError) -> ServiceError:
    if isinstance(error, LayerError):
        field, takes = "layer", "pre_gap, last_conv, last_norm or the path of a module with a spatial grid"
    elif isinstance(error, MethodError):
        field, takes = "method", "a method that this layer and utility allow"
    else:
        field, takes = "target", "predicted, least-likely, a class index or a class label"
    return InvalidParameter(str(error), field=field, takes=takes)


def _of_image(error: imaging.ImagingError) -> ServiceError:
    message = str(error)
    match error:
        case imaging.UnsupportedImage():
            return UnsupportedMediaType(message, field="image", takes=", ".join(error.accepted))
        case imaging.TooManyPixels():
            takes = f"at most {error.limit} pixels"
            return TooManyPixels(message, field="image", takes=takes, width=error.width, height=error.height)
        case imaging.ImageTooSmall():
            takes = f"at least {error.minimum} px on each side"
            return ImageTooSmall(message, field="image", takes=takes, width=error.width, height=error.height)
        case _:
            return ImageUnreadable(message, field="image", takes="a complete picture")
