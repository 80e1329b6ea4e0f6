"""The outermost middleware: request ids in and out, the access log, the counters, and an answer to every failure."""

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.handlers import respond
from app.api.record import RECORD_KEY, Record, route_of
from app.logs import current_request_id
from app.runtime.meters import Meters

_LOG = logging.getLogger("app.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Routes that are asked every few seconds; in the log they would hide the rest.
_PROGRESS = "/v1/requests/"
QUIET = frozenset(
    {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", _PROGRESS + "{request_id:path}"}
)
_LONGEST_PATH = 200
# A caller who hung up before the answer, as nginx writes it.
_HUNG_UP = 499


def is_quiet(scope: Scope) -> bool:
    """Whether a request asks one of these, judged by its path before its route is known."""
    path: str = scope.get("path", "")
    return path in QUIET or path.startswith(_PROGRESS)


class Observing:
    """ASGI middleware that keeps a `Record` of every request."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request with its id, and notes how that went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(_request_id(Headers(scope=scope)))
        scope[RECORD_KEY] = record
        current_request_id.set(record.request_id)
        status = _HUNG_UP

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = record.request_id
                # Before anything leaves: whoever has the reply finds it in the counters.
                self._count(scope, record, status)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if status != _HUNG_UP:
                raise  # the reply has begun, and can only be cut off
            await respond(Request(scope), error)(scope, receive, answer)
        finally:
            if status == _HUNG_UP:
                self._count(scope, record, status)
            self._log(scope, record, status)

    def _count(self, scope: Scope, record: Record, status: int) -> None:
        route = route_of(scope)
        self._meters.requests.labels(route, _method_of(scope), str(status)).inc()
        if record.key is not None:
            self._meters.keys.labels(record.key, str(status)).inc()
        if record.code is not None and route not in QUIET:
            self._meters.rejected.labels(record.code).inc()

    def _log(self, scope: Scope, record: Record, status: int) -> None:
        route = route_of(scope)
        is_probe = route in QUIET
        # A probe that says "not yet" is no news either.
        is_news = status >= 500 and not (is_probe and status == 503)
        level = logging.WARNING if is_news else logging.DEBUG if is_probe else logging.INFO
        if not _LOG.isEnabledFor(level):
            return
        method = _method_of(scope)
        duration_ms = 1e3 * (time.perf_counter() - record.started)
        # As it came over the wire, where controls are escaped.
        path = scope.get("raw_path", b"").decode("ascii", "replace")[:_LONGEST_PATH]
        facts = {
            "http_method": method,
            "path": path,
            "route": route,
            "status": status,
            "duration_ms": round(duration_ms, 3),
            "client": (scope.get("client") or ("",))[0],
            "key": record.key,
            "code": record.code,
            **record.facts,
        }
        said = {name: value for name, value in facts.items() if value is not None}
        _LOG.log(level, "%s %s %d %.1f ms", method, path, status, duration_ms, extra=said)


def _method_of(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _request_id(headers: Headers) -> str:
    """The caller's, where it can stand in a header and in a log; else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex
