"""Gives memory back to the system when a burst is over."""

import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)

# The allocator keeps what it has freed, which makes every forward pass faster; of more than this nobody has any use.
_SPARE_BYTES = 2**25
_SELDOM_S = 10.0


def resident_bytes() -> int | None:
    """The memory of this process; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Has the allocator give back whole pages that it does not need; takes some milliseconds, where glibc is there."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release is not None:
        release(0)


class Trimmer:
    """Trims when the process has grown since it last did, and only now and then."""

    def __init__(self, resident: Callable[[], int | None] = resident_bytes, trim: Callable[[], None] = trim) -> None:
        self._resident = resident
        self._trim = trim
        self._usual = resident()
        self._looked_at = time.monotonic()

    def settle(self) -> None:
        """Takes the memory of this moment for what the process needs."""
        self._usual = self._resident()

    def is_due(self) -> bool:
        """Whether to call `run`, in a thread of its own."""
        now = time.monotonic()
        if now - self._looked_at < _SELDOM_S or self._usual is None:
            return False
        self._looked_at = now
        return (self._resident() or 0) > self._usual + _SPARE_BYTES

    def run(self) -> None:
        """Trims; what is still there is needed from now on."""
        before = self._resident() or 0
        self._trim()
        after = self._resident() or 0
        self._usual = after
        _LOG.debug("gave back %d MiB of memory, %d MiB are in use", (before - after) >> 20, after >> 20)
