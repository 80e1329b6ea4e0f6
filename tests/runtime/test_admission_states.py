"""Admission in any order of events: the queue holds what it says, and draining ends with the last of them."""

import asyncio
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app.errors import Draining, QueueFull
from app.runtime.runtime import Runtime
from app.settings import Settings

WAIT_S = 60
PLACES = 3
SETTINGS = settings(
    max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@dataclass(eq=False)
class Guest:
    """A request that was let in.

    Attributes:
        task: holds its place.
        may_end: lets it end.
        fails: whether it ends with an error.
    """

    task: "asyncio.Task[None]"
    may_end: asyncio.Event
    fails: bool


class AdmissionStates(RuleBasedStateMachine):
    """Requests come, are answered, fail and are hung up on; then the service drains."""

    def __init__(self) -> None:
        super().__init__()
        self.runtime = Runtime(Settings(queue_size=PLACES, timeout_s=WAIT_S))
        self.loop = asyncio.new_event_loop()
        self.guests: list[Guest] = []
        self.draining: asyncio.Task[None] | None = None

    @rule(fails=st.booleans())
    def come(self, fails: bool) -> None:
        """A request; it is let in where there is a place."""
        may_end = asyncio.Event()

        async def stay() -> None:
            with self.runtime.admitted():
                await may_end.wait()
                if fails:
                    raise ZeroDivisionError("a bug")

        guest = Guest(self.loop.create_task(stay()), may_end, fails)
        self._turn()
        if self.draining is not None:
            assert isinstance(guest.task.exception(), Draining)
        elif len(self.guests) == PLACES:
            error = guest.task.exception()
            assert isinstance(error, QueueFull)
            assert 1 <= int(error.headers["Retry-After"]) <= 60
        else:
            assert not guest.task.done()
            self.guests.append(guest)

    @precondition(lambda self: self.guests)
    @rule(which=st.integers(0, 100), hangs_up=st.booleans())
    def leave(self, which: int, hangs_up: bool) -> None:
        """A request is answered, fails, or is given up."""
        guest = self.guests.pop(which % len(self.guests))
        if hangs_up:
            guest.task.cancel()
        guest.may_end.set()
        self.loop.run_until_complete(asyncio.wait([guest.task], timeout=WAIT_S))
        assert guest.task.cancelled() == hangs_up
        if not hangs_up:
            assert isinstance(guest.task.exception(), ZeroDivisionError if guest.fails else type(None))
        self._turn()

    @precondition(lambda self: self.draining is None)
    @rule()
    def drain(self) -> None:
        """The service stops."""
        self.draining = self.loop.create_task(self.runtime.drain())
        self._turn()

    @invariant()
    def the_queue_holds_the_guests(self) -> None:
        """As many places are taken as there are guests, and draining ends when the last has left."""
        assert self.runtime.in_flight == len(self.guests)
        if self.draining is not None:
            assert self.draining.done() == (not self.guests)

    def teardown(self) -> None:
        """All leave; nobody waits for ever."""
        while self.guests:
            self.leave(0, hangs_up=False)
        if self.draining is None:
            self.drain()
        assert self.draining is not None
        self.loop.run_until_complete(asyncio.wait_for(self.draining, WAIT_S))
        self.loop.close()
        self.runtime.close()

    def _turn(self) -> None:
        """Lets everything that can go on do so; nothing here waits for anything but the tests."""
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))


def test_the_queue_holds_what_it_says_and_draining_ends_with_the_last() -> None:
    run_state_machine_as_test(AdmissionStates, settings=SETTINGS)
