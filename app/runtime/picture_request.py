"""A posted picture: the memory that its request holds, and the work that processes do for it."""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from app.errors import ImageUnreadable, InvalidParameter, WorkerFailed
from app.imaging.picture import OverlayBase, PreparedPicture
from app.imaging.reading import DecodeSpec, working_bytes
from app.imaging.rendering import RenderSpec, file_starts
from app.imaging.shared import SharedBytes
from app.imaging.shrinking import shrunk_size
from app.runtime.budget import Reservation
from app.runtime.drawn_picture import DrawnPicture
from app.runtime.image_process import DecodeLimits, ImageProcess, StoredImage
from app.runtime.image_processes import BROKEN, ImageProcesses
from app.runtime.process_pool import closed_error

Result = TypeVar("Result")

# Processor time that honest work takes a quarter of, at most: photographs took up to 0.08 s a megapixel to decode, and
# 0.1 s to draw.
_OPEN_S = 1.0
_OPEN_S_A_MEGABYTE = 0.02
_WORK_S = 2.0
_WORK_S_A_MEGAPIXEL = 0.3
_WORK_S_A_MEGABYTE = 0.1
# Drawings of more than this let smaller work pass.
_LARGE_DRAWING_PX = 8_000_000
# How long a process may finish what nobody waits for any more; to start another one takes as long.
_GRACE_S = 0.25


class DecodedPicture:
    """A posted picture: the memory that its request holds, and the work that processes do for it.

    Attributes:
        picture: what was decoded of the file.
        digest: SHA-256 of the file.
        decode_ms: time from the file's way to a process to the picture's way back.
        wait_ms: all other time, for a process and for memory.
    """

    picture: PreparedPicture
    digest: bytes

    def __init__(
        self,
        processes: ImageProcesses,
        data: bytes,
        spec: DecodeSpec,
        drawn_bytes: Callable[[tuple[int, int]], int],
        caller: str,
    ) -> None:
        self.decode_ms = self.wait_ms = 0.0
        self._processes = processes
        self._data = data
        self._spec = spec
        self._drawn_bytes = drawn_bytes
        self._caller = caller
        self._cost = 0
        self._limit_s = 0.0
        self._memory: Reservation | None = None
        self._turn: Reservation | None = None
        self._refusal: InvalidParameter | None = None
        self._base: OverlayBase | None = None
        self._drawn: SharedBytes | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._ended = False

    async def decode(self) -> None:
        """Decodes the file; see `read_picture`."""
        budget, started = self._processes.budget, time.perf_counter()
        digest = self._processes.pool.in_thread(lambda: hashlib.sha256(self._data).digest())
        picture = await self._run_to_end(self._read)
        if picture is None and self._refusal is None:
            # It waits without a process, so that smaller ones pass. Turns come last and last as long as work does: who
            # has one and waited for memory would wait for those who have memory and need a turn to draw.
            self._memory = await budget.take(self._cost)
            if not budget.is_small(self._cost):
                self._turn = await self._processes.large.take(1)
            picture = await self._run_to_end(self._read)
        if self._turn is not None:
            self._turn.release()
        if self._refusal is not None:
            raise self._refusal
        if picture is None:
            # This process sees another size than its predecessor saw.
            raise ImageUnreadable(BROKEN)
        self.picture, self._base = picture, picture.base
        if self._memory is not None:
            self._memory.shrink(self._needed_for_reply((picture.width, picture.height)))
        self.digest = await digest
        self.wait_ms = 1e3 * (time.perf_counter() - started) - self.decode_ms

    async def render(self, specs: Sequence[RenderSpec]) -> list[list[DrawnPicture]]:
        """Draws pictures, those of each spec in one process. They last as long as the decoded picture.

        Can be called once: the base of the overlays is freed.

        Raises:
            WorkerFailed: two processes were killed with it, or none can be started.
        """
        starts, size = file_starts(specs)
        self._drawn = memory = SharedBytes(max(1, size))
        lengths = await asyncio.gather(
            *(self._draw(spec, places, memory) for spec, places in zip(specs, starts, strict=True))
        )
        self._close_base()
        if self._memory is not None:
            self._memory.shrink(memory.used_bytes)
        return [
            [
                DrawnPicture(output[0], start, length, memory)
                for output, start, length in zip(spec.outputs, places, found, strict=True)
            ]
            for spec, places, found in zip(specs, starts, lengths, strict=True)
        ]

    def keep_drawings(self) -> Callable[[], None]:
        """Keeps the drawn pictures beside the budget until the function that is returned is called."""
        memory, self._drawn = self._drawn, None
        used = memory.used_bytes if memory is not None else 0
        budget = self._processes.budget
        budget.sent += used

        def release() -> None:
            budget.sent -= used
            if memory is not None:
                memory.close()

        return release

    def end(self) -> None:
        """Frees the memory, once no process works on it any more."""
        self._ended = True
        if not self._tasks:
            self._free()

    async def _draw(self, spec: RenderSpec, starts: list[int], memory: SharedBytes) -> list[int]:
        limit_s = _WORK_S + _WORK_S_A_MEGAPIXEL * spec.pixels / 1e6
        base_memory = self._base.memory if self._base is not None else None
        if not spec.drawings:
            return []

        async def draw(process: ImageProcess) -> list[int]:
            return await process.render(spec, starts, base_memory, memory, limit_s)

        turn = await self._processes.large.take(1) if spec.pixels > _LARGE_DRAWING_PX else None
        try:
            return await self._run_to_end(partial(self._processes.run, self._caller, lambda: limit_s, draw))
        except ImageUnreadable as error:
            # Nothing that the caller could change: the picture itself was read.
            raise WorkerFailed("the pictures of the reply could not be drawn") from error
        finally:
            if turn is not None:
                turn.release()

    async def _read(self) -> PreparedPicture | None:
        async def read(process: ImageProcess) -> PreparedPicture | None:
            started = time.perf_counter()
            self._limit_s = _OPEN_S + _OPEN_S_A_MEGABYTE * len(self._data) / 1e6
            try:
                return await process.read(self._data, self._spec, self._limit_s, self._may_decode)
            finally:
                self.decode_ms = 1e3 * (time.perf_counter() - started)

        return await self._processes.run(self._caller, lambda: self._limit_s, read)

    async def _run_to_end(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs work to its end even where the request is cancelled, so that its process can be used again."""

        async def run() -> Result:
            return await work()

        task = self._processes.pool.run_to_end(run())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_GRACE_S, task.cancel)
            raise

    def _forget(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        result = None if task.cancelled() or task.exception() else task.result()
        if isinstance(result, PreparedPicture):
            self._base = result.base  # the request may be cancelled before it knows, or have been
        if self._ended and not self._tasks:
            self._free()

    def _may_decode(self, stored: StoredImage) -> DecodeLimits | None:
        """Takes what a picture needs, or says that it must be waited for."""
        size = (stored.width, stored.height)
        try:
            self._cost = self._needed_until_sent(stored.format, size)
        except InvalidParameter as error:
            self._refusal = error
        if self._ended or self._refusal is not None or not self._has_memory():
            return None
        megapixels, megabytes = size[0] * size[1] / 1e6, len(self._data) / 1e6
        self._limit_s = _WORK_S + _WORK_S_A_MEGAPIXEL * megapixels + _WORK_S_A_MEGABYTE * megabytes
        return DecodeLimits(self._limit_s, self._needed_for_base(size))

    def _needed_until_sent(self, file_format: str, size: tuple[int, int]) -> int:
        """What it takes up at most, from now until its reply is sent.

        Raises:
            InvalidParameter: more than there is for a single request, or than its pictures may have.
        """
        drawn, working = self._drawn_bytes(size), working_bytes(file_format, *size, self._spec)
        needed, largest = self._needed_for_base(size) + max(working, drawn), self._processes.budget.largest
        if needed <= largest:
            return needed
        expected = f"smaller overlays or fewer targets: a reply may take {largest >> 20} MiB until it is sent"
        message = f"the pictures of this reply would take {needed >> 20} MiB"
        raise InvalidParameter(message, field="max_side", expected=expected)

    def _has_memory(self) -> bool:
        if self._memory is not None:
            return self._cost <= self._memory.amount
        budget, large = self._processes.budget, self._processes.large
        if budget.is_small(self._cost):
            self._memory = budget.try_take(self._cost)
        elif large.fits(1) and (memory := budget.try_take(self._cost)) is not None:
            self._turn, self._memory = large.try_take(1), memory
        return self._memory is not None

    def _needed_for_base(self, size: tuple[int, int]) -> int:
        """Bytes of what overlays are laid on."""
        side = self._spec.max_side
        return 0 if side is None else 3 * math.prod(shrunk_size(size, side))

    def _needed_for_reply(self, size: tuple[int, int]) -> int:
        return self._needed_for_base(size) + self._drawn_bytes(size)

    def _close_base(self) -> None:
        if self._base is not None:
            self._base.memory.close()

    def _free(self) -> None:
        self._close_base()
        if self._drawn is not None:
            self._drawn.close()
        for reservation in (self._memory, self._turn):
            if reservation is not None:
                reservation.release()


@asynccontextmanager
async def read_picture(
    processes: ImageProcesses,
    data: bytes,
    spec: DecodeSpec,
    *,
    drawn_bytes: Callable[[tuple[int, int]], int] = lambda _size: 0,
    caller: str = "",
) -> AsyncIterator[DecodedPicture]:
    """Reads a picture, and holds the memory for it as long as the context lasts.

    Args:
        processes: do it.
        data: the file.
        spec: what is to be made of it.
        drawn_bytes: what the pictures of the reply may take up, by the (width, height) of the file in px; it may refuse
            them with an `InvalidParameter`, before anything is decoded.
        caller: who posted it, and waits behind those whose pictures have cost less.

    Raises:
        ImageError: the file is no picture that can be used, or broke its process.
        InvalidParameter: the pictures of the reply are refused, or would take more memory than there is.
        NotReady: the service is being closed.
        WorkerFailed: two processes were killed with it, or none can be started.
    """
    if processes.pool.closed:
        raise closed_error()
    decoded = DecodedPicture(processes, data, spec, drawn_bytes, caller)
    try:
        await decoded.decode()
        yield decoded
    finally:
        decoded.end()
