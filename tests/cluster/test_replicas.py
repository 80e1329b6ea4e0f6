"""Replicas that die under load, and the end of a service on Ray."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testing.serving import Service, free_port, serving
from tests.processes import descendants

CALLERS = 4
# Nothing is measured by it: a machine that is busy with other work takes minutes.
_LIMIT_S = 600.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of one small network, whose parts these tests end: its replica, and in the end all of it."""
    settings = {"models": "small", "trunk": "eager", "drain_s": _LIMIT_S, "timeout_s": _LIMIT_S}
    with serving(tmp_path_factory.mktemp("own"), "--engine", "ray", port=free_port(), **settings) as running:
        yield running


def replicas(service: Service) -> set[int]:
    """Process ids of the replicas of the network."""
    running = descendants(service.process.pid).items()
    return {pid for pid, line in running if "ServeReplica:shapley-cam:small" in line}


async def ask(client: httpx.AsyncClient, picture: bytes, **fields: str) -> int:
    headers = {"Content-Type": "image/png"}
    answer = await client.post("/v1/explain", content=picture, headers=headers, params=fields)
    return answer.status_code


class Load:
    """Callers who ask again and again."""

    def __init__(self, picture: bytes) -> None:
        self.statuses: Counter[int] = Counter()
        self._picture = picture
        self._answered = asyncio.Condition()

    async def run(self, client: httpx.AsyncClient) -> None:
        while True:
            status = await ask(client, self._picture)
            async with self._answered:
                self.statuses[status] += 1
                self._answered.notify_all()

    async def until(self, answers: int) -> None:
        async with self._answered, asyncio.timeout(_LIMIT_S):
            await self._answered.wait_for(lambda: self.statuses.total() >= answers)


def test_a_replica_that_is_killed_under_load_loses_nothing_and_is_replaced(own: Service, chelsea: bytes) -> None:
    async def kill_under_load() -> tuple[Counter[int], set[int]]:
        load = Load(chelsea)
        async with httpx.AsyncClient(base_url=own.url, timeout=_LIMIT_S) as client:
            callers = [asyncio.create_task(load.run(client)) for _ in range(CALLERS)]
            await load.until(3 * CALLERS)
            (killed,) = replicas(own)
            os.kill(killed, signal.SIGKILL)
            await load.until(load.statuses.total() + 6 * CALLERS)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        return load.statuses, replicas(own) - {killed}

    statuses, others = asyncio.run(kill_under_load())
    assert set(statuses) == {200}, own.log.read_text()
    assert len(others) == 1
    assert httpx.get(f"{own.url}/readyz", timeout=_LIMIT_S).status_code == 200


def test_nothing_is_reported_to_the_outside_and_the_port_is_of_this_machine_alone(own: Service) -> None:
    # Of the processes that keep the cluster; those of Python overwrite what the system shows of their environment.
    (keeper,) = [pid for pid, line in descendants(own.process.pid).items() if "gcs_server" in line.split()[0]]
    variables = Path(f"/proc/{keeper}/environ").read_bytes().split(b"\0")
    assert {b"RAY_USAGE_STATS_ENABLED=0", b"RAY_AUTH_MODE=token"} <= set(variables)
    port = f"{int(own.url.rpartition(':')[2]):04X}"
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port}")] == [f"0100007F:{port}"]


async def in_flight(client: httpx.AsyncClient) -> float:
    (value,) = re.findall(r"^cam_in_flight (\S+)$", (await client.get("/metrics")).text, flags=re.MULTILINE)
    return float(value)


def test_sigterm_answers_what_was_accepted_and_leaves_no_process(own: Service, chelsea: bytes) -> None:
    """Runs last in this file."""
    started = descendants(own.process.pid)

    async def stop_under_load() -> list[int]:
        async with httpx.AsyncClient(base_url=own.url, timeout=_LIMIT_S) as client:
            async with asyncio.timeout(_LIMIT_S):
                while await in_flight(client):
                    pass  # Of the callers of another test the last may not be gone.
            # Each takes seconds: 256 passes.
            slow = {"method": "scorecam", "layer": "layer3", "metrics": "false"}
            calls = [asyncio.create_task(ask(client, chelsea, **slow)) for _ in range(2)]
            async with asyncio.timeout(_LIMIT_S):
                while await in_flight(client) < len(calls):
                    assert not any(call.done() for call in calls)
            own.process.terminate()
            return await asyncio.gather(*calls)

    assert asyncio.run(stop_under_load()) == [200, 200], own.log.read_text()
    assert own.process.wait(_LIMIT_S) == 0, own.log.read_text()
    deadline = time.monotonic() + _LIMIT_S
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.1)
