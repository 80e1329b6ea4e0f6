"""A soak: mixed requests at a steady share of what the service can do, every reply held against its own.

It measures what sixteen callers who wait for their answers get from the service, and then sends that share of it at
random times (Poisson, with a seed). Latency counts from when a request was due, so that whatever holds the service up
counts for all that came meanwhile.
"""

import asyncio
import random
import time
from collections.abc import Callable

import numpy as np

from testing.footprint import footprint, processor_ticks, stolen_share
from testing.serving import Service
from testing.soak_report import Minute, Report
from testing.traffic import Query, Traffic, learn
from testing.wire import Connections, Lost, Refused

CALLERS = 16
_REFERENCE_EVERY_S = 2.0


async def soak(
    service: Service,
    intervals: int,
    load: float,
    *,
    interval_s: float = 60.0,
    capacity_s: float = 30.0,
    seed: int = 0,
    say: Callable[[str], object] = lambda _line: None,
) -> Report:
    """Runs one.

    Args:
        service: a ready one.
        intervals: how many minutes.
        load: share of the capacity, 0 to 1.
        interval_s: how long a minute is.
        capacity_s: for how long the capacity is measured.
        seed: of the arrivals and the order of the requests.
        say: takes a line a minute.
    """
    traffic = await learn(service.url)
    await _capacity(service, traffic, capacity_s / 3, seed)  # warms everything up
    capacity = await _capacity(service, traffic, capacity_s, seed + 1)
    say(f"{capacity:.1f} answers a second to {CALLERS} callers; sending {load * capacity:.1f} a second")
    await asyncio.sleep(1.0)
    before = footprint(service.process.pid)
    arrivals = _Arrivals(service, traffic, load * capacity, interval_s, seed)
    minutes = await arrivals.run(intervals, say)
    await asyncio.sleep(1.0)
    return Report(capacity, load * capacity, minutes, before, footprint(service.process.pid))


async def _capacity(service: Service, traffic: Traffic, seconds: float, seed: int) -> float:
    """Answers a second that callers get who ask again as soon as they are answered."""
    connections, answers = Connections(service.url), 0
    queries, started = traffic.draw(seed), time.perf_counter()

    async def work() -> None:
        nonlocal answers
        while time.perf_counter() - started < seconds:
            query = next(queries)
            reply = await connections.call(query.request)
            assert query.known is not None
            if wrong := query.known.differences(reply):
                raise RuntimeError(f"{query.name}: {wrong}")
            answers += 1

    await asyncio.gather(*(work() for _ in range(CALLERS)))
    await connections.close()
    return answers / (time.perf_counter() - started)


class _Arrivals:
    """Requests at random times, whatever becomes of those before them."""

    def __init__(self, service: Service, traffic: Traffic, rate: float, interval_s: float, seed: int) -> None:
        self._service = service
        self._queries = traffic.draw(seed + 2)
        self._rate = rate
        self._interval_s = interval_s
        self._chance = random.Random(seed + 3)
        self._connections = Connections(service.url)

    async def run(self, intervals: int, say: Callable[[str], object]) -> list[Minute]:
        """Sends them all; returns when all are answered."""
        minutes = [Minute() for _ in range(intervals)]
        started, due = time.perf_counter(), 0.0
        machine = asyncio.create_task(self._time_the_machine(minutes, started))
        closing: list[asyncio.Task[None]] = []
        for number, minute in enumerate(minutes):
            ticks, used = processor_ticks(), time.process_time()
            tasks = []
            while due < (number + 1) * self._interval_s:
                await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
                minute.late_ms = max(minute.late_ms, 1e3 * (time.perf_counter() - started - due))
                tasks.append(asyncio.create_task(self._send(next(self._queries), started + due, minute)))
                due += self._chance.expovariate(self._rate)
            await asyncio.sleep(max(0.0, started + (number + 1) * self._interval_s - time.perf_counter()))
            minute.stolen = stolen_share(ticks, processor_ticks())
            minute.generator = (time.process_time() - used) / self._interval_s
            minute.service = footprint(self._service.process.pid)
            closing.append(asyncio.create_task(_close(number, minute, tasks, say)))
        await asyncio.gather(*closing)
        machine.cancel()
        await self._connections.close()
        return minutes

    async def _send(self, query: Query, due: float, minute: Minute) -> None:
        try:
            reply = await self._connections.call(query.request)
        except (Lost, Refused) as error:
            minute.statuses["lost"] += 1
            minute.faults.append(f"{query.name}: {error!r}")
            return
        minute.latencies_ms.append(1e3 * (time.perf_counter() - due))
        minute.statuses[str(reply.status)] += 1
        assert query.known is not None
        minute.faults += [f"{query.name}: {what}" for what in query.known.differences(reply)]

    async def _time_the_machine(self, minutes: list[Minute], started: float) -> None:
        noise = np.random.default_rng(0).random(200_000)
        while True:
            # Time on the processor, not on the clock: waiting for one is the service's doing.
            used = time.thread_time()
            np.sort(noise).sum()
            used_ms = 1e3 * (time.thread_time() - used)
            number = int((time.perf_counter() - started) / self._interval_s)
            if number < len(minutes):
                minutes[number].machine_ms.append(used_ms)
            await asyncio.sleep(_REFERENCE_EVERY_S)


async def _close(number: int, minute: Minute, tasks: list[asyncio.Task[None]], say: Callable[[str], object]) -> None:
    """Waits until all requests of a minute are answered, and says what they saw."""
    await asyncio.gather(*tasks)
    say(minute.line(number + 1))
