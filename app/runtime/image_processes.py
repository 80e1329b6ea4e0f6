"""Reads and draws pictures in processes, within limits of time and memory; repeats work that was lost with one."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from app.errors import ImageUnreadable, WorkerFailed
from app.imaging.messages import ProtocolError
from app.runtime.budget import Budget, Quota
from app.runtime.image_process import CHILD, BrokenProcess, ImageProcess, MemoryExceeded
from app.runtime.process_pool import ProcessPool, closed_error

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_HELD_BYTES = 2 << 30
# The budget has room for the largest picture and an overlay of its size, whatever the operator allows.
_BUDGET_BYTES_A_PIXEL = 32
# Memory that decoders leak is freed with their process.
RECYCLE_AFTER = 1000
# A process that has used no processor time for so long is stopped; even a busy machine gives each some.
STALL_S = 5.0
_STARTS = 3
# Work whose process was killed from outside is repeated once.
_ATTEMPTS = 2
BROKEN = "the picture crashed its decoder"


class _ProcessLost(Exception):
    """The process was killed from outside, or made no progress."""


class ImageProcesses:
    """The processes, and the budget of the memory that pictures take.

    Attributes:
        budget: of bytes that requests hold.
        pool: the processes.
        large: how many processes may do large work; of several one is kept for small work.
        broken: how many pictures broke the process that read them.
    """

    def __init__(
        self,
        count: int,
        max_pixels: int,
        *,
        stall_s: float = STALL_S,
        max_held_bytes: int | None = None,
        recycle_after: int = RECYCLE_AFTER,
        program: Sequence[str] = CHILD,
    ) -> None:
        """Starts nothing yet.

        Args:
            count: how many processes there are.
            max_pixels: the largest accepted width x height, in px.
            stall_s: how often the progress of a process is checked.
            max_held_bytes: what all requests may hold.
            recycle_after: pieces of work after which a process is replaced.
            program: what a process runs; `max_pixels` is its last argument.
        """
        self.budget = Budget(max_held_bytes or max(MAX_HELD_BYTES, _BUDGET_BYTES_A_PIXEL * max_pixels))
        self.pool = ProcessPool(count, program, max_pixels, recycle_after)
        self.large = Quota(max(1, count - 1))
        self.broken = 0
        self._stall_s = stall_s

    async def run(
        self, caller: str, limit_s: Callable[[], float], work: Callable[[ImageProcess], Awaitable[Result]]
    ) -> Result:
        """Runs work in a process; work that loses its process is repeated once.

        Args:
            caller: is charged for the processor time.
            limit_s: processor time that it may take by now.
            work: may be called again with another process.

        Raises:
            ImageUnreadable: it used too much time or memory, or broke its process.
            WorkerFailed: two processes were lost, or none can be started.
            Exception: whatever `work` raises.
        """
        for _ in range(_ATTEMPTS):
            with suppress(_ProcessLost):
                process = await self._take(caller)
                return await self._work(process, caller, limit_s, work)
        raise WorkerFailed("the processes that were to do this were killed", headers={"Retry-After": "1"})

    async def _take(self, caller: str) -> ImageProcess:
        """Waits for a process; where one dies while it starts, another is tried."""
        for _ in range(_STARTS):
            with suppress(BrokenProcess):
                return await self.pool.take(caller)
        raise WorkerFailed("no image process can be started now", headers={"Retry-After": "1"})

    async def _work(
        self,
        process: ImageProcess,
        caller: str,
        limit_s: Callable[[], float],
        work: Callable[[ImageProcess], Awaitable[Result]],
    ) -> Result:
        used_s = process.processor_s
        watching = None
        try:
            async with asyncio.timeout(None) as deadline:
                watching = asyncio.create_task(self._watch(process, deadline, used_s, limit_s))
                return await work(process)
        except TimeoutError:
            if process.processor_s - used_s >= limit_s():
                raise _too_slow(limit_s()) from None
            _LOG.warning("image process %d has made no progress for %g s and is replaced", process.pid, self._stall_s)
            raise _ProcessLost from None
        except MemoryExceeded:
            raise ImageUnreadable("the picture needs more memory to decode than is allowed") from None
        except BrokenProcess as error:
            raise await self._why_broken(process, error, limit_s()) from None
        finally:
            if watching is not None:
                watching.cancel()
            self.pool.costs.charge(caller, max(0.0, process.processor_s - used_s))
            await self.pool.release(process)

    async def _watch(
        self, process: ImageProcess, deadline: asyncio.Timeout, used_s: float, limit_s: Callable[[], float]
    ) -> None:
        """Ends work that makes no progress or has used too much time, without the help of its process."""
        before_s = process.processor_s
        while True:
            await asyncio.sleep(self._stall_s)
            now_s = process.processor_s
            if now_s <= before_s or now_s - used_s >= limit_s():
                deadline.reschedule(asyncio.get_running_loop().time())
                return
            before_s = now_s

    async def _why_broken(self, process: ImageProcess, error: BrokenProcess, limit_s: float) -> Exception:
        if self.pool.closed:
            return closed_error()
        if not isinstance(error.__cause__, ProtocolError):
            died_of = await self.pool.in_thread(process.ending_signal)
            if died_of == signal.SIGPROF:
                return _too_slow(limit_s)
            if died_of == signal.SIGKILL:  # as the kernel does for want of memory
                _LOG.warning("image process %d was killed", process.pid)
                return _ProcessLost()
        self.broken += 1
        _LOG.warning("a picture crashed its decoder: %s", error)
        return ImageUnreadable(BROKEN)


def _too_slow(limit_s: float) -> ImageUnreadable:
    return ImageUnreadable(f"the picture took more than {limit_s:.3g} s of processor time to decode")
