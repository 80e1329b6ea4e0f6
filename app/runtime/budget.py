"""A budget of bytes that requests hold, so that many large pictures wait for each other instead of filling memory."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# Requests that need no more than this share of the lane kept for them have a place beside those that need much.
_SMALL_LANE = 1 / 4
_SMALL = 1 / 4


@dataclass(eq=False, slots=True)
class Place:
    """Bytes of a budget that one request holds until it gives them back.

    Attributes:
        cost: how many.
    """

    cost: int
    _give_back: Callable[[], None] = field(repr=False)
    _held: bool = field(default=True, init=False)

    def give_back(self) -> None:
        """Frees the bytes for others; can be called again, without effect."""
        if self._held:
            self._held = False
            self._give_back()


class Budget:
    """Bytes that may be held at a time, given out first come, first served.

    A quarter is kept for small requests, which also take from the rest where nobody waits for it: they never wait
    behind large ones, and never starve them. What costs more than all the rest takes all of it.
    """

    def __init__(self, capacity: int) -> None:
        small = int(_SMALL_LANE * capacity)
        self._small, self._large = _Lane(small), _Lane(capacity - small)

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._small.held + self._large.held

    def try_take(self, cost: int) -> Place | None:
        """A place of this many bytes, or None where it would have to wait."""
        for lane in self._lanes(cost):
            if lane.fits(cost):
                return lane.take(cost)
        return None

    async def take(self, cost: int) -> Place:
        """Waits for a place of this many bytes."""
        return self.try_take(cost) or await self._lanes(cost)[0].wait(cost)

    def _lanes(self, cost: int) -> tuple["_Lane", ...]:
        return (self._small, self._large) if cost <= _SMALL * self._small.capacity else (self._large,)


class _Lane:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[Place]]] = deque()

    def fits(self, cost: int) -> bool:
        return not self._waiting and self.held + min(cost, self.capacity) <= self.capacity

    def take(self, cost: int) -> Place:
        taken = min(cost, self.capacity)
        self.held += taken
        return Place(cost, lambda: self._give_back(taken))

    async def wait(self, cost: int) -> Place:
        place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, place))
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled():
                place.result().give_back()
            # Whoever stands behind may need less.
            self._call_next()
            raise

    def _give_back(self, taken: int) -> None:
        self.held -= taken
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting:
            cost, place = self._waiting[0]
            if not place.cancelled():
                if self.held + min(cost, self.capacity) > self.capacity:
                    return
                place.set_result(self.take(cost))
            self._waiting.popleft()


class Held:
    """How many bytes of bodies are in memory.

    Attributes:
        limit: how many there may be.
        bytes: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
