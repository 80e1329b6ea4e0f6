"""Writes lines to stderr from a thread of its own, through a bounded queue, so that a slow reader blocks nobody."""

import io
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

_MOST_WAITING_BYTES = 2**20
# Memory of a line beside its bytes.
_LINE_BYTES = 100
# How long a process that ends waits until its last lines are read.
_FLUSH_S = 2.0
_LOOK_EVERY_S = 1.0


class LineWriter:
    """Writes to a descriptor from a thread of its own; lines that nobody reads are dropped and counted.

    The thread may block in `write` for ever. It holds no lock meanwhile, and the process can end without it.

    Attributes:
        descriptor: where lines go.
        notice: makes the line that says how many are missing.
        when_idle: called by the thread about once a second while there is nothing to write.
    """

    def __init__(self, descriptor: int, most_bytes: int = _MOST_WAITING_BYTES) -> None:
        self.descriptor = descriptor
        self.notice: Callable[[int], bytes] = lambda missing: f"{missing} lines were dropped\n".encode()
        self.when_idle: Callable[[], None] = lambda: None
        self._most_bytes = most_bytes
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        # Reentrant: a signal handler may put a line while its thread is putting one.
        self._lock = threading.RLock()
        self._put_bytes = self._refused = self._reported = 0
        self._written_bytes = self._failed = 0  # of the thread alone
        self._is_full = False
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """How many lines were never written."""
        return self._refused + self._failed

    def put(self, line: bytes) -> None:
        """Queues a line, or drops it.

        Once a line has been dropped, half of the queue must be free before others are taken, so that the missing lines
        are missing in one place.
        """
        with self._lock:
            room = self._most_bytes // 2 if self._is_full else self._most_bytes
            self._is_full = self._waiting + len(line) + _LINE_BYTES > room
            if self._is_full:
                self._refused += 1
            else:
                self._write_missing()
                self._append(line)

    def flush(self, limit_s: float = _FLUSH_S) -> None:
        """Waits until all lines are written, for a limited time."""
        with self._lock:
            self._write_missing()
        deadline = time.monotonic() + limit_s
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.005)

    @property
    def _waiting(self) -> int:
        return self._put_bytes - self._written_bytes

    def _write_missing(self) -> None:
        if missing := self.dropped - self._reported:
            self._reported += missing
            self._append(self.notice(missing))

    def _append(self, line: bytes) -> None:
        self._put_bytes += len(line) + _LINE_BYTES
        self._lines.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()

    def _write_all(self) -> None:
        works = True
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_EVERY_S)
            except Empty:
                self.when_idle()
                if works:
                    with self._lock:
                        self._write_missing()
                continue
            works = self._write(line)
            self._failed += not works
            self._written_bytes += len(line) + _LINE_BYTES

    def _write(self, line: bytes) -> bool:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self.descriptor, left) :]
            except BlockingIOError:  # another process has made the shared descriptor non-blocking
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # nobody can read it any more, or the disk is full
                return False
        return True


class LineStream(io.RawIOBase):
    """Replaces stderr for what Python writes without the log: tracebacks, progress bars."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def as_text(self) -> io.TextIOWrapper:
        """The stream as text, like Python's own stderr."""
        return io.TextIOWrapper(io.BufferedWriter(self), "utf-8", "backslashreplace", line_buffering=True)

    def writable(self) -> bool:
        """Always True."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - whatever is a buffer
        """Queues some bytes."""
        line = bytes(data)
        self._writer.put(line)
        return len(line)

    def fileno(self) -> int:
        """The descriptor that is written to."""
        return self._writer.descriptor

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        with suppress(OSError):
            return os.isatty(self._writer.descriptor)
        return False
