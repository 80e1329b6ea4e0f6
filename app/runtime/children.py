"""The decoding children: how many there are, who has one, and what takes the place of one that is lost."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from app.errors import NotReady
from app.runtime.decoder import BrokenDecoder, Decoder

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


class Children:
    """A fixed number of children, each started when it is first needed and replaced when it is spent.

    All methods belong to one event loop, and none blocks it.
    """

    def __init__(self, count: int, program: Sequence[str], max_pixels: int, recycle_after: int) -> None:
        self._count = count
        self._program = program
        self._max_pixels = max_pixels
        self._recycle_after = recycle_after
        # None stands for a child that has not been started; the one that was used last is taken first.
        self._idle: asyncio.LifoQueue[Decoder | None] = asyncio.LifoQueue()
        for _ in range(count):
            self._idle.put_nowait(None)
        self._running: set[Decoder] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        # For the little that blocks.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="decoders")
        self.closed = False

    @property
    def pids(self) -> frozenset[int]:
        """The processes of the children that run."""
        return frozenset(child.pid for child in self._running)

    @property
    def idle(self) -> int:
        """How many wait for a picture, or have not been started."""
        return self._idle.qsize()

    async def start(self) -> None:
        """Starts all of them.

        Raises:
            BrokenDecoder: one does not start.
        """
        for child in await asyncio.gather(*(self.take() for _ in range(self._count))):
            self._idle.put_nowait(child)

    async def take(self) -> Decoder:
        """Waits for a child that waits for a picture; `give_back` must follow.

        Raises:
            BrokenDecoder: none can be started.
            NotReady: they have been closed.
        """
        child = await self._idle.get()
        if self.closed:
            self._idle.put_nowait(child)
            raise closing()
        if child is not None and child.usable:
            return child
        renewal = self.see_through(self._renew(child))
        try:
            return await asyncio.shield(renewal)
        except BaseException:
            renewal.add_done_callback(self._put_back)
            raise

    def give_back(self, child: Decoder) -> None:
        """Makes a child, or another in its place, available to others."""
        if child.clean and child.pictures < self._recycle_after and not self.closed:
            self._idle.put_nowait(child)
        else:
            self.see_through(self._renew(child)).add_done_callback(self._put_back)

    async def close(self) -> None:
        """Ends all of them at once, and waits for the work that was to be seen through."""
        self.closed = True
        for child in self._running:
            child.kill()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for child in list(self._running):
            await self._bury(child)
        self._threads.shutdown()

    def see_through(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Runs work that its caller's cancellation does not reach."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def in_thread(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Runs what would block the event loop for a moment."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _put_back(self, renewal: "asyncio.Task[Decoder]") -> None:
        failed = renewal.cancelled() or renewal.exception() is not None
        self._idle.put_nowait(None if failed else renewal.result())

    async def _renew(self, child: Decoder | None) -> Decoder:
        """Starts a child in the place of another."""
        if child is not None:
            await self._bury(child)
        if self.closed:
            raise closing()
        fresh = await self.in_thread(partial(Decoder.launch, self._program, self._max_pixels))
        self._running.add(fresh)
        try:
            await fresh.greet()
        except BaseException:
            await self._bury(fresh)
            raise
        return fresh

    async def _bury(self, child: Decoder) -> None:
        status = await self.in_thread(child.bury)
        self._running.discard(child)
        _LOG.debug("decoder %d ended with status %d after %d pictures", child.pid, status, child.pictures)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), BrokenDecoder):
            _LOG.error("%s: %r", error, error.__cause__)


def closing() -> NotReady:
    """The answer to who comes too late."""
    return NotReady("the service is being closed", headers={"Retry-After": "1"})
