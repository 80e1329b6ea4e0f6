"""One thread for each device: all work on the device runs there, in batches gathered while it was busy."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from app.cam.chunks import CHUNK_DIVISORS, Checkpoint, smaller_chunks
from app.cam.errors import CamError
from app.errors import ServiceError, WorkerFailed
from app.runtime.devices import is_out_of_memory
from app.runtime.jobs import Abandoned, BatchKind, Job, JobResult, Payload, Result
from app.runtime.meters import Meters

_LOG = logging.getLogger(__name__)

# A batch is full when it is estimated to run this long, however few its jobs: the next job waits for all of it.
_BATCH_S = 1.0


class DeviceWorker:
    """Owns a device, so that no request ever holds a lock around a network.

    An idle worker runs a job at once. While it is busy, jobs gather, and those of the oldest one's kind make the next
    batch. Long jobs run alone, and let a batch of short ones run at each of their checkpoints. A batch that fails, as
    where it does not fit the memory, is halved, so that only the job with the fault fails.

    Attributes:
        device: that it owns.
        last_success: when the device last finished a job, on the clock of `time.monotonic`.
        has_failed: whether the device has failed since.
    """

    def __init__(self, device: torch.device, meters: Meters | None = None) -> None:
        self.device = device
        self._meters = meters or Meters()
        self._meters.register_device(str(device))
        self.last_success = time.monotonic()
        self.has_failed = False
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._passed_s = 0.0
        self._change = threading.Condition()
        self._is_closing = False
        self._thread = self._start()

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self._waiting and not self._running

    @property
    def depth(self) -> int:
        """How many jobs wait for it."""
        return len(self._waiting)

    def stalled_s(self) -> float:
        """For how long it has had work without any success; 0 while idle."""
        with self._change:
            oldest = min((job.queued for job in (*self._waiting, *self._running)), default=None)
        if oldest is None:
            return 0.0
        return min(time.perf_counter() - oldest, time.monotonic() - self.last_success)

    async def run(self, kind: BatchKind[Payload, Result], payload: Payload, cost_s: float = 0.0) -> JobResult[Result]:
        """Queues a job; one that is cancelled leaves the queue, or is abandoned at its next checkpoint.

        Raises:
            WorkerFailed: the worker died with the job, or is closed.
            Exception: whatever the job raised.
        """
        job = Job(kind, payload, cost_s)
        self._enqueue(job)
        try:
            done: JobResult[Result] = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            with self._change:
                if job in self._waiting:
                    self._waiting.remove(job)
            raise
        return done

    def submit(self, work: Callable[[], object]) -> Future[JobResult[object]]:
        """Queues work from any thread; the caller may wait for the future or ignore it."""
        kind: BatchKind[None, object] = BatchKind(object(), lambda _payloads, _checkpoint: [work()])
        job = Job(kind, None, 0.0)
        self._enqueue(job)
        return job.future

    def close(self) -> None:
        """Ends the running batch at its next checkpoint and refuses the rest."""
        with self._change:
            self._is_closing = True
            self._change.notify()
        self._thread.join()

    def _enqueue(self, job: Job) -> None:
        with self._change:
            if self._is_closing:
                raise WorkerFailed("the service is stopping")
            self._waiting.append(job)
            self._change.notify()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=f"device-{self.device}", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._run(batch)
        except BaseException:
            # An error of a job would be its answer: this one ends the thread.
            _LOG.exception("the worker of %s failed and is restarted", self.device)
            self._meters.restarts.labels(str(self.device)).inc()
            self.has_failed = True
            self._fail_all()
            self._thread = self._start()
            return
        self._fail_all()

    def _next_batch(self) -> list[Job]:
        """Waits for work; empty when the worker closes."""
        with self._change:
            while not self._waiting and not self._is_closing:
                self._change.wait()
            return [] if self._is_closing else self._gather(lambda _job: True)

    def _gather(self, is_wanted: Callable[[Job], bool]) -> list[Job]:
        """Takes the oldest wanted job out of the queue, with those that may share its batch."""
        first = next((job for job in self._waiting if is_wanted(job)), None)
        if first is None:
            return []
        batch, seconds = [first], first.cost_s
        for job in self._waiting:
            if job is first or job.kind.key != first.kind.key:
                continue
            if len(batch) == first.kind.max_size or seconds + job.cost_s > _BATCH_S:
                break
            batch.append(job)
            seconds += job.cost_s
        taken = set(map(id, batch))
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        self._running.extend(batch)
        return batch

    def _run(self, batch: list[Job]) -> None:
        kind = batch[0].kind
        if kind.max_size > 1 and not kind.is_long:
            self._meters.record_batch(str(self.device), len(batch), kind.max_size)
        started, passed_s = time.perf_counter(), self._passed_s
        answers = self._answers(batch)
        compute_s = time.perf_counter() - started - (self._passed_s - passed_s)
        for job, answer in zip(batch, answers, strict=True):
            self._running.remove(job)
            self._note(answer)
            if not isinstance(answer, BaseException):
                answer = JobResult(answer, 1e3 * (started - job.queued), 1e3 * compute_s)
            job.finish(answer)

    def _note(self, answer: object) -> None:
        """Notes whether the device works; the mistakes of a request say nothing about it."""
        if not isinstance(answer, BaseException):
            self.last_success, self.has_failed = time.monotonic(), False
        elif not isinstance(answer, Abandoned | CamError | ServiceError):
            self.has_failed = True

    def _answers(self, batch: list[Job]) -> Sequence[Any]:
        try:
            return self._results(batch)
        except Abandoned as abandoned:
            return [abandoned] * len(batch)
        except Exception as error:
            if len(batch) == 1:
                return [self._in_smaller_chunks(batch) if is_out_of_memory(error) else error]
            _LOG.warning("a batch of %d failed on %s and is halved: %s", len(batch), self.device, error)
            if is_out_of_memory(error):
                self._meters.halvings.labels(str(self.device)).inc()
            self._free_memory()
        middle = len(batch) // 2
        return [*self._answers(batch[:middle]), *self._answers(batch[middle:])]

    def _results(self, batch: list[Job]) -> Sequence[Any]:
        results = batch[0].kind.run([job.payload for job in batch], self._checkpoint_of(batch))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return results

    def _in_smaller_chunks(self, batch: list[Job]) -> Any:  # noqa: ANN401 - whatever the job asked for
        """Runs one job that does not fit the memory, in smaller and smaller chunks."""
        for divisor in CHUNK_DIVISORS:
            self._free_memory()
            self._meters.halvings.labels(str(self.device)).inc()
            _LOG.warning("out of memory on %s: going on with chunks of one %dth", self.device, divisor)
            try:
                with smaller_chunks(divisor):
                    return self._results(batch)[0]
            except Exception as error:
                if not is_out_of_memory(error):
                    return error
        return WorkerFailed("the device has too little memory left for this request", headers={"Retry-After": "1"})

    def _free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _checkpoint_of(self, batch: list[Job]) -> Checkpoint:
        """The function that a batch calls between chunks: it ends abandoned work, and lets short jobs run."""

        def checkpoint() -> None:
            if self._is_closing:
                raise WorkerFailed("the service is stopping")
            if all(job.future.cancelled() for job in batch):
                raise Abandoned
            if not batch[0].kind.is_long:
                return
            with self._change:
                short = self._gather(lambda job: not job.kind.is_long)
            if short:
                started = time.perf_counter()
                self._run(short)
                self._passed_s += time.perf_counter() - started

        return checkpoint

    def _fail_all(self) -> None:
        with self._change:
            jobs = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting.clear()
        for job in jobs:
            job.finish(WorkerFailed("the device's worker failed; the next request finds a new one"))
