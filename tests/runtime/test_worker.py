"""The worker of a device: batches gathered while it is busy, pauses of long jobs, faults that stay small."""

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from app.cam.chunks import Checkpoint, images_at_once
from app.cam.errors import TargetError
from app.errors import WorkerFailed
from app.runtime.jobs import BatchKind, JobResult
from app.runtime.worker import DeviceWorker

WAIT_S = 60


@pytest.fixture
def worker() -> Iterator[DeviceWorker]:
    worker = DeviceWorker(torch.device("cpu"))
    yield worker
    worker.close()


class BlockingDevice:
    """Something to do: notes each batch, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.is_free = threading.Event()
        self.has_begun = threading.Event()
        self.fault: Callable[[Sequence[Any]], None] = lambda _batch: None

    def run(self, batch: Sequence[Any], _checkpoint: Checkpoint) -> list[str]:
        self.batches.append(list(batch))
        self.has_begun.set()
        assert self.is_free.wait(WAIT_S)
        self.fault(batch)
        return [f"answer to {payload}" for payload in batch]

    def kind(self, key: str = "a", max_size: int = 8) -> BatchKind[Any, str]:
        return BatchKind(key, self.run, max_size)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def gather(worker: DeviceWorker, device: BlockingDevice, payloads: Sequence[Any], **kind: Any) -> list[Any]:
    """Asks for all payloads while the device is held up with another job, then frees it."""
    first = asyncio.create_task(worker.run(device.kind("first"), "first"))
    await until(device.has_begun)
    jobs = [asyncio.create_task(worker.run(device.kind(**kind), payload)) for payload in payloads]
    await asyncio.sleep(0)
    device.is_free.set()
    await first
    return await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), WAIT_S)


def test_an_idle_worker_starts_at_once_and_a_busy_one_gathers_a_batch(worker: DeviceWorker) -> None:
    device = BlockingDevice()
    answers = asyncio.run(gather(worker, device, range(5)))
    assert device.batches == [["first"], [0, 1, 2, 3, 4]]
    assert [answer.result for answer in answers] == [f"answer to {number}" for number in range(5)]
    assert all(answer.queue_ms >= 0 and answer.compute_ms >= 0 for answer in answers)


def test_a_full_batch_takes_no_more_and_keeps_the_order(worker: DeviceWorker) -> None:
    device = BlockingDevice()
    asyncio.run(gather(worker, device, range(7), max_size=3))
    assert device.batches[1:] == [[0, 1, 2], [3, 4, 5], [6]]


def test_only_jobs_of_one_kind_share_a_batch_and_the_oldest_goes_first(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    async def ask() -> None:
        first = asyncio.create_task(worker.run(device.kind("first"), "first"))
        await until(device.has_begun)
        jobs = [asyncio.create_task(worker.run(device.kind(key), (key, n))) for n, key in enumerate("bababc")]
        await asyncio.sleep(0)
        device.is_free.set()
        await asyncio.gather(first, *jobs)

    asyncio.run(ask())
    assert device.batches[1:] == [
        [("b", 0), ("b", 2), ("b", 4)],
        [("a", 1), ("a", 3)],
        [("c", 5)],
    ]


def test_a_batch_is_full_when_it_would_run_for_a_second(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    async def ask() -> None:
        first = asyncio.create_task(worker.run(device.kind("first"), "first"))
        await until(device.has_begun)
        jobs = [asyncio.create_task(worker.run(device.kind(), n, cost_s=0.4)) for n in range(5)]
        await asyncio.sleep(0)
        device.is_free.set()
        await asyncio.gather(first, *jobs)

    asyncio.run(ask())
    assert device.batches[1:] == [[0, 1], [2, 3], [4]]


def test_a_job_that_nobody_waits_for_leaves_the_queue(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    async def ask() -> None:
        first = asyncio.create_task(worker.run(device.kind("first"), "first"))
        await until(device.has_begun)
        jobs = [asyncio.create_task(worker.run(device.kind(), n)) for n in range(3)]
        await asyncio.sleep(0)
        jobs[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await jobs[1]
        device.is_free.set()
        await asyncio.gather(first, jobs[0], jobs[2])

    asyncio.run(ask())
    assert device.batches[1:] == [[0, 2]]


def test_a_fault_stays_with_the_job_that_has_it(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    def fault(batch: Sequence[Any]) -> None:
        if 3 in batch:
            raise TargetError("class 3 does not exist")

    device.fault = fault
    answers = asyncio.run(gather(worker, device, range(8)))
    assert isinstance(answers[3], TargetError)
    assert [answer.result for answer in (*answers[:3], *answers[4:])] == [
        f"answer to {number}" for number in range(8) if number != 3
    ]
    assert not worker.has_failed, "what a request did wrong says nothing of the device"


def test_out_of_memory_halves_the_batch_and_goes_on(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    def fault(batch: Sequence[Any]) -> None:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    device.fault = fault
    answers = asyncio.run(gather(worker, device, range(8)))
    assert [answer.result for answer in answers] == [f"answer to {number}" for number in range(8)]
    assert [len(batch) for batch in device.batches[1:]] == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_single_job_out_of_memory_goes_on_in_smaller_chunks(worker: DeviceWorker, error: Exception) -> None:
    images = torch.empty(1, 3, 4, 4)
    tried = []

    def run(_batch: Sequence[None], _checkpoint: Checkpoint) -> list[int]:
        tried.append(images_at_once(images))
        if tried[-1] > 2:
            raise error
        return [tried[-1]]

    async def ask() -> JobResult[int]:
        return await worker.run(BatchKind("scorecam", run), None)

    assert asyncio.run(ask()).result == 2
    assert tried == [8, 4, 2]
    assert images_at_once(images) == 8


def test_a_job_that_never_fits_is_told_so(worker: DeviceWorker) -> None:
    def run(_batch: Sequence[None], _checkpoint: Checkpoint) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(WorkerFailed, match="too little memory"):
        asyncio.run(worker.run(BatchKind("large", run), None))


def test_short_jobs_pass_in_the_pauses_of_a_long_one(worker: DeviceWorker) -> None:
    device = BlockingDevice()
    device.is_free.set()
    order: list[str] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def long(_batch: Sequence[None], checkpoint: Checkpoint) -> list[str]:
        has_begun.set()
        assert may_go_on.wait(WAIT_S)
        for slice_ in range(3):
            checkpoint()
            order.append(f"slice {slice_}, after {len(device.batches)} batches")
        return ["long"]

    async def ask() -> tuple[JobResult[str], list[JobResult[str]]]:
        slow = asyncio.create_task(worker.run(BatchKind("long", long, is_long=True), None))
        other = asyncio.create_task(worker.run(BatchKind("other", lambda _b, _p: ["other"], is_long=True), None))
        await until(has_begun)
        shorts = [asyncio.create_task(worker.run(device.kind(key), key)) for key in "aab"]
        await asyncio.sleep(0)
        may_go_on.set()
        answers = await asyncio.wait_for(asyncio.gather(*shorts), WAIT_S)
        await other
        return await slow, answers

    slow, answers = asyncio.run(ask())
    assert slow.result == "long"
    assert [answer.result for answer in answers] == ["answer to a", "answer to a", "answer to b"]
    # One batch a checkpoint: neither starves the other.
    assert order == ["slice 0, after 1 batches", "slice 1, after 2 batches", "slice 2, after 2 batches"]
    assert device.batches == [["a", "a"], ["b"]]


def test_a_long_job_is_not_charged_for_what_passed_in_between(worker: DeviceWorker) -> None:
    def long(_batch: Sequence[None], checkpoint: Checkpoint) -> list[None]:
        has_begun.set()
        assert may_go_on.wait(WAIT_S)
        checkpoint()
        return [None]

    def nap(_batch: Sequence[None], _checkpoint: Checkpoint) -> list[None]:
        time.sleep(0.5)
        return [None]

    has_begun, may_go_on = threading.Event(), threading.Event()

    async def ask() -> tuple[JobResult[None], JobResult[None], float]:
        started = time.perf_counter()
        slow = asyncio.create_task(worker.run(BatchKind("long", long, is_long=True), None))
        await until(has_begun)
        short = asyncio.create_task(worker.run(BatchKind("short", nap), None))
        await asyncio.sleep(0)
        may_go_on.set()
        done = await slow, await short
        return *done, 1e3 * (time.perf_counter() - started)

    slow, short, elapsed_ms = asyncio.run(ask())
    assert short.compute_ms >= 500
    assert slow.compute_ms <= elapsed_ms - 500


def kill(worker: DeviceWorker) -> None:
    """Raises `SystemExit` in the worker's thread, as an interpreter does that ends it."""
    thread = worker._thread.ident
    assert thread is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit)) == 1


def test_when_the_worker_dies_the_waiting_hear_of_it_at_once_and_the_next_request_works(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    async def ask() -> None:
        jobs = [asyncio.create_task(worker.run(device.kind("first"), "first"))]
        await until(device.has_begun)
        jobs += [asyncio.create_task(worker.run(device.kind(), number)) for number in range(3)]
        await asyncio.sleep(0)
        kill(worker)
        device.is_free.set()
        answers = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), WAIT_S)
        assert all(isinstance(answer, WorkerFailed) for answer in answers), answers
        assert worker.has_failed
        assert (await worker.run(device.kind(), "next")).result == "answer to next"
        assert not worker.has_failed

    asyncio.run(ask())


def test_a_closed_worker_refuses(worker: DeviceWorker) -> None:
    worker.close()
    with pytest.raises(WorkerFailed, match="stopping"):
        asyncio.run(worker.run(BlockingDevice().kind(), "too late"))


def test_silence_counts_only_while_there_is_work(worker: DeviceWorker) -> None:
    device = BlockingDevice()

    async def ask() -> None:
        assert worker.stalled_s() == 0
        job = asyncio.create_task(worker.run(device.kind(), 1))
        await until(device.has_begun)
        await asyncio.sleep(0.05)
        assert 0.05 <= worker.stalled_s() < WAIT_S
        device.is_free.set()
        await job
        assert worker.stalled_s() == 0

    asyncio.run(ask())
