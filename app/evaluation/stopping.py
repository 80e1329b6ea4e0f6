"""SIGINT and SIGTERM end a run in order: what is written stays, and what goes on elsewhere is told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Someone has asked the run to end.

    Attributes:
        status: the exit status that says so: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class Stop:
    """Whether someone has asked the run to end."""

    def __init__(self) -> None:
        self._number: int | None = None

    def check(self) -> None:
        """Ends the run where that was asked; an interruption that a library has swallowed is made up for here.

        Raises:
            Stopped: it was.
        """
        if self._number is not None:
            raise Stopped(self._number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """What is done with a signal: the main thread leaves whatever it does, the first time."""
        if self._number is None:
            self._number = number
            raise Stopped(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Has SIGINT and SIGTERM raise `Stopped` in the main thread; a second one does not disturb the end."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
