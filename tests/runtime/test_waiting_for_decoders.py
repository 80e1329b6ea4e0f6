"""Who waits, who gives up and who comes too late: pool and budget stay whole."""

import asyncio
import os
import random
import signal
import time

import pytest

from app.errors import NotReady
from app.imaging.reading import Order
from app.runtime.decoding import Decoders, held_bytes
from service_models.spec import Preprocessing
from tests.imaging.pictures import MAX_PIXELS
from tests.runtime.pools import (
    FULL_SIZE,
    LARGE,
    ORDER,
    PHOTO,
    SMALL,
    assert_equal,
    decoders,
    in_this_process,
    read,
    run,
    until,
)


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
