"""Refuses headers and bodies that are too large before anything reads them, bodies while they stream in."""

import asyncio
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.handlers import respond
from app.errors import BodyTooLarge, InvalidParameter, NotAcceptable, QueueFull, ServiceError, Timeout
from app.runtime.budget import BodyMemory

_DRAIN_BYTES = 2**30
_DRAIN_S = 20.0
_DRAIN_PAUSE_S = 2.0
# A body of which nothing arrives for so long is given up.
_MAX_PAUSE_S = 30.0
# As many as a multipart body may have.
_MAX_QUERY_FIELDS = 256
# Browsers send a tenth of it; tens of thousands of media types take long to parse.
_MAX_ACCEPT_BYTES = 4096
# The service reads none of them. Python's time to parse cookies grows with the square of their length.
_UNUSED = frozenset({b"cookie", b"range", b"if-range"})


class HeaderLimit:
    """ASGI middleware that drops unused headers, and refuses headers and queries that would take long to parse."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can be parsed quickly."""
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _UNUSED]
            if (error := _header_error(scope)) is not None:
                await respond(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _header_error(scope: Scope) -> ServiceError | None:
    """The error of a query or header that is too long, where one is."""
    # parse_qsl() treats semicolons as data.
    if scope["query_string"].count(b"&") >= _MAX_QUERY_FIELDS:
        expected = f"at most {_MAX_QUERY_FIELDS} fields"
        return InvalidParameter(f"the query is too long: {expected} are allowed", field="query", expected=expected)
    if sum(len(value) for name, value in scope["headers"] if name == b"accept") > _MAX_ACCEPT_BYTES:
        expected = f"at most {_MAX_ACCEPT_BYTES} characters"
        message = f"the header Accept is too long: {expected} are allowed"
        return NotAcceptable(message, field="Accept", expected=expected)
    return None


class BodyLimit:
    """ASGI middleware that raises `BodyTooLarge` into the application, and `QueueFull` where all bodies are too large.

    A client that does not wait for "100 Continue" reads no answer before it has sent its body, and where the
    connection closes after the answer it would find a reset instead. So what an early answer leaves unread is
    read and discarded first, within bounds.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, memory: BodyMemory, limit_s: float) -> None:
        """Takes the limits.

        Args:
            app: the application.
            max_bytes: largest body.
            memory: counts what all bodies together take up.
            limit_s: how long a body may take to arrive.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._memory = memory
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what the application receives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(dict(scope["headers"]), receive, self._max_bytes, self._memory, self._limit_s)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.drain()
            await send(message)

        try:
            await self._app(scope, body.receive, answer)
        finally:
            body.release()


class _Body:
    """The body of one request as it streams in."""

    def __init__(
        self, headers: dict[bytes, bytes], receive: Receive, max_bytes: int, memory: BodyMemory, limit_s: float
    ) -> None:
        declared = headers.get(b"content-length", b"0")
        self._declared = int(declared) if declared.isdigit() else 0
        self._receive = receive
        self._max_bytes = max_bytes
        self._memory = memory
        self._held_bytes = 0
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._received = 0
        self._timed_out = False
        self._complete = not self._declared and b"transfer-encoding" not in headers
        # Such a client sends its body only when the first `receive` asks for it.
        self._waits = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            BodyTooLarge: the body is, or says that it will be, longer than the limit.
            QueueFull: it does not fit beside those of other requests.
            Timeout: it takes too long.
        """
        if self._declared > self._max_bytes:
            raise self._too_large()
        message = await self._next_in_time()
        if self._received > self._max_bytes:
            raise self._too_large()
        size = len(message.get("body", b""))
        if self._memory.bytes + size > self._memory.limit:
            raise QueueFull(
                "the bodies of other requests fill the memory",
                headers={"Retry-After": "1"},
                expected=f"at most {self._memory.limit // 2**20} MiB at once",
            )
        self._memory.bytes += size
        self._held_bytes += size
        return message

    def release(self) -> None:
        """The request is over: nothing of its body is in memory any more."""
        self._memory.bytes -= self._held_bytes
        self._held_bytes = 0

    async def drain(self) -> None:
        """Reads the rest and discards it, unless the client still waits to be asked for it, or took too long."""
        if self._waits or self._timed_out:
            return
        try:
            async with asyncio.timeout(_DRAIN_S):
                while not self._complete and self._received <= _DRAIN_BYTES:
                    async with asyncio.timeout(_DRAIN_PAUSE_S):
                        await self._next()
        except TimeoutError:
            return

    async def _next_in_time(self) -> Message:
        if self._complete:
            return await self._next()  # the caller's disconnect, which may come at any time
        limit_s = min(_MAX_PAUSE_S, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(limit_s):
                return await self._next()
        except TimeoutError:
            # A client that slow would hold the connection for ever.
            self._timed_out = True
            raise Timeout(
                "the body did not arrive in time",
                headers={"Connection": "close"},
                field="body",
                expected=f"a whole body within {self._limit_s:g} s, without a pause of more than {_MAX_PAUSE_S:g} s",
            ) from None

    async def _next(self) -> Message:
        self._waits = False
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> BodyTooLarge:
        expected = f"at most {self._max_bytes // 2**20} MiB"
        return BodyTooLarge(f"the body is too large: {expected} are allowed", field="body", expected=expected)
