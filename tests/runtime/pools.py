"""Image processes for the tests: all there when a test has done what it will to them, and gone after that."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.imaging.decode import open_image
from app.imaging.picture import PreparedPicture, pixels_of
from app.imaging.reading import DecodeSpec, read_image
from app.imaging.view import make_view
from app.runtime.image_processes import ImageProcesses
from app.runtime.picture_request import read_picture
from service_models.spec import Preprocessing
from testing.pictures import MAX_PIXELS, encoded, gradient, photograph

WAIT_S = 60
DECODE_SPEC = DecodeSpec.of(Preprocessing(), "crop", 1024)
FULL_SIZE = DecodeSpec.of(Preprocessing(), "crop", 0)
PHOTO = encoded(photograph("chelsea"), "JPEG")
# 19 and 2.6 MB of the budget while they are decoded, 3 and 0 after that.
LARGE, SMALL = encoded(gradient(1000, 1000), "PNG"), encoded(gradient(400, 400), "PNG")


@dataclass(frozen=True, slots=True)
class Read:
    """A picture that was read, and its base, which is gone by now."""

    picture: PreparedPicture
    base: bytes | None
    digest: bytes = b""
    decode_ms: float = 0.0
    wait_ms: float = 0.0


@asynccontextmanager
async def image_processes(
    count: int = 2, max_pixels: int = MAX_PIXELS, **options: Any
) -> AsyncIterator[ImageProcesses]:
    """Processes that must all be there when the test has done what it will to it, and gone after that."""
    open_before = open_files()
    images = ImageProcesses(count, max_pixels, **options)
    ever: set[int] = set()
    try:
        yield images
        # A request that was given up frees its memory just after its process.
        await until(lambda: images.pool.idle == count and images.budget.held == images.large.held == 0)
        ever |= images.pool.pids
    finally:
        await asyncio.wait_for(images.pool.close(), WAIT_S)
    assert not images.pool.pids
    assert not any(map(is_child, ever))
    open_after = open_files()
    assert open_after == open_before, open_after ^ open_before


def open_files() -> set[str]:
    """What this process has open, by number and name, where the system tells."""
    folder = Path("/proc/self/fd")
    found = set()
    for fd in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # that of the folder itself
            found.add(f"{fd.name} {fd.readlink()}")
    return found


def is_child(pid: int) -> bool:
    """Whether a process has not been reaped."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@asynccontextmanager
async def stopped(images: ImageProcesses) -> AsyncIterator[None]:
    """Processes that take work and do none of it: what waits behind it can be arranged without haste."""
    pids = images.pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def read(images: ImageProcesses, data: bytes, spec: DecodeSpec = DECODE_SPEC) -> Read:
    async with read_picture(images, data, spec) as reading:
        base = reading.picture.base
        held = base.memory.read(0, base.memory.size) if base is not None else None
        return Read(reading.picture, held, reading.digest, reading.decode_ms, reading.wait_ms)


def in_this_process(data: bytes, spec: DecodeSpec, max_pixels: int = MAX_PIXELS) -> Read:
    made = read_image(open_image(data, max_pixels), spec)
    view = make_view(made.width, made.height, spec, spec.fit)
    pixels = pixels_of(made.view, spec, is_deep=made.depth is not None)
    picture = PreparedPicture(made.format, made.width, made.height, view, pixels, made.depth, None)
    return Read(picture, made.base.tobytes() if made.base is not None else None)


def assert_equal(found: Read, wanted: Read) -> None:
    picture, expected = found.picture, wanted.picture
    assert (picture.format, picture.width, picture.height) == (expected.format, expected.width, expected.height)
    assert picture.view == expected.view
    np.testing.assert_array_equal(picture.pixels, expected.pixels)
    assert found.base == wanted.base


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, 2 * WAIT_S)

    asyncio.run(limited())
