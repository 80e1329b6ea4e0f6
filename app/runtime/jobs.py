"""What a device's worker is given to do."""

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.cam.chunks import Pause

Payload = TypeVar("Payload")
Result = TypeVar("Result")


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """A job's answer.

    Attributes:
        result: what it asked for.
        queue_ms: how long it waited for its turn.
        compute_ms: how long its batch ran, less the short batches that passed in between.
    """

    result: Result
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, slots=True)
class Kind(Generic[Payload, Result]):
    """What may share a batch.

    Attributes:
        key: jobs with equal keys may run together.
        run: answers all payloads of a batch, in order. It calls `pause` between chunks of long work.
        most: how many payloads make a full batch.
        is_long: whether it lets short jobs pass at its pauses.
    """

    key: Hashable
    run: Callable[[Sequence[Payload], Pause], Sequence[Result]]
    most: int = 1
    is_long: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """A payload on its way through the worker.

    Attributes:
        kind: what it may share a batch with.
        payload: what it is about.
        cost_s: how long it is estimated to run.
        future: its answer; cancelled where nobody waits for it any more.
        queued: when it came, on the clock of `time.perf_counter`.
    """

    kind: Kind[Any, Any]
    payload: Any
    cost_s: float
    future: "Future[Done[Any]]" = field(default_factory=Future)
    queued: float = field(default_factory=time.perf_counter)

    def answer(self, answer: "Done[Any] | BaseException") -> None:
        """Hands the answer to whoever still waits."""
        with suppress(InvalidStateError):
            if isinstance(answer, BaseException):
                self.future.set_exception(answer)
            else:
                self.future.set_result(answer)
