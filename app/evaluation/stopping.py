"""Ends a run in order on SIGINT and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal has asked the run to end.

    Attributes:
        status: the exit status: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class Stop:
    """Whether a signal has asked the run to end."""

    def __init__(self) -> None:
        self._number: int | None = None

    def check(self) -> None:
        """Ends the run if a signal has come, also where a library has swallowed the exception of `handle`.

        Raises:
            Stopped: a signal has come.
        """
        if self._number is not None:
            raise Stopped(self._number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal: the first one interrupts the main thread."""
        if self._number is None:
            self._number = number
            raise Stopped(number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Raises `Stopped` in the main thread on SIGINT and SIGTERM; a second signal is ignored."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
