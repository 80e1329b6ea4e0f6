"""The worker of a device in any order of events: each job has one answer, its own, and the worker outlives them all.

Nothing here waits for time to pass. Each batch stops where it begins, until it is told to go on; whatever the worker
does next is known from the model, and awaited.
"""

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app.cam.chunks import Checkpoint
from app.cam.errors import TargetError
from app.errors import WorkerFailed
from app.runtime.jobs import BatchKind
from app.runtime.worker import DeviceWorker

WAIT_S = 60
BATCH_S = 1.0
SETTINGS = settings(
    max_examples=80,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
BACK = "back from a checkpoint"
# BatchKind, what is wrong with it, and how long it is estimated to take.
JOBS = st.tuples(
    st.sampled_from(["a", "a", "a", "b", "b", "c", "long"]),
    st.sampled_from(["none"] * 12 + ["mistake", "bug", "fits alone", "never fits", "kill"]),
    st.sampled_from([0.0, 0.0, 0.0, 0.4]),
)


@dataclass(eq=False)
class Ask:
    """A job as the model knows it.

    Attributes:
        number: its payload.
        key: of its kind.
        fault: what happens when it runs.
        cost_s: what it is estimated to take.
        task: waits for its answer.
        is_cancelled: whether its caller hung up.
    """

    number: int
    key: str
    fault: str
    cost_s: float
    task: "asyncio.Task[Any]" = field(init=False)
    is_cancelled: bool = False


def wait_until(condition: Callable[[], bool]) -> None:
    """For what no event tells of, and a few steps of another thread bring about."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class SimulatedDevice:
    """What batches run on: stops each where it begins, and does to each job what is wrong with it."""

    def __init__(self) -> None:
        self.said: queue.Queue[Any] = queue.Queue()
        self.told: queue.Queue[str] = queue.Queue()
        self.answered: Counter[int] = Counter()
        self._begun: set[int] = set()

    def run(self, batch: Sequence[Ask], checkpoint: Checkpoint) -> list[tuple[str, int]]:
        """Goes on at once with what has begun before: halves of a batch, and jobs in smaller chunks."""
        numbers = [ask.number for ask in batch]
        if not self._begun.issuperset(numbers):
            self._begun.update(numbers)
            self.said.put(numbers)
            while self.told.get(timeout=WAIT_S) == "checkpoint":
                checkpoint()
                self.said.put(BACK)
        faults = {ask.fault for ask in batch}
        if "kill" in faults:
            raise SystemExit
        if "mistake" in faults:
            raise TargetError("no such class")
        if "bug" in faults:
            raise ZeroDivisionError("a bug")
        if "never fits" in faults or ("fits alone" in faults and len(batch) > 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.answered.update(numbers)
        return [("answer to", number) for number in numbers]


class WorkerStates(RuleBasedStateMachine):
    """Jobs come, callers hang up, batches checkpoint, end, fail and kill; then the worker is closed."""

    # How many of a kind make a full batch; only the last takes long.
    MOST: ClassVar[dict[str, int]] = {"a": 4, "b": 2, "c": 1, "long": 1}

    def __init__(self) -> None:
        super().__init__()
        self.device, self.worker = SimulatedDevice(), DeviceWorker(torch.device("cpu"))
        self.kinds = {key: BatchKind(key, self.device.run, most, key == "long") for key, most in self.MOST.items()}
        self.loop = asyncio.new_event_loop()
        self.asks: list[Ask] = []
        self.waiting: list[Ask] = []
        self.running: list[list[Ask]] = []

    @rule(asks=st.lists(JOBS, min_size=1, max_size=7))
    def ask(self, asks: list[tuple[str, str, float]]) -> None:
        """Requests come, one or many; an idle worker starts with the first at once."""
        for key, fault, cost_s in asks:
            ask = Ask(len(self.asks), key, fault, cost_s)
            ask.task = self.loop.create_task(self.worker.run(self.kinds[key], ask, cost_s))
            self.asks.append(ask)
            self.waiting.append(ask)
            self._turn()
            if not self.running:
                self._next_batch()

    @rule(which=st.integers(0, 1000))
    def hang_up(self, which: int) -> None:
        """A caller leaves, queued or being answered."""
        pending = [*self.waiting, *(ask for batch in self.running for ask in batch)]
        if not pending:
            return
        ask = pending[which % len(pending)]
        ask.task.cancel()
        ask.is_cancelled = True
        self._wait_for([ask])
        if ask in self.waiting:
            self.waiting.remove(ask)

    @precondition(lambda self: self.running)
    @rule()
    def checkpoint(self) -> None:
        """The running batch lets others pass, or finds that nobody waits for it."""
        batch = self.running[-1]
        self.device.told.put("checkpoint")
        if all(ask.is_cancelled for ask in batch):
            self._end_batch()
        elif batch[0].key == "long" and (short := self._gather([ask for ask in self.waiting if ask.key != "long"])):
            self._begin(short)
        else:
            assert self._said() == BACK

    @precondition(lambda self: self.running)
    @rule()
    def finish(self) -> None:
        """The running batch goes on to its end."""
        batch, thread = self.running[-1], self.worker._thread
        self.device.told.put("finish")
        if any(ask.fault == "kill" for ask in batch):
            lost = [*self.waiting, *(ask for batch in self.running for ask in batch)]
            self._wait_for(lost)
            for ask in lost:
                assert ask.is_cancelled or isinstance(ask.task.exception(), WorkerFailed)
            self.waiting, self.running = [], []
            # Whoever comes now finds a new worker, or is told of the old one's end.
            wait_until(lambda: self.worker._thread is not thread)
            self.worker.submit(lambda: None).result(WAIT_S)
            return
        self._wait_for(batch)
        for ask in batch:
            self._check_answer(ask)
        self._end_batch()

    @invariant()
    def worker_and_model_agree(self) -> None:
        """Nothing is lost, doubled or left behind."""
        assert self.worker.depth == len(self.waiting)
        assert self.device.said.empty()
        assert all(times == 1 for times in self.device.answered.values())
        pending = {*self.waiting, *(ask for batch in self.running for ask in batch)}
        assert all(ask.task.done() for ask in self.asks if ask not in pending)
        assert not any(ask.task.done() for ask in pending if not ask.is_cancelled)

    def teardown(self) -> None:
        """Whatever goes on, closing ends it, and nobody is left without an answer."""
        closing = threading.Thread(target=self.worker.close, daemon=True)
        try:
            closing.start()
            wait_until(lambda: self.worker._is_closing)
            # At its next checkpoint a batch hears of it; one that does not checkpoint is awaited.
            for number in range(2 * len(self.running)):
                self.device.told.put("checkpoint" if number % 2 == 0 else "finish")
            closing.join(WAIT_S)
            assert not closing.is_alive()
            assert not self.worker._thread.is_alive()
            assert self.worker.is_idle
            self._wait_for(self.asks)
            for ask in self.waiting:
                assert ask.is_cancelled or isinstance(ask.task.exception(), WorkerFailed)
            for ask in (ask for batch in self.running for ask in batch):
                if ask.is_cancelled or isinstance(ask.task.exception(), WorkerFailed):
                    continue
                self._check_answer(ask)
            with pytest.raises(WorkerFailed):
                self.loop.run_until_complete(self.worker.run(self.kinds["a"], Ask(-1, "a", "none", 0.0)))
        finally:
            self.loop.close()

    def _check_answer(self, ask: Ask) -> None:
        """An answer is that of its own job, whatever was wrong with others in its batch."""
        if ask.is_cancelled:
            assert ask.task.cancelled()
            return
        error = ask.task.exception()
        match ask.fault:
            case "mistake":
                assert isinstance(error, TargetError)
            case "bug":
                assert isinstance(error, ZeroDivisionError)
            case "never fits":
                assert isinstance(error, WorkerFailed)
            case _:
                assert error is None, error
                assert ask.task.result().result == ("answer to", ask.number)

    def _end_batch(self) -> None:
        self.running.pop()
        if self.running:
            assert self._said() == BACK
        else:
            self._next_batch()

    def _next_batch(self) -> None:
        if batch := self._gather(self.waiting):
            self._begin(batch)

    def _begin(self, batch: list[Ask]) -> None:
        assert self._said() == [ask.number for ask in batch], "oldest first, one kind, no more than fit"
        self.running.append(batch)
        self.waiting = [ask for ask in self.waiting if ask not in batch]

    def _gather(self, wanted: list[Ask]) -> list[Ask]:
        """What should run next: the oldest and those of its kind, as many as make a batch."""
        if not wanted:
            return []
        most = self.MOST[wanted[0].key]
        batch: list[Ask] = []
        for ask in (ask for ask in self.waiting if ask.key == wanted[0].key):
            if len(batch) == most or (batch and sum(other.cost_s for other in (*batch, ask)) > BATCH_S):
                break
            batch.append(ask)
        return batch

    def _said(self) -> Any:
        return self.device.said.get(timeout=WAIT_S)

    def _turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def _wait_for(self, asks: Sequence[Ask]) -> None:
        tasks = [ask.task for ask in asks]
        if tasks:
            _, left = self.loop.run_until_complete(asyncio.wait(tasks, timeout=WAIT_S))
            assert not left, "somebody waits for ever"
        # The future behind a cancelled task hears of it in the turn after.
        self._turn()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_each_job_has_one_answer_and_the_worker_outlives_them_all() -> None:
    run_state_machine_as_test(WorkerStates, settings=SETTINGS)
