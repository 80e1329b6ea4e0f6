"""Limits on what requests hold, so that many large pictures wait for each other instead of filling memory."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# This share of a budget is kept for small requests: those that need at most this share of that share.
_SMALL_SHARE = 1 / 4
_SMALL_REQUEST = 1 / 4


@dataclass(eq=False, slots=True)
class Reservation:
    """Part of a budget that one request holds until it releases it.

    Attributes:
        amount: how much.
    """

    amount: int
    _free: Callable[[int], None] = field(repr=False)

    def shrink(self, amount: int) -> None:
        """Keeps no more than this, and frees the rest for others."""
        if amount < self.amount:
            freed, self.amount = self.amount - amount, amount
            self._free(freed)

    def release(self) -> None:
        """Frees all of it; can be called again, without effect."""
        self.shrink(0)


class Quota:
    """An amount that requests share; those who wait get their part in the order in which they came."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[Reservation]]] = deque()

    def fits(self, amount: int) -> bool:
        """Whether nobody waits and so much is left."""
        return not self._waiting and self.held + amount <= self.capacity

    def try_take(self, amount: int) -> Reservation | None:
        """Takes so much, or returns None where it would have to wait."""
        return self._take(amount) if self.fits(amount) else None

    async def take(self, amount: int) -> Reservation:
        """Waits for so much, at most all."""
        if (taken := self.try_take(amount)) is not None:
            return taken
        reservation: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, reservation))
        try:
            return await reservation
        except asyncio.CancelledError:
            if not reservation.cancelled():
                reservation.result().release()
            # The next in the queue may need less.
            self._call_next()
            raise

    def _take(self, amount: int) -> Reservation:
        self.held += amount
        return Reservation(amount, self._free)

    def _free(self, amount: int) -> None:
        self.held -= amount
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting:
            amount, reservation = self._waiting[0]
            if not reservation.cancelled():
                if self.held + amount > self.capacity:
                    return
                reservation.set_result(self._take(amount))
            self._waiting.popleft()


class Budget:
    """Bytes that may be held at a time.

    A quarter is kept for small requests, which also take from the rest where nobody waits for it. They never wait
    behind large ones, and never starve them.

    Attributes:
        sent: bytes of finished replies that wait to be sent, beside the budget.
    """

    def __init__(self, capacity: int) -> None:
        small = int(_SMALL_SHARE * capacity)
        self._small, self._large = Quota(small), Quota(capacity - small)
        self.sent = 0

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._small.held + self._large.held + self.sent

    @property
    def largest(self) -> int:
        """What one request may need at most."""
        return self._large.capacity

    def is_small(self, cost: int) -> bool:
        """Whether a request for so many bytes is a small one."""
        return cost <= _SMALL_REQUEST * self._small.capacity

    def try_take(self, cost: int) -> Reservation | None:
        """Takes so many bytes, or returns None where they would have to be waited for."""
        return (self._small.try_take(cost) if self.is_small(cost) else None) or self._large.try_take(cost)

    async def take(self, cost: int) -> Reservation:
        """Waits for so many bytes, at most `largest`."""
        return self.try_take(cost) or await (self._small if self.is_small(cost) else self._large).take(cost)


class BodyMemory:
    """How many bytes of request bodies are in memory.

    Attributes:
        limit: how many are allowed.
        bytes: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
