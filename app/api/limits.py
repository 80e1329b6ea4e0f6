"""Refuses bodies that are too large while they stream in, before anything is kept of them."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge, QueueFull, Timeout
from app.runtime.budget import Held

_DRAIN_BYTES = 2**30
_DRAIN_S = 20.0
_SILENCE_S = 2.0
# A body in which nothing arrives for so long is not waited for.
_PAUSE_S = 30.0


class BodyLimit:
    """ASGI middleware that raises `BodyTooLarge` into the application, and `QueueFull` where bodies fill the memory.

    A client that does not wait for "100 Continue" reads no answer before it has sent its body, and where the
    connection closes after the answer it would find a reset instead. So what an early answer leaves unread is
    read and thrown away first, within bounds.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, held: Held, limit_s: float) -> None:
        """Takes the limits.

        Args:
            app: the application.
            max_bytes: largest body.
            held: what all bodies together take up.
            limit_s: how long a body may take to arrive.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._held = held
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what the application receives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(dict(scope["headers"]), receive, self._max_bytes, self._held, self._limit_s)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.drain()
            await send(message)

        try:
            await self._app(scope, body.receive, answer)
        finally:
            body.let_go()


class _Body:
    """The body of one request as it streams in."""

    def __init__(
        self, headers: dict[bytes, bytes], receive: Receive, max_bytes: int, held: Held, limit_s: float
    ) -> None:
        declared = headers.get(b"content-length", b"0")
        self._declared = int(declared) if declared.isdigit() else 0
        self._receive = receive
        self._max_bytes = max_bytes
        self._all = held
        self._held = 0
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._received = 0
        self._is_given_up = False
        self._complete = not self._declared and b"transfer-encoding" not in headers
        # To receive is to tell such a client to go on.
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
        if self._all.bytes + size > self._all.limit:
            raise QueueFull(
                "the pictures of other requests fill the memory",
                headers={"Retry-After": "1"},
                takes=f"at most {self._all.limit // 2**20} MiB at once",
            )
        self._all.bytes += size
        self._held += size
        return message

    def let_go(self) -> None:
        """The request is over: nothing of its body is in memory any more."""
        self._all.bytes -= self._held
        self._held = 0

    async def drain(self) -> None:
        """Throws the rest away, unless the client is still waiting to be told to send it, or took too long."""
        if self._waits or self._is_given_up:
            return
        try:
            async with asyncio.timeout(_DRAIN_S):
                while not self._complete and self._received <= _DRAIN_BYTES:
                    async with asyncio.timeout(_SILENCE_S):
                        await self._next()
        except TimeoutError:
            return

    async def _next_in_time(self) -> Message:
        if self._complete:
            return await self._next()  # the caller's hanging up, which has all the time in the world
        limit_s = min(_PAUSE_S, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(limit_s):
                return await self._next()
        except TimeoutError:
            # Whoever is that slow would hold the connection on and on.
            self._is_given_up = True
            raise Timeout(
                "the body did not arrive in time",
                headers={"Connection": "close"},
                field="body",
                takes=f"a whole body within {self._limit_s:g} s, without a pause of more than {_PAUSE_S:g} s",
            ) from None

    async def _next(self) -> Message:
        self._waits = False
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> BodyTooLarge:
        limit = f"at most {self._max_bytes // 2**20} MiB"
        return BodyTooLarge(f"the body is too large: it may hold {limit}", field="body", takes=limit)
