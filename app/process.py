"""Prepares the process for what PyTorch does in it; to be called before PyTorch is imported."""

import ctypes
import os
import resource
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# More than a batch's largest feature maps take.
_THRESHOLD_BYTES = 2**28
# Connections, and a little for files; the usual 1,024 are taken by a thousand idle callers.
_OPEN_FILES = 65536


def prepare_process() -> None:
    """Has idle threads sleep, the allocator keep its pages, and many connections open.

    Threads of OpenMP spin for a while when they run out of work, which takes the processors from the compiled trunk,
    from the encoding of pictures and from whatever else the machine does. With glibc's default thresholds large
    tensors are mapped, cleared page by page and unmapped again for every layer, and the time of one and the same
    forward pass jumps by half. Settings that an operator has made stay.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
