"""Reads posted pictures in child processes, so that none of them can harm more than its own request."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from app.errors import WorkerFailed
from app.imaging.errors import ImageUnreadable
from app.imaging.messages import Garbled
from app.imaging.picture import Picture
from app.imaging.reading import Order
from app.imaging.shrinking import shrunk_size
from app.runtime.budget import Budget, Place
from app.runtime.children import Children, closing
from app.runtime.decoder import CHILD, BrokenDecoder, Decoder, MemoryExceeded

_LOG = logging.getLogger(__name__)

LIMIT_S = 20.0
MAX_HELD_BYTES = 2 << 30
# Whatever decoders leak ends with their process.
RECYCLE_AFTER = 1000

# How long a child may finish what nobody waits for any more; to start another one takes as long.
_GRACE_S = 0.25
_STARTS = 3
_BROKEN = "The picture broke its decoder."


@dataclass(frozen=True, slots=True)
class Reading:
    """A picture that was read.

    Attributes:
        picture: what was made of the file.
        digest: SHA-256 of the file.
        decode_ms: time from the file's way to the child to the picture's way back.
        wait_ms: all other time, for a child and for a place in the budget.
    """

    picture: Picture
    digest: bytes
    decode_ms: float
    wait_ms: float


def held_bytes(size: tuple[int, int], max_side: int | None, overlays: int) -> int:
    """What a picture takes up in this process until its reply is sent.

    The base, and one painted copy of it at a time; and for each overlay a PNG, which of a photograph may have as many
    bytes as its pixels, as base64 (4/3 of that) and in the text of the reply: together three times the base.

    Args:
        size: (width, height) of the original in px.
        max_side: of the overlays; None where none is wanted.
        overlays: how many a reply carries.
    """
    if max_side is None:
        return 0
    width, height = shrunk_size(size, max_side)
    return 3 * width * height * (2 + 3 * overlays)


class Decoders:
    """Decoding children, and the budget of what they hand over.

    Attributes:
        budget: of bytes that requests hold.
        children: the processes.
        broken: how many pictures broke the child that read them.
    """

    def __init__(
        self,
        count: int,
        max_pixels: int,
        *,
        limit_s: float = LIMIT_S,
        max_held_bytes: int = MAX_HELD_BYTES,
        recycle_after: int = RECYCLE_AFTER,
        program: Sequence[str] = CHILD,
    ) -> None:
        """Starts nothing yet.

        Args:
            count: how many children there are.
            max_pixels: the largest accepted width x height, in px.
            limit_s: how long a picture may take; its child is killed then.
            max_held_bytes: see `held_bytes`.
            recycle_after: pictures after which a child is replaced.
            program: what a child runs; `max_pixels` is its last argument.
        """
        self.budget = Budget(max_held_bytes)
        self.children = Children(count, program, max_pixels, recycle_after)
        self.broken = 0
        self._limit_s = limit_s

    async def start(self) -> None:
        """Starts all children, which otherwise start as they are needed.

        Raises:
            BrokenDecoder: they do not start.
        """
        await self.children.start()

    async def close(self) -> None:
        """Ends all children at once; whoever still waits for one is told that the service is not ready."""
        await self.children.close()

    @asynccontextmanager
    async def read(self, data: bytes, order: Order, *, overlays: int = 1) -> AsyncIterator[Reading]:
        """Reads a picture, and holds its place in the budget as long as the context lasts.

        Args:
            data: the file.
            order: what is to be made of it.
            overlays: how many overlays the reply will carry; see `held_bytes`.

        Raises:
            ImagingError: the file is no picture that can be used, or broke its decoder.
            NotReady: the service is being closed.
            WorkerFailed: the decoder was killed, or none can be started.
        """
        if self.children.closed:
            raise closing()
        asked = time.perf_counter()
        digest = self.children.in_thread(lambda: hashlib.sha256(data).digest())
        request = _Request(data, order, overlays, self.budget)
        try:
            picture = await self._exchange(request)
            if picture is None:
                # It waits without a child, so that smaller ones pass.
                request.place = await self.budget.take(request.cost)
                picture = await self._exchange(request)
            if picture is None:
                # The child sees another size than its predecessor saw.
                raise ImageUnreadable(_BROKEN)
            sha256, total_ms = await digest, 1e3 * (time.perf_counter() - asked)
            yield Reading(picture, sha256, request.decode_ms, total_ms - request.decode_ms)
        finally:
            request.end()

    async def _exchange(self, request: "_Request") -> Picture | None:
        """Gives a request to a child; None where it first needs a place in the budget."""
        child = await self._take()
        task = self.children.see_through(self._ask(child, request))
        task.add_done_callback(lambda _task: self.children.give_back(child))
        request.exchange = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The answer is read to its end, so that the child can be used again.
            asyncio.get_running_loop().call_later(_GRACE_S, task.cancel)
            raise

    async def _take(self) -> Decoder:
        """Waits for a child; one that dies while it starts says nothing of the next."""
        for _ in range(_STARTS):
            with suppress(BrokenDecoder):
                return await self.children.take()
        raise WorkerFailed("no decoder can be started now", headers={"Retry-After": "1"})

    async def _ask(self, child: Decoder, request: "_Request") -> Picture | None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._limit_s):
                return await child.read(request.data, request.order, self._limit_s, request.may_decode)
        except TimeoutError:
            raise ImageUnreadable(f"The picture took longer than {self._limit_s:g} s to decode.") from None
        except MemoryExceeded:
            raise ImageUnreadable("The picture needs more memory than a picture may take.") from None
        except BrokenDecoder as error:
            if self.children.closed:
                raise closing() from None
            has_ended = not isinstance(error.__cause__, Garbled)
            if has_ended and await self.children.in_thread(child.was_killed):
                _LOG.warning("a decoder was killed with a file of %d bytes", len(request.data))
                raise WorkerFailed("the decoder of this picture was killed", headers={"Retry-After": "1"}) from None
            self.broken += 1
            _LOG.warning("a file of %d bytes broke its decoder: %s", len(request.data), error)
            raise ImageUnreadable(_BROKEN) from None
        finally:
            request.decode_ms = 1e3 * (time.perf_counter() - started)


class _Request:
    """One picture on its way: what it costs, the place it has, and the exchange with a child that it is in."""

    def __init__(self, data: bytes, order: Order, overlays: int, budget: Budget) -> None:
        self.data = data
        self.order = order
        self.place: Place | None = None
        self.exchange: asyncio.Task[Picture | None] | None = None
        self.cost = 0
        self.decode_ms = 0.0
        self._overlays = overlays
        self._budget = budget
        self._ended = False

    def may_decode(self, width: int, height: int) -> bool:
        """Takes a place in the budget, or says that there is none yet."""
        if self._ended:
            return False
        cost = held_bytes((width, height), self.order.max_side, self._overlays)
        if self.place is not None:
            return cost <= self.place.cost
        self.cost = cost
        if cost > 0:
            self.place = self._budget.try_take(cost)
        return cost == 0 or self.place is not None

    def end(self) -> None:
        """Gives the place back, once no child writes into it any more."""
        self._ended = True
        if self.exchange is not None and not self.exchange.done():
            self.exchange.add_done_callback(lambda _task: self._give_back())
        else:
            self._give_back()

    def _give_back(self) -> None:
        if self.place is not None:
            self.place.give_back()
