"""Bodies of all requests together take no more memory than is set aside for them."""

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.limits import BodyLimit
from app.errors import BodyTooLarge, QueueFull
from app.runtime.budget import BodyMemory

LARGEST = 100
SCOPE: Scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}


def bodies(*sizes: int) -> Receive:
    pieces: Iterator[Message] = iter(
        {"type": "http.request", "body": bytes(size), "more_body": number < len(sizes) - 1}
        for number, size in enumerate(sizes)
    )

    async def receive() -> Message:
        return next(pieces)

    return receive


async def nowhere(_message: Message) -> None:
    """Takes what is sent."""


class Application:
    """Reads bodies and holds them until it is told to let them go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.reads = asyncio.Semaphore(0)

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        self.reads.release()
        await self.let_go.wait()


def test_a_body_that_does_not_fit_beside_the_others_is_refused_until_one_of_them_is_answered() -> None:
    async def ask() -> None:
        application = Application()
        limit = BodyLimit(application, max_bytes=LARGEST, memory=BodyMemory(2 * LARGEST), limit_s=10)
        held = [asyncio.create_task(limit(SCOPE, bodies(50, 40), nowhere)) for _ in range(2)]
        for _ in held:
            await application.reads.acquire()
        with pytest.raises(QueueFull) as refused:
            await limit(SCOPE, bodies(15, 10), nowhere)
        assert refused.value.status == 429
        assert refused.value.headers["Retry-After"]
        # What was refused, or too large, holds nothing; what still fits is taken.
        with pytest.raises(BodyTooLarge):
            await limit(SCOPE, bodies(15, 90), nowhere)
        small = asyncio.create_task(limit(SCOPE, bodies(20), nowhere))
        await application.reads.acquire()
        application.let_go.set()
        await asyncio.gather(*held, small)
        await limit(SCOPE, bodies(50, 50), nowhere)

    asyncio.run(asyncio.wait_for(ask(), 10))
