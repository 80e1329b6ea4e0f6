"""What handlers need of the running service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.runtime.runtime import Runtime


def runtime_of(request: Request) -> Runtime:
    """The runtime that the lifespan made."""
    runtime = request.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


async def _until_sent() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


UntilSent = Annotated[AsyncExitStack, Depends(_until_sent, scope="request")]
"""What a request holds until the last byte of its reply is sent: its place in the queue, and its pictures."""


@asynccontextmanager
async def answering(request: Request, until_sent: AsyncExitStack) -> AsyncIterator[None]:
    """Takes a place in the queue for a request whose body has been read, and works on it until its caller hangs up.

    Args:
        request: the request.
        until_sent: takes the place.

    Raises:
        ClientDisconnect: the caller hung up.
        ServiceError: whatever `Runtime.admitted` and `Runtime.deadline` raise.
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

    until_sent.enter_context(runtime_of(request).admitted())
    async with runtime_of(request).deadline():
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
