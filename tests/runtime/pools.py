"""Pools of decoding children for the tests: whole when a test has done what it will to one, and gone after that."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.imaging.decode import open_image
from app.imaging.picture import Picture, picture_of
from app.imaging.reading import Order, read_image
from app.runtime.decoding import Decoders, Reading
from service_models.spec import Preprocessing
from tests.imaging.pictures import MAX_PIXELS, encoded, gradient, photograph

WAIT_S = 60
ORDER = Order.of(Preprocessing(), "crop", 1024)
FULL_SIZE = Order.of(Preprocessing(), "crop", 0)
PHOTO = encoded(photograph("chelsea"), "JPEG")
# 3 bytes a pixel, held 5 times over: 15 and 3.75 MB of the budget.
LARGE, SMALL = encoded(gradient(1000, 1000), "PNG"), encoded(gradient(500, 500), "PNG")


@asynccontextmanager
async def decoders(count: int = 2, max_pixels: int = MAX_PIXELS, **options: Any) -> AsyncIterator[Decoders]:
    """A pool that must be whole when the test has done what it will to it, and gone after that."""
    open_before = open_files()
    pool = Decoders(count, max_pixels, **options)
    ever: set[int] = set()
    try:
        yield pool
        await until(lambda: pool.children.idle == count)
        assert pool.budget.held == 0
        ever |= pool.children.pids
    finally:
        await asyncio.wait_for(pool.close(), WAIT_S)
    assert not pool.children.pids
    assert not any(map(is_child, ever))
    assert open_files() == open_before


def open_files() -> set[str]:
    """What this process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return {str(fd) for fd in folder.iterdir() if fd.exists()} if folder.exists() else set()


def is_child(pid: int) -> bool:
    """Whether a process has not been reaped."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def read(pool: Decoders, data: bytes, order: Order = ORDER) -> Reading:
    async with pool.read(data, order) as reading:
        return reading


def in_this_process(data: bytes, order: Order, max_pixels: int = MAX_PIXELS) -> Picture:
    return picture_of(read_image(open_image(data, max_pixels), order), order)


def assert_equal(picture: Picture, expected: Picture) -> None:
    assert (picture.format, picture.width, picture.height) == (expected.format, expected.width, expected.height)
    assert picture.view == expected.view
    np.testing.assert_array_equal(picture.pixels, expected.pixels)
    assert (picture.base is None) == (expected.base is None)
    if picture.base is not None:
        np.testing.assert_array_equal(picture.base, expected.base)


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, 2 * WAIT_S)

    asyncio.run(limited())
