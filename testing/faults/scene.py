"""Where faults happen: a service in its own process under light steady load, of which every answer is checked."""

import asyncio
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testing.faults.preload import Preload
from testing.serving import ROOT, Service, environment, until_end
from testing.traffic import Traffic, learn
from testing.wire import Connections, Lost, Refused

_RATE = 4.0
_CALM_S = 5.0
# As long must it be calm to be called normal.
_QUIET_S = 3.0
_GIVE_UP_S = 90.0


@dataclass(frozen=True, slots=True)
class TimedReply:
    """What one caller of the steady load saw.

    Attributes:
        due: when it was to be sent, on the clock of `time.monotonic`.
        done: when it was answered.
        outcome: the status, "lost", "wrong" or, where nobody listened, "refused".
        is_right: whether it was the known answer.
    """

    due: float
    done: float
    outcome: str
    is_right: bool

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return 1e3 * (self.done - self.due)


@dataclass(slots=True)
class Scene:
    """A fault and what is around it.

    Attributes:
        service: the service.
        folder: of its files.
        answers: what the steady load has seen so far.
        began: when the fault began, on the clock of `time.monotonic`.
        ended: when it was over.
    """

    service: Service
    folder: Path
    answers: list[TimedReply] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    @property
    def pid(self) -> int:
        """The service's own process."""
        return self.service.process.pid

    def is_over(self) -> None:
        """From here on the service is to recover."""
        self.ended = time.monotonic()

    @property
    def _longest_calm_ms(self) -> float:
        calm = [answer.latency_ms for answer in self.answers if answer.done < self.began]
        return 2 * max(calm, default=0.0) + 100

    def _is_normal(self, answer: TimedReply) -> bool:
        return answer.is_right and answer.latency_ms <= self._longest_calm_ms

    def normal_after_s(self) -> float:
        """From the end of the fault to the last answer that was not as before it."""
        late = [answer.done for answer in self.answers if answer.done >= self.ended and not self._is_normal(answer)]
        return max(late, default=self.ended) - self.ended

    def is_normal_again(self) -> bool:
        """Whether the latest answers were as before the fault."""
        since = max(self.ended, time.monotonic() - _QUIET_S)
        recent = [answer for answer in self.answers if answer.due >= since]
        return time.monotonic() - self.ended > _QUIET_S and bool(recent) and all(map(self._is_normal, recent))

    def is_right_again(self) -> bool:
        """Whether five answers to what was asked after the fault are right, however long they took."""
        later = [answer for answer in self.answers if answer.due >= self.ended]
        return len(later) >= 5 and all(answer.is_right for answer in later[-5:])

    def seen(self) -> str:
        """Outcomes from the beginning of the fault on, and the longest of them."""
        during = [answer for answer in self.answers if answer.done >= self.began]
        outcomes = Counter(answer.outcome for answer in during)
        return ", ".join(f"{count} x {outcome}" for outcome, count in sorted(outcomes.items()))

    def worst_ms(self) -> float:
        """The longest latency from the beginning of the fault on."""
        return max((answer.latency_ms for answer in self.answers if answer.done >= self.began), default=0.0)


Inject = Callable[[Scene], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: in a few words.
        inject: does it, and says what its own callers saw.
        settings: of the service.
        preload: loaded into the service.
        descriptors: the soft limit of open files that it starts with.
        is_last: whether the service ends with it.
    """

    name: str
    inject: Inject
    settings: Mapping[str, object] = field(default_factory=dict)
    preload: Preload | None = None
    descriptors: int | None = None
    is_last: bool = False

    async def run(self, folder: Path) -> tuple[Scene, str]:
        """Starts a service, lets it go wrong, and waits until it is as before.

        Returns:
            The scene, and what the callers of the fault itself saw.
        """
        with breakable(folder, self.preload, self.descriptors, **self.settings) as service:
            until = None if self.is_last else Scene.is_normal_again
            return await happen(self.inject, service, folder, _CALM_S, until)


async def happen(
    inject: Inject, service: Service, folder: Path, calm_s: float, until: Callable[[Scene], bool] | None
) -> tuple[Scene, str]:
    """Lets a service go wrong.

    Args:
        inject: does it, and says what its own callers saw.
        service: one that can be harmed.
        folder: of its files.
        calm_s: how long it is watched before.
        until: says when it has recovered; None does not wait for that.

    Returns:
        The scene, and what the callers of the fault itself saw.
    """
    await asyncio.to_thread(service.wait_until_ready)
    traffic = await learn(service.url, most=2)
    scene = Scene(service, folder)
    async with _steady_load(scene, traffic):
        await asyncio.sleep(calm_s)
        scene.began = time.monotonic()
        told = await inject(scene)
        if not scene.ended:
            scene.is_over()
        while until is not None and not until(scene):
            if time.monotonic() - scene.ended > _GIVE_UP_S:
                break
            await asyncio.sleep(0.2)
    return scene, told


@contextmanager
def breakable(
    folder: Path, preload: Preload | None = None, descriptors: int | None = None, **settings: object
) -> Iterator[Service]:
    """Runs a service that can be harmed until the context ends."""
    log, variables = folder / "log.txt", {}
    if preload is not None:
        preload.install(folder)
        variables = {name: value.format(folder=folder) for name, value in preload.variables.items()}
    env = environment(**settings) | variables
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "testing.faults.breakable"], cwd=ROOT, env=env, stderr=file)
    if descriptors is not None:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, hard))
    with until_end(process, log) as service:
        yield service


@asynccontextmanager
async def _steady_load(scene: Scene, traffic: Traffic) -> AsyncIterator[None]:
    """A few requests a second at even times, whatever becomes of those before them."""
    connections, queries = Connections(scene.service.url), traffic.draw(0)
    tasks: set[asyncio.Task[None]] = set()

    async def send(due: float) -> None:
        query = next(queries)
        assert query.known is not None
        outcome, is_right = "", False
        try:
            reply = await connections.call(query.request)
            done = time.monotonic()
            is_right = not query.known.differences(reply)
            is_wrong = reply.status == query.known.status and not is_right
            outcome = "wrong" if is_wrong else str(reply.status)
        except Lost:
            outcome, done = "lost", time.monotonic()
        except Refused:
            outcome, done = "refused", time.monotonic()
        scene.answers.append(TimedReply(due, done, outcome, is_right))

    async def tick() -> None:
        started, number = time.monotonic(), 0
        while True:
            due = started + number / _RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(send(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connections.close()
