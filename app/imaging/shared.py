"""Anonymous memory that processes share: whoever has its descriptor can map it, and it ends with the last of them."""

import fcntl
import mmap
import os
import tempfile

PAGE_BYTES = mmap.PAGESIZE
_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")
_BLOCK_BYTES = 512


class SharedBytes:
    """Memory of a fixed size, of which only what was written takes up room.

    Attributes:
        descriptor: to be passed to other processes.
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        """Creates it; every byte is 0, and none takes up room yet.

        Raises:
            OSError: the system refuses.
        """
        self.size = size
        self.descriptor = _anonymous_file()
        os.ftruncate(self.descriptor, size)
        if hasattr(fcntl, "F_ADD_SEALS"):
            # A process that maps it would be killed by SIGBUS if another one truncated the file.
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, sum(getattr(fcntl, seal) for seal in _SEALS))

    @property
    def used_bytes(self) -> int:
        """How many bytes it takes up."""
        return os.fstat(self.descriptor).st_blocks * _BLOCK_BYTES

    def read(self, start: int, count: int) -> bytes:
        """Copies a part."""
        return os.pread(self.descriptor, count, start)

    def close(self) -> None:
        """Closes the descriptor; can be called again, without effect."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def map_shared(descriptor: int) -> mmap.mmap:
    """Maps memory whose descriptor came from another process; the descriptor is closed."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
