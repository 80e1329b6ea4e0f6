"""A process that reads posted pictures for the service, so that one made to break its decoder breaks nothing else.

Its standard input is a socket to the parent, over which `app.imaging.messages` go both ways. It imports neither torch
nor NumPy, and so starts in less than a tenth of a second.
"""

import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from PIL import AvifImagePlugin, Image

from app.imaging.decode import open_image
from app.imaging.errors import ImagingError
from app.imaging.messages import LENGTH, OUT_OF_MEMORY, describe_error, order_of, pack, unpack
from app.imaging.reading import ReadImage, read_image

# Pillow holds four bytes a pixel, in up to six copies at a time: photographs of 17 megapixels took 4 (TIFF) to 14 bytes
# (progressive CMYK JPEG, turned) a pixel, those with transparency 14 (GIF) to 21 (WebP).
BYTES_A_PIXEL = 32
# Files are copied by some decoders, and every decoder has tables of its own.
COPIES_OF_THE_FILE = 3
FIXED_BYTES = 64 << 20

_BAND_BYTES = 1 << 20


class Child:
    """Serves one parent, a picture at a time."""

    def __init__(self, stream: BufferedRWPair, max_pixels: int) -> None:
        self._stream = stream
        self._max_pixels = max_pixels
        self._memory_at_start = _address_space()

    def serve(self) -> None:
        """Answers until the parent hangs up."""
        self._send({"ready": True})
        # From here on what libraries complain of is what a caller wrote, and no log's business.
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        while (request := self._receive()) is not None:
            self._limit_memory(request["bytes"])
            try:
                self._read(request)
            except ImagingError as error:
                self._send(describe_error(error))
            except MemoryError:
                # What else could not be had meanwhile is anybody's guess.
                self._send(OUT_OF_MEMORY)
                return
            finally:
                signal.alarm(0)

    def _read(self, request: dict[str, Any]) -> None:
        data = self._stream.read(request["bytes"])
        # Where the parent has died in the meantime, nobody else would end a decoder that hangs.
        signal.alarm(math.ceil(2 * request["limit_s"]))
        opened = open_image(data, self._max_pixels)
        self._send({"width": opened.width, "height": opened.height})
        if not (self._receive() or {}).get("go"):
            return
        self._answer(read_image(opened, order_of(request)))

    def _answer(self, read: ReadImage) -> None:
        self._send({"format": read.format, "width": read.width, "height": read.height})
        for image in (read.view, read.base):
            for band in _bands(image) if image is not None else ():
                self._stream.write(band)
        self._stream.flush()

    def _limit_memory(self, data_bytes: int) -> None:
        """A file that needs more than honest ones of the largest size is refused by the system."""
        if self._memory_at_start is None:
            return
        needed = BYTES_A_PIXEL * self._max_pixels + COPIES_OF_THE_FILE * data_bytes + FIXED_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = self._memory_at_start + needed
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

    def _send(self, message: Mapping[str, object]) -> None:
        self._stream.write(pack(message))
        self._stream.flush()

    def _receive(self) -> dict[str, Any] | None:
        length = self._stream.read(LENGTH.size)
        if len(length) < LENGTH.size:
            return None
        return unpack(self._stream.read(LENGTH.unpack(length)[0]))


def _bands(image: Image.Image) -> Iterator[bytes]:
    """The bytes of a picture, from top to bottom; never many at once."""
    rows = max(1, _BAND_BYTES // (3 * image.width))
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(image.height, top + rows))).tobytes()


def _address_space() -> int | None:
    """Bytes mapped by this process; None where the system does not say, and does not enforce a limit on them either."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else None


def main() -> None:
    """Runs the child: `python -m app.imaging.child MAX_PIXELS`."""
    # Ctrl-C at the terminal reaches every process there; the parent decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Children already run side by side, and threads would each take memory.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # A parent that is gone wants no answer.
    with (
        suppress(BrokenPipeError, ConnectionResetError),
        socket.socket(fileno=sys.stdin.fileno()) as connection,
        connection.makefile("rwb") as stream,
    ):
        # Fewer turns between child and parent for the pixels.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BAND_BYTES)
        Child(stream, int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
