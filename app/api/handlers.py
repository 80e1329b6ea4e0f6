"""Turns whatever is raised into the one shape of error that the contract knows."""

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app import imaging
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
)

_LOG = logging.getLogger(__name__)


def add_handlers(app: FastAPI) -> None:
    """Registers a handler for every kind of exception."""
    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        ServiceError: _answer,
        CamError: _answer,
        imaging.ImagingError: _answer,
        RequestValidationError: _answer,
        HTTPException: _answer,
        Exception: _answer,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _answer(request: Request, error: Exception) -> Response:
    answer = as_service_error(request, error)
    content = {"error": answer.message, "code": answer.code, "detail": answer.detail}
    return JSONResponse(content, answer.status, answer.headers)


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
            return InvalidParameter(f"{field}: {first['msg']}", field=field)
        case HTTPException(status_code=404):
            return NotFound(f"there is nothing at {request.url.path}")
        case HTTPException(status_code=405):
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{request.url.path} does not take {request.method}"
            return MethodNotAllowed(message, headers=error.headers, takes=allowed)
        case _:
            _LOG.error("unforeseen error in %s %s", request.method, request.url.path, exc_info=error)
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
