"""One image process, as its parent sees it."""

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from app.imaging.formats import FORMATS
from app.imaging.messages import (
    OUT_OF_MEMORY,
    ProtocolError,
    decode_message,
    depth_of,
    error_of,
    lengths_of,
    pack,
    render_message,
    size_of,
)
from app.imaging.picture import OverlayBase, PreparedPicture, pixels_of, view_bytes
from app.imaging.png import largest_png
from app.imaging.reading import DecodeSpec
from app.imaging.rendering import RenderSpec
from app.imaging.shared import SharedBytes
from app.imaging.shrinking import shrunk_size
from app.imaging.view import make_view
from app.runtime.message_socket import MessageSocket

_ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "app.imaging.child")

# The environment may hold secrets, and a child may be taken over by an attacker: it gets what it needs to start.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
# Has glibc give back at once what it would keep of a large picture (15 to 110 MiB a child), for 6 ms more a picture.
_ALLOCATOR = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 << 20))
_START_LIMIT_S = 60.0
# From when a child has closed its connection to its end.
_END_S = 1.0


class BrokenProcess(Exception):
    """The child ended, or broke the protocol."""


class MemoryExceeded(Exception):
    """The work needs more memory than the child may take."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What the header of a file says.

    Attributes:
        format: its name in `app.imaging.formats.FORMATS`.
        width: as stored in px.
        height: the same.
    """

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Permission to decode a picture, and its limits.

    Attributes:
        limit_s: processor time that it may take.
        base_bytes: of what overlays are laid on; 0 where there are none.
    """

    limit_s: float
    base_bytes: int


class ImageProcess:
    """A child process and the socket to it.

    Attributes:
        is_ready: whether the child waits for work; False while it works, and for good where that went wrong.
        job_count: how much work it was given.
        pid: its process.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, max_pixels: int) -> None:
        self.is_ready = True
        self.job_count = 0
        self.pid = process.pid
        self._process = process
        self._messages = MessageSocket(connection)
        self._max_pixels = max_pixels
        self._clock = _clock_of(process.pid)

    @classmethod
    def launch(cls, program: Sequence[str], max_pixels: int) -> "ImageProcess":
        """Starts a child; blocks for some milliseconds.

        Raises:
            BrokenProcess: the system refuses.
        """
        environment = _ALLOCATOR | {name: os.environ[name] for name in _INHERITED if name in os.environ}
        with ExitStack() as stack:
            try:
                ours, theirs = map(stack.enter_context, socket.socketpair())
                ours.setblocking(False)
                # A session of its own, so that Ctrl-C at the terminal does not reach it while it starts.
                process = subprocess.Popen(  # noqa: S603
                    [*program, str(max_pixels)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    cwd=_ROOT,
                    start_new_session=True,
                )
            except OSError as error:
                raise BrokenProcess("an image process does not start") from error
            stack.pop_all()
        theirs.close()
        return cls(process, ours, max_pixels)

    @property
    def usable(self) -> bool:
        """Whether it can be given work."""
        # A child that sends unasked is as unusable as one that has closed the connection.
        return self.is_ready and self._messages.is_silent

    @property
    def processor_s(self) -> float:
        """Processor time that it has used, 0 when it has ended; just time where the system tells no other."""
        if self._clock is None:
            return time.monotonic()
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return 0.0

    async def wait_started(self) -> None:
        """Waits until the child has started.

        Raises:
            BrokenProcess: it does not start.
        """
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                if (await self._messages.receive()).get("ready") is not True:
                    raise ProtocolError("no greeting")
        except (OSError, EOFError, ProtocolError) as error:
            raise BrokenProcess("an image process does not start") from error

    async def read(
        self, data: bytes, spec: DecodeSpec, limit_s: float, may_decode: Callable[[StoredImage], DecodeLimits | None]
    ) -> PreparedPicture | None:
        """Has a picture read.

        Args:
            data: the file.
            spec: what to make of it.
            limit_s: processor time until its size is known.
            may_decode: asked before anything is decoded.

        Returns:
            The picture, whose memory the caller closes; None where it may not be decoded.

        Raises:
            ImageError: it cannot be used.
            MemoryExceeded: it needs too much.
            BrokenProcess: the child ended, or broke the protocol.
        """
        self._begin()
        memory: SharedBytes | None = None
        try:
            await self._messages.send(pack(decode_message(spec, len(data), limit_s)), data)
            stored = self._stored(await self._receive_answer())
            go = may_decode(stored)
            if go is not None and go.base_bytes:
                memory = SharedBytes(go.base_bytes)
            descriptors = [memory.descriptor] if memory is not None else []
            await self._messages.send(
                pack({"go": go is not None, "limit_s": go.limit_s if go else 0}), descriptors=descriptors
            )
            picture = await self._receive_picture(stored, spec, memory) if go else None
        except BaseException as error:
            if memory is not None:
                memory.close()
            if isinstance(error, OSError | EOFError | ProtocolError):
                raise BrokenProcess(str(error) or "it ended") from error
            raise
        self.is_ready = True
        return picture

    async def render(
        self, spec: RenderSpec, starts: Sequence[int], base: SharedBytes | None, output: SharedBytes, limit_s: float
    ) -> list[int]:
        """Has pictures drawn.

        Args:
            spec: what.
            starts: where in `output` each file begins.
            base: what overlays are laid on.
            output: takes the files.
            limit_s: processor time that it may take.

        Returns:
            The length of each file in bytes.

        Raises:
            MemoryExceeded: it needs too much.
            BrokenProcess: the child ended, or broke the protocol.
        """
        self._begin()
        descriptors = [memory.descriptor for memory in (base, output) if memory is not None]
        message, payload = render_message(spec, starts, limit_s)
        try:
            await self._messages.send(pack(message), payload, descriptors=descriptors)
            limits = [largest_png(*size, mode) for size, mode in spec.outputs]
            lengths = lengths_of(await self._receive_answer(), limits)
        except (OSError, EOFError, ProtocolError) as error:
            raise BrokenProcess(str(error) or "it ended") from error
        self.is_ready = True
        return lengths

    def kill(self) -> None:
        """Ends the child at once; `terminate` must follow."""
        self._process.kill()

    def ending_signal(self) -> int | None:
        """The signal that ended the child, where one did; blocks for a moment."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None
        return -status if status < 0 else None

    def terminate(self) -> int:
        """Ends the child and waits until it has; blocks for some milliseconds. Returns its exit status."""
        self._messages.close()
        self._process.kill()
        return self._process.wait()

    def _begin(self) -> None:
        self.is_ready = False
        self.job_count += 1

    def _stored(self, answer: dict[str, object]) -> StoredImage:
        width, height = size_of(answer)
        file_format = answer.get("format")
        if not isinstance(file_format, str) or file_format not in FORMATS:
            raise ProtocolError("an unknown format")
        if width * height > self._max_pixels:
            raise ProtocolError("too many pixels")
        return StoredImage(file_format, width, height)

    async def _receive_picture(
        self, stored: StoredImage, spec: DecodeSpec, memory: SharedBytes | None
    ) -> PreparedPicture:
        answer = await self._receive_answer()
        width, height = size = size_of(answer)
        if size not in {(stored.width, stored.height), (stored.height, stored.width)}:
            raise ProtocolError("another picture")
        depth = depth_of(answer)
        view = bytearray(view_bytes(spec, is_deep=depth is not None))
        await self._messages.fill(memoryview(view))
        try:
            if depth is None:
                pixels = pixels_of(view, spec, is_deep=False)
            else:  # looks at each of them
                pixels = await asyncio.to_thread(pixels_of, view, spec, is_deep=True)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        base = None
        if memory is not None:
            assert spec.max_side is not None
            base = OverlayBase(shrunk_size(size, spec.max_side), memory)
        return PreparedPicture(
            stored.format, width, height, make_view(width, height, spec, spec.fit), pixels, depth, base
        )

    async def _receive_answer(self) -> dict[str, object]:
        """A message that is no error."""
        answer = await self._messages.receive()
        if answer == OUT_OF_MEMORY:
            raise MemoryExceeded
        if "error" in answer:
            error = error_of(answer, self._max_pixels)
            self.is_ready = True
            raise error
        return answer


def _clock_of(pid: int) -> int | None:
    """The clock of a process's processor time (POSIX `clock_getcpuclockid`)."""
    find = getattr(ctypes.CDLL(None), "clock_getcpuclockid", None)
    clock = ctypes.c_int()
    return clock.value if find is not None and find(pid, ctypes.byref(clock)) == 0 else None
