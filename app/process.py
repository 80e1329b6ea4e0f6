"""Prepares the process for what PyTorch does in it; to be called before PyTorch is imported."""

import ctypes
import math
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# More than the largest feature maps of a batch.
_THRESHOLD_BYTES = 2**28
# Primitives that oneDNN caches, one for each shape. With its default of 1,024 (some 100 KiB each) the process grows for
# tens of thousands of requests when callers name one layer after the other.
_PRIMITIVES = "256"
# Connections, and a little for files; the usual 1,024 are taken by a thousand idle callers.
_OPEN_FILES = 65536


def processors(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processors this process may keep busy: those it may run on, or fewer where a container is limited.

    Args:
        control_groups: where Linux tells of a container's limits, in version 2 or 1.
    """
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (control_groups / "cpu.max").read_text().split()
        return count if quota == "max" else min(count, math.ceil(int(quota) / int(period)))
    with suppress(OSError, ValueError):
        quota, period = ((control_groups / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return count if int(quota) < 0 else min(count, math.ceil(int(quota) / int(period)))
    return count


def stopping_signals() -> tuple[signal.Signals, ...]:
    """What tells the service to stop: a supervisor, a keyboard, or a terminal that is closed.

    Under `nohup` the last of them does not count.
    """
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hangs_up else ()))


def prepare_process() -> None:
    """Ends the process on the signals that stop it, and calls `tune_process`."""
    # Until the server handles signals. The first process of a container does not end by default.
    for number in stopping_signals():
        if number != signal.SIGINT:  # Python's own handler ends it
            signal.signal(number, lambda *_: os._exit(0))
    tune_process()


def prepare_worker() -> None:
    """Sets up a process that Ray has started; Ray would have it compute with a single thread."""
    tune_process()
    os.environ.setdefault("OMP_NUM_THREADS", str(processors()))


def tune_process() -> None:
    """Lets idle threads sleep, the allocator keep its pages, and the process open many files.

    Threads of OpenMP spin for a while when they run out of work. That takes the processors from the compiled trunk,
    from the encoding of pictures and from everything else on the machine. With glibc's default thresholds large
    tensors are mapped, cleared page by page and unmapped again for every layer, and the time of one and the same
    forward pass jumps by half. Settings of the operator are kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRIMITIVES)
    if (count := processors()) < (os.cpu_count() or 1):
        # Libraries count the processors of the machine; a container with more threads than it may run is throttled.
        os.environ.setdefault("OMP_NUM_THREADS", str(count))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
