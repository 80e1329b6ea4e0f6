"""Who waits, who gives up and who comes too late: processes and budget stay whole."""

import asyncio
import os
import random
import signal
import struct
import time

import pytest
from PIL import Image

from app.errors import InvalidParameter, NotReady
from app.imaging.overlay import Colouring
from app.imaging.reading import DecodeSpec
from app.imaging.rendering import Drawing, RenderSpec
from app.runtime.image_processes import ImageProcesses
from app.runtime.picture_request import read_picture
from service_models.spec import Preprocessing
from testing.pictures import MAX_PIXELS, encoded, noise
from tests.runtime.pools import (
    DECODE_SPEC,
    FULL_SIZE,
    LARGE,
    PHOTO,
    SMALL,
    assert_equal,
    image_processes,
    in_this_process,
    read,
    run,
    stopped,
    until,
)


@pytest.mark.parametrize("room_mb", [1000, 26])
def test_who_gives_up_at_any_moment_leaves_pool_and_budget_whole(room_mb: int) -> None:
    chance = random.Random(0)
    moments = [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 23, 30]

    async def hold(images: ImageProcesses) -> None:
        async with read_picture(images, LARGE, FULL_SIZE):
            await asyncio.sleep(0.002)

    async def ask() -> None:
        async with image_processes(2, max_held_bytes=room_mb * 1_000_000) as images:
            for steps in moments * 3:
                requests = [asyncio.create_task(hold(images)) for _ in range(4)]
                for _ in range(steps):
                    await asyncio.sleep(chance.choice([0, 0, 0.002]))
                for request in chance.sample(requests, 3):
                    request.cancel()
                kept = [result for result in await asyncio.gather(*requests, return_exceptions=True) if result is None]
                assert kept
            await until(lambda: images.pool.idle == 2 and images.budget.held == 0)
            assert_equal(await read(images, PHOTO), in_this_process(PHOTO, DECODE_SPEC))

    run(ask())


@pytest.mark.parametrize("steps", range(6))
def test_who_gives_up_just_as_the_picture_comes_leaves_no_memory_open(steps: int) -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            async with stopped(images):
                request = asyncio.create_task(read(images, LARGE, FULL_SIZE))
                await until(lambda: images.pool.idle == 0)
            while images.pool.idle == 0:  # noqa: ASYNC110 (no turn of the loop may be missed)
                await asyncio.sleep(0)
            # The process has done its work, and its request does not know yet.
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    run(ask())


def test_who_gives_up_while_children_start_leaves_them_to_others() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            request = asyncio.create_task(read(images, PHOTO))
            await until(lambda: images.pool.idle == 0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await read(images, PHOTO)

    run(ask())


def test_a_child_that_hangs_when_its_request_is_given_up_is_replaced_soon() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            (victim,) = images.pool.pids
            os.kill(victim, signal.SIGSTOP)
            request = asyncio.create_task(read(images, PHOTO))
            await until(lambda: images.pool.idle == 0)
            request.cancel()
            await read(images, PHOTO)
            assert images.pool.pids != {victim}

    run(ask())


def test_large_pictures_wait_for_each_other_in_turn_and_small_ones_pass() -> None:
    capacity = 60_000_000

    async def ask() -> None:
        async with image_processes(1, max_held_bytes=capacity) as images:
            served: list[int] = []
            release = asyncio.Event()

            async def hold(number: int) -> None:
                async with read_picture(images, LARGE, FULL_SIZE, drawn_bytes=lambda _size: 30_000_000):
                    served.append(number)
                    assert images.budget.held <= capacity
                    await release.wait()

            first = asyncio.create_task(hold(0))
            await until(lambda: served == [0])
            others = []
            for number in range(1, 5):
                others.append(asyncio.create_task(hold(number)))
                await asyncio.sleep(0.05)
            # All the while the only process is free for those who need little.
            for _ in range(3):
                await asyncio.wait_for(read(images, PHOTO, DecodeSpec.of(Preprocessing(), "crop", 128)), 10)
                await asyncio.wait_for(read(images, SMALL, DecodeSpec.of(Preprocessing())), 10)
            assert served == [0]
            assert images.budget.held == 33_000_000
            release.set()
            await asyncio.gather(first, *others)
            assert served == [0, 1, 2, 3, 4]

    run(ask())


def test_what_needs_more_than_there_is_for_a_single_request_is_refused_before_it_is_decoded() -> None:
    async def ask() -> None:
        async with image_processes(2, max_held_bytes=20_000_000) as images:
            with pytest.raises(InvalidParameter, match="would take 18 MiB") as caught:
                await read(images, LARGE, FULL_SIZE)
            assert caught.value.detail["field"] == "max_side"
            assert (await read(images, SMALL, FULL_SIZE)).picture.width == 400

    run(ask())


def test_a_process_is_left_to_small_pictures_while_large_ones_are_read() -> None:
    large = encoded(noise(3000, 4000, 3), "PNG", compress_level=1)

    async def ask() -> None:
        async with image_processes(2) as images:
            await images.pool.start()
            reading = [asyncio.create_task(read(images, large)) for _ in range(4)]
            await until(lambda: images.large.held == 1)
            for _ in range(10):
                await read(images, PHOTO)
                assert not all(task.done() for task in reading)
            assert [(await task).picture.width for task in reading] == [4000] * 4

    run(ask())


def test_whose_pictures_have_cost_much_waits_behind_the_others() -> None:
    async def ask() -> None:
        async with image_processes(1) as images:
            await images.pool.start()
            images.pool.costs.charge("costly", 10.0)
            served: list[str] = []

            async def ask_as(caller: str) -> None:
                async with read_picture(images, PHOTO, DECODE_SPEC, caller=caller):
                    served.append(caller)

            async with stopped(images):
                busy = asyncio.create_task(read(images, PHOTO))
                await until(lambda: images.pool.idle == 0)
                waiting = []
                for caller in ("costly", "costly", "thrifty", "other"):
                    waiting.append(asyncio.create_task(ask_as(caller)))
                    await asyncio.sleep(0.01)
            await asyncio.gather(busy, *waiting)
            assert served == ["thrifty", "other", "costly", "costly"]

    run(ask())


def test_who_has_memory_and_wants_to_draw_does_not_wait_for_who_wants_the_memory() -> None:
    large = encoded(Image.new("RGB", (3600, 3600), "teal"), "PNG")
    drawn = 3 * 3600 * 3600

    async def ask() -> None:
        # One large picture at a time, in the memory and in a process.
        async with image_processes(2, max_held_bytes=400_000_000) as images:
            assert images.large.capacity == 1

            async def draw() -> int:
                async with read_picture(images, large, FULL_SIZE, drawn_bytes=lambda _size: drawn) as reading:
                    # All others have come to where they wait.
                    await asyncio.sleep(0.5)
                    heat = Drawing("overlay", (2, 2), struct.pack("4f", 0, 1, 0, 1))
                    spec = RenderSpec(reading.picture.canvas, Colouring(bytes(768), 0.5), (heat,))
                    ((picture,),) = await reading.render([spec])
                    return picture.length

            lengths = await asyncio.wait_for(asyncio.gather(*(draw() for _ in range(3))), 60)
            assert all(lengths)

    run(ask())


def test_closing_ends_what_is_under_way_at_once() -> None:
    async def ask() -> None:
        images = ImageProcesses(1, MAX_PIXELS)
        await images.pool.start()
        (pid,) = images.pool.pids
        os.kill(pid, signal.SIGSTOP)
        requests = [asyncio.create_task(read(images, PHOTO)) for _ in range(3)]
        await until(lambda: images.pool.idle == 0)
        started = time.monotonic()
        await images.pool.close()
        assert time.monotonic() - started < 5
        for result in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(result, NotReady)
        with pytest.raises(NotReady):
            await read(images, PHOTO)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(ask())
