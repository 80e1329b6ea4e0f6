"""Refuses bodies that are too large while they stream in, before anything is kept of them."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge

# A client that does not wait for "100 Continue" reads no answer before it has sent its body; so an excess is
# read and thrown away, up to these bounds.
_DRAIN_BYTES = 2**30
_DRAIN_S = 20.0


class BodyLimit:
    """ASGI middleware that raises `BodyTooLarge` into the application."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what the application receives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        waits = headers.get(b"expect", b"").lower() == b"100-continue"
        received = 0

        async def limited() -> Message:
            nonlocal received
            if declared.isdigit() and int(declared) > self._max_bytes:
                if not waits:
                    await _drain(receive)
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                if message.get("more_body", False):
                    await _drain(receive)
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> BodyTooLarge:
        limit = f"at most {self._max_bytes // 2**20} MiB"
        return BodyTooLarge(f"the body is too large: it may hold {limit}", field="body", takes=limit)


async def _drain(receive: Receive) -> None:
    drained = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while drained <= _DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
