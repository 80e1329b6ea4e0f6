"""A pool of image processes: hands them to callers, and replaces those that are lost."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from app.errors import NotReady
from app.runtime.image_process import BrokenProcess, ImageProcess

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

# After so long half of what a caller has used is forgotten.
_HALF_LIFE_S = 10.0
_MOST_CALLERS = 4096
# Callers whose costs differ by less than this are served in turn.
_COST_STEP_S = 0.5


class CallerCosts:
    """The processor time that each caller's pictures have taken lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._costs: dict[str, tuple[float, float]] = {}

    def of(self, caller: str) -> float:
        """Seconds; those that are long ago count less."""
        seconds, at = self._costs.get(caller, (0.0, 0.0))
        return seconds * 0.5 ** ((self._clock() - at) / _HALF_LIFE_S) if seconds else 0.0

    def charge(self, caller: str, seconds: float) -> None:
        """Adds to a caller's costs; of too many callers those with the least are forgotten."""
        self._costs[caller] = (self.of(caller) + seconds, self._clock())
        if len(self._costs) > _MOST_CALLERS:
            costliest = sorted(self._costs, key=self.of, reverse=True)[: _MOST_CALLERS // 2]
            self._costs = {name: self._costs[name] for name in costliest}


@dataclass(eq=False, slots=True)
class _Waiter:
    caller: str
    found: "asyncio.Future[ImageProcess | None]"


class ProcessPool:
    """A fixed number of processes, each started when it is first needed and replaced when it is worn out.

    A caller who waits gets a process before those whose pictures have cost more, and else in order. All methods are
    called on one event loop, and none blocks it.

    Attributes:
        costs: of the callers.
        closed: whether the processes have been ended.
    """

    def __init__(self, count: int, program: Sequence[str], max_pixels: int, recycle_after: int) -> None:
        self.costs = CallerCosts()
        self.closed = False
        self._count = count
        self._program = program
        self._max_pixels = max_pixels
        self._recycle_after = recycle_after
        # None stands for a process that is not started yet; the one that was used last is taken first.
        self._idle: list[ImageProcess | None] = [None] * count
        self._waiters: list[_Waiter] = []
        self._running: set[ImageProcess] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        # For short work that blocks.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="images")

    @property
    def pids(self) -> frozenset[int]:
        """Of the processes that run."""
        return frozenset(process.pid for process in self._running)

    @property
    def idle(self) -> int:
        """How many wait for work, or are not started yet."""
        return len(self._idle)

    async def start(self) -> None:
        """Starts all of them, which otherwise start as they are needed.

        Raises:
            BrokenProcess: one does not start.
        """
        for process in await asyncio.gather(*(self.take("") for _ in range(self._count))):
            self._offer(process)

    async def take(self, caller: str) -> ImageProcess:
        """Waits for a process that is ready; `release` must follow.

        Raises:
            BrokenProcess: none can be started.
            NotReady: they have been closed.
        """
        process = self._idle.pop() if self._idle and not self._waiters else await self._wait(caller)
        if self.closed:
            self._offer(process)
            raise closed_error()
        if process is not None and process.usable:
            return process
        renewal = self.run_to_end(self._renew(process))
        try:
            return await asyncio.shield(renewal)
        except BaseException:
            renewal.add_done_callback(self._put_back)
            raise

    async def release(self, process: ImageProcess) -> None:
        """Makes a process available to others, or replaces it where it is not ready or is worn out."""
        if process.is_ready and process.job_count < self._recycle_after and not self.closed:
            self._offer(process)
            return
        await self._end(process)
        self.run_to_end(self._renew(None)).add_done_callback(self._put_back)

    async def close(self) -> None:
        """Ends all of them at once, and waits for the work of `run_to_end`; who waits for one gets `NotReady`."""
        self.closed = True
        for process in self._running:
            process.kill()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for process in list(self._running):
            await self._end(process)
        self._threads.shutdown()

    def run_to_end(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Runs work in a task that goes on when its caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def in_thread(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Runs work that would block the event loop for a moment."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _wait(self, caller: str) -> ImageProcess | None:
        waiter = _Waiter(caller, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            return await waiter.found
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.found.cancelled():
                self._offer(waiter.found.result())
            raise

    def _offer(self, process: ImageProcess | None) -> None:
        """Hands a process to a caller who waits, or keeps it."""
        waiting = [waiter for waiter in self._waiters if not waiter.found.done()]
        if not waiting:
            self._idle.append(process)
            return
        first = min(waiting, key=lambda waiter: int(self.costs.of(waiter.caller) / _COST_STEP_S))
        self._waiters.remove(first)
        first.found.set_result(process)

    def _put_back(self, renewal: "asyncio.Task[ImageProcess]") -> None:
        failed = renewal.cancelled() or renewal.exception() is not None
        self._offer(None if failed else renewal.result())

    async def _renew(self, process: ImageProcess | None) -> ImageProcess:
        """Ends a process, where there is one, and starts another."""
        if process is not None:
            await self._end(process)
        if self.closed:
            raise closed_error()
        fresh = await self.in_thread(partial(ImageProcess.launch, self._program, self._max_pixels))
        self._running.add(fresh)
        try:
            await fresh.wait_started()
        except BaseException:
            await self._end(fresh)
            raise
        return fresh

    async def _end(self, process: ImageProcess) -> None:
        status = await self.in_thread(process.terminate)
        self._running.discard(process)
        _LOG.debug("image process %d ended with status %d after %d pieces", process.pid, status, process.job_count)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), BrokenProcess):
            _LOG.error("%s: %r", error, error.__cause__)


def closed_error() -> NotReady:
    """The error for requests that come too late."""
    return NotReady("the service is being closed", headers={"Retry-After": "1"})
