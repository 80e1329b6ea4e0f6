"""Bodies that do not arrive: the middleware alone, on a clock of its own."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api import limits
from app.api.limits import BodyLimit
from app.errors import Timeout
from app.runtime.budget import BodyMemory

PIECE = {"type": "http.request", "body": b"x", "more_body": True}
LAST = {"type": "http.request", "body": b"x", "more_body": False}


def scope(length: int) -> Scope:
    return {"type": "http", "headers": [(b"content-length", str(length).encode())]}


async def read_all(_scope: Scope, receive: Receive, _send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def nothing(_message: Message) -> None:
    pass


def feed(memory: BodyMemory, limit_s: float, pieces: Callable[[int], tuple[float, Message]]) -> None:
    """Runs a request whose n-th piece comes after a pause."""

    async def run() -> None:
        count = 0

        async def receive() -> Message:
            nonlocal count
            pause_s, message = pieces(count)
            count += 1
            await asyncio.sleep(pause_s)
            return message

        await BodyLimit(read_all, max_bytes=2**20, memory=memory, limit_s=limit_s)(scope(1000), receive, nothing)

    asyncio.run(run())


def test_a_body_that_pauses_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_PAUSE_S", 0.05)
    memory = BodyMemory(2**20)
    with pytest.raises(Timeout) as raised:
        feed(memory, 60, lambda count: (0.0 if count < 3 else 3600.0, PIECE))
    assert raised.value.detail["field"] == "body"
    assert raised.value.headers["Connection"] == "close", "what is left of it would come as the next request"
    assert memory.bytes == 0


def test_a_body_that_trickles_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_PAUSE_S", 60)
    memory = BodyMemory(2**20)
    with pytest.raises(Timeout):
        feed(memory, 0.1, lambda _count: (0.01, PIECE))
    assert memory.bytes == 0


def test_a_steady_body_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_PAUSE_S", 30)
    feed(BodyMemory(2**20), 60, lambda count: (0.001, PIECE if count < 20 else LAST))
