"""Readiness is tied to what the device did last, and not only to start-up."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from app.runtime import readiness
from app.runtime.jobs import BatchKind
from app.runtime.readiness import why_not_ready
from app.runtime.worker import DeviceWorker

LONG_S = 60.0


class Probed:
    """A network that notes how often it is run to see whether the device works."""

    def __init__(self) -> None:
        self.probes = 0
        self.error: Exception | None = None

    def probe(self) -> None:
        self.probes += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def worker() -> Iterator[DeviceWorker]:
    worker = DeviceWorker(torch.device("cpu"))
    yield worker
    worker.close()


def fail(worker: DeviceWorker, error: Exception) -> None:
    async def ask() -> None:
        def run(_batch: object, _pause: object) -> list[None]:
            raise error

        with pytest.raises(type(error)):
            await worker.run(BatchKind("broken", run), None)

    asyncio.run(ask())


def reason(worker: DeviceWorker, network: Probed, longest_s: float = LONG_S) -> str | None:
    return asyncio.run(why_not_ready(worker, network.probe, longest_s))


def test_a_device_that_has_just_worked_is_believed(worker: DeviceWorker) -> None:
    network = Probed()
    assert reason(worker, network) is None
    assert network.probes == 0


def test_an_idle_device_is_asked_to_show_that_it_still_works(
    worker: DeviceWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Probed()
    monkeypatch.setattr(readiness, "_FRESH_S", 0.0)
    assert reason(worker, network) is None
    assert network.probes == 1
    network.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert reason(worker, network) == "cannot run a network: RuntimeError"


def test_a_device_that_failed_is_not_ready_until_it_has_worked(worker: DeviceWorker) -> None:
    network = Probed()
    network.error = RuntimeError("CUDA error: unspecified launch failure")
    fail(worker, network.error)
    assert reason(worker, network) == "cannot run a network: RuntimeError"
    network.error = None
    assert reason(worker, network) is None
    assert reason(worker, network) is None
    assert network.probes == 2


def test_a_device_that_finishes_nothing_is_not_ready(worker: DeviceWorker) -> None:
    release, begun = threading.Event(), threading.Event()

    def hang(_batch: object, _pause: object) -> list[None]:
        begun.set()
        assert release.wait(LONG_S)
        return [None]

    async def ask() -> tuple[str | None, str | None]:
        job = asyncio.create_task(worker.run(BatchKind("hangs", hang), None))
        assert await asyncio.to_thread(begun.wait, LONG_S)
        await asyncio.sleep(0.1)
        network = Probed()
        patient = await why_not_ready(worker, network.probe, LONG_S)
        impatient = await why_not_ready(worker, network.probe, 0.1)
        assert network.probes == 0, "a busy device is not asked for more"
        release.set()
        await job
        return patient, impatient

    assert asyncio.run(ask()) == (None, "has finished nothing for 0.1 s")
