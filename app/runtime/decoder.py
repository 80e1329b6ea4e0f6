"""One decoding child, as its parent sees it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.imaging.decode import ACCEPTED_FORMATS
from app.imaging.messages import (
    LENGTH,
    MAX_BYTES,
    OUT_OF_MEMORY,
    Garbled,
    describe_order,
    error_of,
    pack,
    size_of,
    unpack,
)
from app.imaging.picture import Picture
from app.imaging.reading import Order
from app.imaging.shrinking import shrunk_size
from app.imaging.view import make_view

_ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "app.imaging.child")

# The environment may hold secrets, and a child may be taken over: it gets what it needs to start, and no more.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_START_LIMIT_S = 60.0
# From the moment that a child has hung up to its end.
_DEATH_S = 1.0


class BrokenDecoder(Exception):
    """The child ended, or said what no child of ours would say."""


class MemoryExceeded(Exception):
    """The picture needs more memory than the child may take."""


class Decoder:
    """A child process and the socket to it.

    Attributes:
        clean: whether the child waits for a picture; False while it reads one, and for good where that went wrong.
        pictures: how many it was sent.
        pid: its process.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, max_pixels: int) -> None:
        self.clean = True
        self.pictures = 0
        self.pid = process.pid
        self._process = process
        self._connection = connection
        self._max_pixels = max_pixels

    @classmethod
    def launch(cls, program: Sequence[str], max_pixels: int) -> "Decoder":
        """Starts a child; blocks for some milliseconds.

        Raises:
            BrokenDecoder: the system refuses.
        """
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
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
                raise BrokenDecoder("a decoding process does not start") from error
            stack.pop_all()
        theirs.close()
        return cls(process, ours, max_pixels)

    @property
    def usable(self) -> bool:
        """Whether it can be sent a picture."""
        if not self.clean:
            return False
        try:
            # What speaks unasked is as unfit as what has hung up.
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def greet(self) -> None:
        """Waits until the child has started.

        Raises:
            BrokenDecoder: it does not start.
        """
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                if (await self._receive()).get("ready") is not True:
                    raise Garbled("no greeting")
        except (OSError, EOFError, Garbled) as error:
            raise BrokenDecoder("a decoding process does not start") from error

    async def read(
        self, data: bytes, order: Order, limit_s: float, may_decode: Callable[[int, int], bool]
    ) -> Picture | None:
        """Has a picture read.

        Args:
            data: the file.
            order: what is to be made of it.
            limit_s: how long the caller will wait.
            may_decode: asked with the picture's width and height, as stored, before anything is decoded.

        Returns:
            The picture, or None where it may not be decoded.

        Raises:
            ImagingError: it cannot be used.
            MemoryExceeded: it needs too much.
            BrokenDecoder: the child ended, or talks nonsense.
        """
        self.clean = False
        self.pictures += 1
        try:
            await self._send(pack(describe_order(order, len(data), limit_s)), data)
            stored = size_of(await self._receive_answer())
            if stored[0] * stored[1] > self._max_pixels:
                raise Garbled("too many pixels")
            go = may_decode(*stored)
            await self._send(pack({"go": go}))
            picture = await self._receive_picture(stored, order) if go else None
        except (OSError, EOFError, Garbled) as error:
            raise BrokenDecoder(str(error) or "it ended") from error
        self.clean = True
        return picture

    def kill(self) -> None:
        """Ends the child at once; `bury` must follow."""
        self._process.kill()

    def was_killed(self) -> bool:
        """Whether it was ended from outside, as the kernel does for want of memory; blocks for a moment."""
        try:
            return self._process.wait(_DEATH_S) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def bury(self) -> int:
        """Ends the child and waits until it has; blocks for some milliseconds. Returns its exit status."""
        self._connection.close()
        self._process.kill()
        return self._process.wait()

    async def _receive_picture(self, stored: tuple[int, int], order: Order) -> Picture:
        answer = await self._receive_answer()
        width, height = size = size_of(answer)
        file_format = answer.get("format")
        if file_format not in ACCEPTED_FORMATS or size not in {stored, stored[::-1]}:
            raise Garbled("another picture")
        pixels, base = await self._receive_array(order.input_size), None
        if order.max_side is not None:
            columns, rows = shrunk_size(size, order.max_side)
            base = await self._receive_array((rows, columns))
        return Picture(file_format, width, height, make_view(width, height, order, order.fit), pixels, base)

    async def _receive_answer(self) -> dict[str, object]:
        """A message that is no error."""
        answer = await self._receive()
        if answer == OUT_OF_MEMORY:
            raise MemoryExceeded
        if "error" in answer:
            error = error_of(answer, self._max_pixels)
            self.clean = True
            raise error
        return answer

    async def _receive(self) -> dict[str, object]:
        length = bytearray(LENGTH.size)
        await self._fill(memoryview(length))
        (count,) = LENGTH.unpack(length)
        if count > MAX_BYTES:
            raise Garbled("too long a message")
        text = bytearray(count)
        await self._fill(memoryview(text))
        return unpack(bytes(text))

    async def _receive_array(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        array = np.empty((*size, 3), np.uint8)
        await self._fill(array.data.cast("B"))
        return array

    async def _send(self, *parts: bytes) -> None:
        for part in parts:
            await asyncio.get_running_loop().sock_sendall(self._connection, part)

    async def _fill(self, buffer: memoryview) -> None:
        loop = asyncio.get_running_loop()
        while buffer:
            count = await loop.sock_recv_into(self._connection, buffer)
            if count == 0:
                raise EOFError("it hung up")
            buffer = buffer[count:]
            # What has arrived already is read without a pause, which others must have.
            await asyncio.sleep(0)
