"""A process that reads posted pictures and draws those of replies, so that a malicious picture breaks nothing else.

Its standard input is a socket to the parent, over which `app.imaging.messages` go both ways. It imports neither torch
nor NumPy, and so starts in less than a tenth of a second.
"""

import os
import resource
import signal
import socket
import sys
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import AvifImagePlugin, Image

from app.errors import ImageError
from app.imaging.decode import open_image
from app.imaging.messages import OUT_OF_MEMORY, Channel, decode_spec_of, error_message, receive_render_spec
from app.imaging.png import bands_of
from app.imaging.reading import read_image
from app.imaging.rendering import render
from app.imaging.shared import map_shared

# Pillow holds four bytes a pixel, in up to six copies at a time: photographs of 17 megapixels took 4 (TIFF) to 14 bytes
# (progressive CMYK JPEG, turned) a pixel, those with transparency 14 (GIF) to 21 (WebP).
BYTES_A_PIXEL = 32
# Some decoders copy the file, and every decoder has tables of its own.
COPIES_OF_THE_FILE = 3
FIXED_BYTES = 64 << 20


class Child:
    """Serves one parent, one request at a time."""

    def __init__(self, channel: Channel, max_pixels: int) -> None:
        self._channel = channel
        self._max_pixels = max_pixels
        self._memory_at_start = _address_space()

    def serve(self) -> None:
        """Works until the parent hangs up."""
        self._channel.send({"ready": True})
        # From here on libraries only complain about what a caller sent, which does not belong into the log.
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        while (received := self._channel.receive()) is not None:
            request, descriptors = received
            try:
                if "decode" in request:
                    self._read(request)
                else:
                    self._render(request, descriptors)
            except ImageError as error:
                self._channel.send(error_message(error))
            except MemoryError:
                # What else failed for want of memory is unknown: a fresh process takes over.
                self._channel.send(OUT_OF_MEMORY)
                return
            finally:
                _limit_time(0)

    def _read(self, request: dict[str, Any]) -> None:
        count = request["bytes"]
        self._limit_memory(BYTES_A_PIXEL * self._max_pixels + COPIES_OF_THE_FILE * count)
        data = self._channel.read(count)
        _limit_time(request["limit_s"])
        opened = open_image(data, self._max_pixels)
        _limit_time(0)
        self._channel.send({"format": opened.format.name, "width": opened.width, "height": opened.height})
        received = self._channel.receive()
        if received is None or not received[0]["go"]:
            return
        go, descriptors = received
        pixels = opened.width * opened.height
        self._limit_memory(BYTES_A_PIXEL * pixels + COPIES_OF_THE_FILE * count)
        _limit_time(go["limit_s"])
        read = read_image(opened, decode_spec_of(request))
        if read.base is not None:
            _put(read.base, descriptors[0])
        depth = asdict(read.depth) if read.depth is not None else None
        self._channel.send({"width": read.width, "height": read.height, "depth": depth})
        self._channel.write(read.view)

    def _render(self, request: dict[str, Any], descriptors: list[int]) -> None:
        spec = receive_render_spec(request, self._channel)
        mapped = sum(os.fstat(descriptor).st_size for descriptor in descriptors)
        self._limit_memory(BYTES_A_PIXEL * spec.pixels + mapped)
        _limit_time(request["limit_s"])
        *bases, output = map(map_shared, descriptors)
        with memoryview(bases[0] if bases else b"") as base, memoryview(output) as files:
            lengths = render(spec, request["starts"], base, files)
        for memory in (*bases, output):
            memory.close()
        self._channel.send({"lengths": lengths})

    def _limit_memory(self, needed: int) -> None:
        """Has the system refuse memory beyond what ordinary work of this size needs."""
        if self._memory_at_start is None:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = self._memory_at_start + needed + FIXED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _put(image: Image.Image, descriptor: int) -> None:
    """Writes the bytes of a picture into shared memory, a band at a time."""
    with closing(map_shared(descriptor)) as memory:
        for band in bands_of(image):
            memory.write(band.tobytes())


def _limit_time(seconds: float) -> None:
    """Has the system end this process when it has used so much processor time from now on; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _address_space() -> int | None:
    """Bytes mapped by this process; None where the system neither tells nor limits them."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else None


def main() -> None:
    """Runs the child: `python -m app.imaging.child MAX_PIXELS`."""
    # Ctrl-C at a terminal reaches all its processes; the parent decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Children already run side by side, and threads would each take memory.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # A parent that has ended needs no answer.
    with (
        suppress(BrokenPipeError, ConnectionResetError, EOFError),
        socket.socket(fileno=sys.stdin.fileno()) as connection,
    ):
        Child(Channel(connection), int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
