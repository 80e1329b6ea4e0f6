"""Turns whatever is raised into the one shape of error that the contract knows."""

import json
import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.record import record_code
from app.cam.errors import CamError
from app.errors import Internal, InvalidParameter, MethodNotAllowed, NotFound, ServiceError, WorkerFailed
from app.runtime.devices import is_out_of_memory

_LOG = logging.getLogger(__name__)
_MAX_CHARACTERS = 2000


def add_handlers(app: FastAPI) -> None:
    """Registers a handler for every kind of exception."""
    for kind in (ServiceError, CamError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(ClientDisconnect, _ignore_disconnect)


async def _answer(request: Request, error: Exception) -> Response:
    return respond(request, error)


def respond(request: Request, error: Exception) -> Response:
    """The reply to an exception."""
    answer = as_service_error(request, error)
    record_code(request.scope, answer.code)
    detail = {name: _shorten(value) for name, value in answer.detail.items()}
    content = {"error": _shorten(answer.message), "code": answer.code, "detail": detail}
    # JSON lets callers send halves of surrogate pairs, which UTF-8 cannot say.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(text, answer.status, answer.headers, "application/json")


async def _ignore_disconnect(_request: Request, _error: Exception) -> Response:
    """The caller left before its body was complete: nobody reads the answer, and it is no fault of the service."""
    return Response(status_code=400)


def _shorten(value: object) -> object:
    """What a caller sent may be quoted, but not megabytes of it."""
    if isinstance(value, str) and len(value) > _MAX_CHARACTERS:
        return f"{value[:_MAX_CHARACTERS]}..."
    return value


def as_service_error(request: Request, error: Exception) -> ServiceError:
    """The answer to an exception; an unexpected one is logged and answered without its internals."""
    match error:
        case ServiceError():
            return error
        case CamError():
            return InvalidParameter(str(error), field=error.field, expected=error.expected)
        case RequestValidationError():
            first = error.errors()[0]
            field = str(first["loc"][-1])
            expected = first.get("ctx", {}).get("expected", first["msg"]).replace("'", "")
            return InvalidParameter(f"field '{field}': expected {expected}", field=field, expected=expected)
        case HTTPException(status_code=404):
            return NotFound(f"there is nothing at {request.url.path}")
        case HTTPException(status_code=405):
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{request.url.path} does not support {request.method}"
            return MethodNotAllowed(message, headers=error.headers, expected=allowed)
        case _ if is_out_of_memory(error):
            _LOG.warning("out of memory: %r", error)
            return WorkerFailed("the service has too little memory left for this request", headers={"Retry-After": "1"})
        case _:
            # As it came over the wire, where line breaks are escaped.
            path = request.scope.get("raw_path", b"").decode("ascii", "replace")
            _LOG.error("unexpected error in %s %s", request.method, path, exc_info=error)
            return Internal("the service failed; its log has the reason")
