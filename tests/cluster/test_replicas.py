"""Replicas that die under load, and the end of a service on Ray."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.serving import Service, free_port, serving

CALLERS = 4
_LIMIT_S = 90.0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A service of one small network, for a test that ends parts of it."""
    with serving(tmp_path, "--engine", "ray", models="small", port=free_port(), drain_s=20) as running:
        running.wait_until_ready()
        yield running


def replicas(service: Service) -> set[int]:
    """Process ids of the replicas of the network."""
    return {pid for pid in descendants(service.process.pid) if b"ServeReplica:shapley-cam:small" in title(pid)}


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = {int(child) for child in task.read_text().split()}
        except OSError:
            continue
        found |= children.union(*map(descendants, children))
    return found


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def ask(client: httpx.AsyncClient, picture: bytes) -> int:
    answer = await client.post("/v1/explain", content=picture, headers={"Content-Type": "image/png"})
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
        async with httpx.AsyncClient(base_url=own.url, timeout=120) as client:
            callers = [asyncio.create_task(load.run(client)) for _ in range(CALLERS)]
            await load.until(20)
            (killed,) = replicas(own)
            os.kill(killed, signal.SIGKILL)
            await load.until(load.statuses.total() + 40)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        return load.statuses, replicas(own) - {killed}

    statuses, others = asyncio.run(kill_under_load())
    assert set(statuses) == {200}, own.log.read_text()
    assert len(others) == 1
    assert httpx.get(f"{own.url}/readyz", timeout=30).status_code == 200


def test_sigterm_answers_what_was_accepted(own: Service, chelsea: bytes) -> None:
    async def stop_under_load() -> list[int]:
        async with httpx.AsyncClient(base_url=own.url, timeout=60) as client:
            calls = [asyncio.create_task(ask(client, chelsea)) for _ in range(8)]
            await asyncio.sleep(0.1)
            own.process.terminate()
            return await asyncio.gather(*calls)

    assert set(asyncio.run(stop_under_load())) <= {200, 503}
    assert own.process.wait(60) == 0, own.log.read_text()
    assert not descendants(own.process.pid)


def test_nothing_is_reported_to_the_outside_and_the_port_is_of_this_machine_alone(own: Service) -> None:
    # Of the processes that keep the cluster; those of Python overwrite what the system shows of their environment.
    keepers = [pid for pid in descendants(own.process.pid) if b"gcs_server" in title(pid)]
    assert keepers
    variables = Path(f"/proc/{keepers[0]}/environ").read_bytes().split(b"\0")
    assert {b"RAY_USAGE_STATS_ENABLED=0", b"RAY_AUTH_MODE=token"} <= set(variables)
    listening = {
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    }
    assert f"0100007F:{int(own.url.rpartition(':')[2]):04X}" in listening
