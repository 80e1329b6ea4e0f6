"""The jobs of a device's worker, and their results."""

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.cam.chunks import Checkpoint

Payload = TypeVar("Payload")
Result = TypeVar("Result")


class Abandoned(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True, slots=True)
class JobResult(Generic[Result]):
    """The result of a job, and how long it took.

    Attributes:
        result: what the job computed.
        queue_ms: how long it waited for its turn.
        compute_ms: how long its batch ran, less the short batches that passed in between.
    """

    result: Result
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, slots=True)
class BatchKind(Generic[Payload, Result]):
    """Which jobs may share a batch, and how a batch is run.

    Attributes:
        key: jobs with equal keys may run together.
        run: computes the results of all payloads of a batch, in order. It calls `checkpoint` between chunks.
        max_size: how many payloads make a full batch.
        is_long: whether it lets short jobs run at its checkpoints.
    """

    key: Hashable
    run: Callable[[Sequence[Payload], Checkpoint], Sequence[Result]]
    max_size: int = 1
    is_long: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """A payload in the queue of a worker.

    Attributes:
        kind: which jobs it may share a batch with.
        payload: what `kind.run` takes.
        cost_s: how long it is estimated to run.
        future: its result; cancelled where nobody waits for it any more.
        queued: when it was queued, on the clock of `time.perf_counter`.
    """

    kind: BatchKind[Any, Any]
    payload: Any
    cost_s: float
    future: "Future[JobResult[Any]]" = field(default_factory=Future)
    queued: float = field(default_factory=time.perf_counter)

    def finish(self, outcome: "JobResult[Any] | BaseException") -> None:
        """Sets the result or the error, unless nobody waits any more."""
        with suppress(InvalidStateError):
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)
