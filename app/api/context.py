"""What a request finds of the running service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.runtime.runtime import Runtime


def runtime_of(request: Request) -> Runtime:
    """The runtime that the lifespan made."""
    runtime = request.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


@asynccontextmanager
async def admitted(request: Request) -> AsyncIterator[None]:
    """Holds a place in the queue for a request whose body has been read, until its caller hangs up.

    Raises:
        ClientDisconnect: the caller hung up.
        ServiceError: whatever `Runtime.admitted` raises.
    """
    handler = asyncio.current_task()
    assert handler is not None
    has_hung_up = False

    async def watch() -> None:
        nonlocal has_hung_up
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_hung_up = True
        handler.cancel()

    async with runtime_of(request).admitted():
        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if has_hung_up:
                handler.uncancel()
                raise ClientDisconnect from None
            raise
        finally:
            watcher.cancel()
