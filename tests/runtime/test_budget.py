"""Bytes are given out first come, first served; small requests pass large ones, and no place is ever lost."""

import asyncio
import random

import pytest

from app.runtime.budget import Budget, Reservation

# 25 of 100 are kept for requests of at most 6.
CAPACITY = 100


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    async def ask() -> list[int]:
        budget = Budget(CAPACITY)
        order: list[int] = []

        async def hold(number: int, cost: int) -> None:
            place = await budget.take(cost)
            order.append(number)
            await settle()
            place.release()

        # The third would fit beside the first, but the second was there before.
        await asyncio.gather(*(hold(number, cost) for number, cost in enumerate([50, 60, 20, 70])))
        assert budget.held == 0
        return order

    assert asyncio.run(ask()) == [0, 1, 2, 3]


def test_a_small_request_passes_large_ones_that_wait_and_none_of_them_starves() -> None:
    async def ask() -> None:
        budget = Budget(CAPACITY)
        large = await budget.take(75)
        waiting = asyncio.create_task(budget.take(75))
        await settle()
        small = [budget.try_take(5) for _ in range(6)]
        # They have their own lane to its end, and nothing of what somebody waits for.
        assert [place is not None for place in small] == [True] * 5 + [False]
        large.release()
        await settle()
        assert waiting.done()
        assert budget.held == 100

    asyncio.run(ask())


def test_small_requests_fill_what_nobody_else_wants() -> None:
    budget = Budget(CAPACITY)
    assert all(budget.try_take(5) for _ in range(20))
    assert budget.try_take(5) is None
    assert budget.held == 100


def test_a_reservation_that_shrinks_leaves_the_rest_to_others() -> None:
    async def ask() -> None:
        budget = Budget(CAPACITY)
        first = await budget.take(budget.largest)
        waiting = asyncio.create_task(budget.take(50))
        await settle()
        assert not waiting.done()
        first.shrink(80)  # it has less already
        first.shrink(25)
        second = await waiting
        assert budget.held == 75
        first.release()
        second.release()
        assert budget.held == 0

    asyncio.run(ask())


def test_a_place_is_given_back_once() -> None:
    budget = Budget(CAPACITY)
    first, second = budget.try_take(30), budget.try_take(30)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    assert budget.held == 30


@pytest.mark.parametrize("granted", [False, True])
def test_who_gives_up_waiting_leaves_the_place_to_the_next(granted: bool) -> None:
    async def ask() -> None:
        budget = Budget(CAPACITY)
        first = await budget.take(75)
        gives_up, waits = asyncio.create_task(budget.take(75)), asyncio.create_task(budget.take(40))
        await settle()
        if granted:
            # In the very moment in which the place becomes free.
            first.release()
        gives_up.cancel()
        await settle()
        first.release()
        (await waits).release()
        assert budget.held == 0

    asyncio.run(ask())


def test_the_head_of_the_queue_that_gives_up_lets_those_behind_it_in() -> None:
    async def ask() -> None:
        budget = Budget(CAPACITY)
        await budget.take(50)
        head, behind = asyncio.create_task(budget.take(75)), asyncio.create_task(budget.take(20))
        await settle()
        head.cancel()
        await settle()
        assert behind.done()

    asyncio.run(ask())


def test_the_budget_is_never_exceeded_and_whole_in_the_end_whoever_gives_up_when() -> None:
    async def ask() -> None:
        budget, chance = Budget(CAPACITY), random.Random(0)

        async def hold(cost: int) -> None:
            place: Reservation = await budget.take(cost)
            assert budget.held <= CAPACITY
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                place.release()

        tasks = []
        for _ in range(2_000):
            tasks.append(asyncio.create_task(hold(chance.choice([1, 5, 20, 60, 75]))))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.held == 0

    asyncio.run(ask())
