"""Returns memory to the system after a burst of requests, and spares the collector what never becomes garbage."""

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)

# The allocator keeps freed memory, which makes every forward pass faster; more than this is of no use.
_SPARE_BYTES = 2**25
# How long after a moment without requests, and how often at most, the process is looked at.
CHECK_EVERY_S = 10.0


def resident_bytes() -> int | None:
    """The memory of this process; None where it is unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Returns whole free pages of the allocator to the system; takes some milliseconds, and needs glibc."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release is not None:
        release(0)


def settle() -> None:
    """Ends the start of a process: all that lives now is kept for good, and the collector never looks at it again.

    A full collection looks at all that PyTorch and the networks are made of. That takes half a second, in which no
    thread runs, and it came whenever requests had left enough behind.
    """
    gc.collect()
    gc.freeze()


class Trimmer:
    """Trims where the process has grown since the last time."""

    def __init__(self, resident: Callable[[], int | None] = resident_bytes, trim: Callable[[], None] = trim) -> None:
        self._resident = resident
        self._trim = trim
        self._baseline = resident()

    def set_baseline(self) -> None:
        """Takes the present memory as what the process needs."""
        self._baseline = self._resident()

    def has_grown(self) -> bool:
        """Whether to call `run`, in a thread of its own."""
        return self._baseline is not None and (self._resident() or 0) > self._baseline + _SPARE_BYTES

    def run(self) -> None:
        """Trims, and takes the memory that is left as what the process needs."""
        before = self._resident() or 0
        self._trim()
        after = self._resident() or 0
        self._baseline = after
        _LOG.debug("returned %d MiB of memory, %d MiB are in use", (before - after) >> 20, after >> 20)
