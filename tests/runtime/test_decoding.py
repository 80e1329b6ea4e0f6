"""A posted picture harms nothing but its own request, whatever it does to the process that reads it."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import NotReady
from app.imaging.decode import ACCEPTED_FORMATS, open_image
from app.imaging.errors import ImageTooSmall, ImageUnreadable, ImagingError, TooManyPixels, UnsupportedImage
from app.imaging.picture import Picture, picture_of
from app.imaging.reading import Order, read_image
from app.runtime.decoder import BrokenDecoder
from app.runtime.decoding import Decoders, Reading, held_bytes
from service_models.spec import Preprocessing
from tests.imaging.pictures import MAX_PIXELS, encoded, gradient, noise, photograph
from tests.imaging.test_decode_hostile import bmp_header, gif_header, png_header, webp_header

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


@pytest.mark.parametrize("file_format", ACCEPTED_FORMATS)
def test_a_child_gives_what_this_process_would(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif} if file_format not in {"BMP", "GIF"} else {}
    data = encoded(photograph("coffee"), file_format, **options)

    async def ask() -> None:
        async with decoders(1) as pool:
            for fit in ("crop", "stretch", "pad"):
                for max_side in (None, 256, 0):
                    order = Order.of(Preprocessing(input_size=(160, 224), interpolation="bicubic"), fit, max_side)  # type: ignore[arg-type]
                    reading = await read(pool, data, order)
                    assert_equal(reading.picture, in_this_process(data, order))
            assert reading.digest.hex()
            assert reading.decode_ms > 0
            assert reading.wait_ms >= 0

    run(ask())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnsupportedImage),
        (b"no picture", UnsupportedImage),
        (PHOTO[: len(PHOTO) // 2], ImageUnreadable),
        (encoded(noise(7, 8, 3), "PNG"), ImageTooSmall),
        (encoded(Image.new("F", (16, 16)), "TIFF"), ImageUnreadable),
        *((header(50_000, 50_000), TooManyPixels) for header in (png_header, webp_header, bmp_header, gif_header)),
    ],
)
def test_what_is_wrong_with_a_picture_is_said_as_this_process_would_say_it(
    data: bytes, error: type[ImagingError]
) -> None:
    async def ask() -> None:
        async with decoders(1) as pool:
            await pool.start()
            before = pool.children.pids
            with pytest.raises(error) as caught:
                await read(pool, data)
            with pytest.raises(error) as expected:
                in_this_process(data, ORDER)
            assert str(caught.value) == str(expected.value)
            assert vars(caught.value) == vars(expected.value)
            await read(pool, PHOTO)
            assert pool.children.pids == before

    run(ask())


def test_mutated_files_give_a_picture_or_an_error_and_never_the_pool() -> None:
    chance = np.random.default_rng(0)
    files = []
    for file_format in ACCEPTED_FORMATS:
        original = np.frombuffer(encoded(gradient(20, 24), file_format), np.uint8)
        for _ in range(30):
            mutated = original.copy()
            mutated[chance.integers(0, min(160, len(mutated)), 4)] = chance.integers(0, 256, 4)
            files.append(mutated.tobytes())

    async def ask() -> None:
        async with decoders(2, 1_000_000) as pool:
            readings = await asyncio.gather(*(read(pool, data) for data in files), return_exceptions=True)
            for data, reading in zip(files, readings, strict=True):
                if isinstance(reading, Reading):
                    assert_equal(reading.picture, in_this_process(data, ORDER, 1_000_000))
                else:
                    assert isinstance(reading, ImagingError)

    run(ask())


def test_a_child_that_is_killed_fails_its_request_and_no_other() -> None:
    async def ask() -> None:
        async with decoders(2) as pool:
            await pool.start()
            victim = min(pool.children.pids)
            # It takes a picture, and gets no further.
            os.kill(victim, signal.SIGSTOP)
            requests = [asyncio.create_task(read(pool, PHOTO)) for _ in range(8)]
            await until(lambda: sum(request.done() for request in requests) == 7)
            (hanging,) = (request for request in requests if not request.done())
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(ImageUnreadable, match="broke its decoder"):
                await hanging
            for request in requests:
                assert request is hanging or isinstance(request.result(), Reading)
            await until(lambda: pool.children.idle == 2)
            assert victim not in pool.children.pids
            await asyncio.gather(*(read(pool, PHOTO) for _ in range(4)))
            assert len(pool.children.pids) == 2

    run(ask())


def test_a_child_that_is_killed_in_the_midst_of_decoding_fails_its_request_only() -> None:
    slow = encoded(noise(3000, 4000, 3), "PNG", compress_level=1)

    async def ask() -> None:
        async with decoders(1) as pool:
            await pool.start()
            for delay_s in (0.0, 0.02, 0.05, 0.1):
                request = asyncio.create_task(read(pool, slow))
                await until(lambda: pool.children.idle == 0)
                await asyncio.sleep(delay_s)
                (victim,) = pool.children.pids
                os.kill(victim, signal.SIGKILL)
                with pytest.raises(ImageUnreadable, match="broke its decoder"):
                    await request
                assert isinstance(await read(pool, PHOTO), Reading)

    run(ask())


def test_a_child_that_dies_between_pictures_fails_none() -> None:
    async def ask() -> None:
        async with decoders(1) as pool:
            await read(pool, PHOTO)
            (victim,) = pool.children.pids
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.1)
            await read(pool, PHOTO)
            assert pool.children.pids
            assert pool.children.pids != {victim}

    run(ask())


def test_a_decoder_that_hangs_is_killed_at_its_limit() -> None:
    async def ask() -> None:
        async with decoders(1, limit_s=0.5) as pool:
            await pool.start()
            (victim,) = pool.children.pids
            os.kill(victim, signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(ImageUnreadable, match=r"took longer than 0\.5 s to decode"):
                await read(pool, PHOTO)
            assert 0.4 < time.monotonic() - started < 10
            await until(lambda: pool.children.idle == 1)
            assert victim not in pool.children.pids

    run(ask())


def frugal_child(**limits: int) -> tuple[str, ...]:
    """The real child with less memory."""
    settings = "; ".join(f"child.{name} = {value}" for name, value in limits.items())
    return (sys.executable, "-c", f"from app.imaging import child; {settings}; child.main()")


RGBA = np.dstack([np.tile(gradient(500, 500), (6, 8, 1)), np.full((3000, 4000), 200, np.uint8)])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize(
    ("file_format", "options", "words"),
    [
        ("PNG", {"compress_level": 1}, "more memory than a picture may take"),
        ("TIFF", {"compression": "tiff_lzw"}, "more memory than a picture may take"),
        ("BMP", {}, "more memory than a picture may take"),
        ("GIF", {}, "more memory than a picture may take"),
        # These libraries do not say why they fail.
        ("WEBP", {"method": 0}, "more memory|corrupt"),
        ("JPEG", {"progressive": True}, "more memory|corrupt"),
        ("AVIF", {"speed": 10}, "more memory|corrupt"),
    ],
)
def test_a_picture_that_needs_too_much_memory_is_refused(file_format: str, options: dict[str, Any], words: str) -> None:
    if file_format not in ACCEPTED_FORMATS:
        pytest.skip("Pillow has no AVIF")
    data = encoded(RGBA[..., :3] if file_format in {"JPEG", "GIF"} else RGBA, file_format, **options)
    program = frugal_child(BYTES_A_PIXEL=1, COPIES_OF_THE_FILE=1, FIXED_BYTES=4 << 20)

    async def ask() -> None:
        async with decoders(1, 12_000_000, program=program) as pool:
            with pytest.raises(ImageUnreadable, match=words):
                await read(pool, data, FULL_SIZE)
            assert isinstance(await read(pool, PHOTO), Reading)

    run(ask())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
@pytest.mark.parametrize(("file_format", "options"), [("WEBP", {"method": 0}), ("PNG", {"compress_level": 1})])
def test_an_honest_picture_of_the_largest_size_has_the_memory_that_it_needs(
    file_format: str, options: dict[str, Any]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGBA, file_format, exif=exif, **options)

    async def ask() -> None:
        async with decoders(1, 12_000_000) as pool:
            picture = (await read(pool, data, FULL_SIZE)).picture
            assert picture.base is not None
            assert picture.base.shape == (4000, 3000, 3)

    run(ask())


SAYS = """
import json, os, pickle, socket, struct, sys, time
connection = socket.socket(fileno=0).makefile("rwb")
def say(message):
    raw(json.dumps(message).encode())
def raw(text, length=None):
    connection.write(struct.pack(">I", len(text) if length is None else length) + text)
    connection.flush()
def hear():
    (length,) = struct.unpack(">I", connection.read(4))
    return json.loads(connection.read(length))
class Trap:
    def __reduce__(self):
        return (open, ({trap!r}, "w"))
say({{"ready": True}})
while True:
    connection.read(hear()["bytes"])
    {answer}
    hear()
"""
SIZE = 'say({"width": 451, "height": 300}); hear(); '
ANSWERS = {
    "noise": "raw(bytes(range(256)))",
    "a pickle": "raw(pickle.dumps(Trap()))",
    "a pickle for pixels": SIZE + 'say({"format": pickle.dumps(Trap()).hex(), "width": 451, "height": 300})',
    "a list": "say([1, 2, 3])",
    "deep nesting": 'raw(b"[" * 4000)',
    "an endless message": 'raw(b"", 2**32 - 1)',
    "nothing, and the end": "sys.exit()",
    "a crash": "os.abort()",
    "half a message": 'raw(b"{", 2); sys.exit()',
    "an unknown error": 'say({"error": "SystemExit"})',
    "an error of endless size": 'say({"error": "TooManyPixels", "width": 10**1500, "height": 10**1500})',
    "no size": "say({})",
    "too large a picture": 'say({"width": 65000, "height": 65000})',
    "no format": SIZE + 'say({"width": 451, "height": 300})',
    "a format that is none": SIZE + 'say({"format": ["JPEG"], "width": 451, "height": 300})',
    "another size": SIZE + 'say({"format": "JPEG", "width": 450, "height": 300})',
    "too few pixels": SIZE + 'say({"format": "JPEG", "width": 451, "height": 300}); raw(bytes(1000)); sys.exit()',
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_child_that_talks_nonsense_fails_its_request_and_nothing_it_says_is_executed(
    answer: str, tmp_path: Path
) -> None:
    trap = tmp_path / "executed"
    program = (sys.executable, "-c", SAYS.format(trap=str(trap), answer=ANSWERS[answer]))

    async def ask() -> None:
        async with decoders(1, program=program) as pool:
            await pool.start()
            before = pool.children.pids
            with pytest.raises(ImageUnreadable, match="broke its decoder"):
                await read(pool, PHOTO)
            await until(lambda: pool.children.idle == 1)
            assert not before & pool.children.pids

    run(ask())
    assert not trap.exists()


def test_a_child_that_does_not_start_is_said_to_whoever_needs_it_and_blocks_nobody() -> None:
    async def ask() -> None:
        async with decoders(1, program=(sys.executable, "-c", "")) as pool:
            for _ in range(2):
                with pytest.raises(BrokenDecoder, match="does not start"):
                    await read(pool, PHOTO)
        async with decoders(1, program=("/nowhere",)) as pool:
            with pytest.raises(BrokenDecoder, match="does not start"):
                await pool.start()

    run(ask())


def test_children_start_when_they_are_needed_and_are_replaced_after_so_many_pictures() -> None:
    async def ask() -> None:
        async with decoders(2, recycle_after=3) as pool:
            assert not pool.children.pids
            used: set[int] = set()
            for _ in range(7):
                await read(pool, PHOTO)
                used |= pool.children.pids
                await until(lambda: pool.children.idle == 2)
            assert len(used) == 3
            assert len(pool.children.pids) == 1

    run(ask())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_do_not_inherit_the_secrets_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")

    async def ask() -> None:
        async with decoders(1) as pool:
            await pool.start()
            (pid,) = pool.children.pids
            assert b"hunter2" not in environment_of(pid)

    run(ask())


@pytest.mark.parametrize("room_mb", [1000, 16])
def test_who_gives_up_at_any_moment_leaves_pool_and_budget_whole(room_mb: int) -> None:
    chance = random.Random(0)
    moments = [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 23, 30]

    async def hold(pool: Decoders) -> None:
        async with pool.read(LARGE, FULL_SIZE):
            await asyncio.sleep(0.002)

    async def ask() -> None:
        async with decoders(2, max_held_bytes=room_mb * 1_000_000) as pool:
            for steps in moments * 3:
                requests = [asyncio.create_task(hold(pool)) for _ in range(4)]
                for _ in range(steps):
                    await asyncio.sleep(chance.choice([0, 0, 0.002]))
                for request in chance.sample(requests, 3):
                    request.cancel()
                kept = [result for result in await asyncio.gather(*requests, return_exceptions=True) if result is None]
                assert kept
            await until(lambda: pool.children.idle == 2)
            assert pool.budget.held == 0
            assert_equal((await read(pool, PHOTO)).picture, in_this_process(PHOTO, ORDER))

    run(ask())


def test_who_gives_up_while_children_start_leaves_them_to_others() -> None:
    async def ask() -> None:
        async with decoders(1) as pool:
            request = asyncio.create_task(read(pool, PHOTO))
            await until(lambda: pool.children.idle == 0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await read(pool, PHOTO)

    run(ask())


def test_a_child_that_hangs_when_its_request_is_given_up_is_replaced_soon() -> None:
    async def ask() -> None:
        async with decoders(1) as pool:
            await pool.start()
            (victim,) = pool.children.pids
            os.kill(victim, signal.SIGSTOP)
            request = asyncio.create_task(read(pool, PHOTO))
            await until(lambda: pool.children.idle == 0)
            request.cancel()
            await read(pool, PHOTO)
            assert pool.children.pids != {victim}

    run(ask())


def test_large_pictures_wait_for_each_other_in_turn_and_small_ones_pass() -> None:
    capacity = 22_000_000
    assert held_bytes((1000, 1000), 0, 1) == 15_000_000

    async def ask() -> None:
        async with decoders(1, max_held_bytes=capacity) as pool:
            served: list[int] = []
            release = asyncio.Event()

            async def hold(number: int) -> None:
                async with pool.read(LARGE, FULL_SIZE):
                    served.append(number)
                    assert pool.budget.held <= capacity
                    await release.wait()

            first = asyncio.create_task(hold(0))
            await until(lambda: served == [0])
            others = []
            for number in range(1, 5):
                others.append(asyncio.create_task(hold(number)))
                await asyncio.sleep(0.05)
            # All the while the only child is free for those who need little.
            for _ in range(3):
                await asyncio.wait_for(read(pool, PHOTO, Order.of(Preprocessing(), "crop", 128)), 10)
                await asyncio.wait_for(read(pool, LARGE, Order.of(Preprocessing())), 10)
            assert served == [0]
            assert pool.budget.held == 15_000_000
            release.set()
            await asyncio.gather(first, *others)
            assert served == [0, 1, 2, 3, 4]

    run(ask())


def test_a_picture_that_needs_more_than_the_whole_budget_is_read_alone() -> None:
    async def ask() -> None:
        async with decoders(2, max_held_bytes=1_000_000) as pool:
            readings = await asyncio.gather(*(read(pool, data, FULL_SIZE) for data in (LARGE, SMALL, LARGE)))
            assert [reading.picture.width for reading in readings] == [1000, 500, 1000]

    run(ask())


def test_closing_ends_what_is_under_way_at_once() -> None:
    async def ask() -> None:
        pool = Decoders(1, MAX_PIXELS, max_held_bytes=16_000_000)
        await pool.start()
        (pid,) = pool.children.pids
        os.kill(pid, signal.SIGSTOP)
        requests = [asyncio.create_task(read(pool, PHOTO)) for _ in range(3)]
        await until(lambda: pool.children.idle == 0)
        started = time.monotonic()
        await pool.close()
        assert time.monotonic() - started < 5
        for result in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(result, NotReady)
        with pytest.raises(NotReady):
            await read(pool, PHOTO)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(ask())
