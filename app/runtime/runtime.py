"""All networks of the service, their loading, and the admission of work."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from app.errors import Draining, NotReady, QueueFull, Timeout, UnknownModel
from app.process import processors
from app.runtime.backend import Backend
from app.runtime.budget import BodyMemory
from app.runtime.devices import choose_devices, set_precision
from app.runtime.image_processes import ImageProcesses
from app.runtime.memory import CHECK_EVERY_S, Trimmer, trim
from app.runtime.meters import Meters
from app.runtime.progress import RequestProgress
from app.runtime.readiness import why_not_ready
from app.runtime.served import ServedNetwork, serve_network
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import find_networks

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

# How much the latest answer counts in the mean time between answers, from which `Retry-After` is told.
_SHARE_OF_LATEST = 0.1
_LONGEST_RETRY_S = 60
# So many bodies of the largest size may be in memory at once.
_BODIES_AT_ONCE = 16
# A call with several pictures keeps all of its reply until the last is answered; so many may do so at once.
_CALLS_OF_MANY = 4
# One is left to small pictures while the other is busy with a large one.
_FEWEST_PROCESSES = 2


class Runtime:
    """The state that lives as long as the service.

    Attributes:
        settings: as given.
        networks: the loaded ones by name, in the configured order.
        workers: by the name of their device.
        images: the processes that read posted pictures and draw those of replies.
        bodies: the memory that posted bodies take.
        calls_of_many: held by calls with more than one picture while they are answered.
        meters: counters and timers.
        in_flight: how many requests are accepted, and their replies not yet sent.
        is_draining: whether the service is stopping.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.networks: dict[str, Backend] = {}
        self.is_draining = False
        self.workers: dict[str, DeviceWorker] = {}
        self.meters = Meters()
        count = processors()
        self.images = ImageProcesses(settings.image_processes or max(_FEWEST_PROCESSES, count), settings.max_pixels)
        self.bodies = BodyMemory(_BODIES_AT_ONCE * settings.max_body_bytes)
        self.calls_of_many = asyncio.Semaphore(_CALLS_OF_MANY)
        self._helpers = ThreadPoolExecutor(count, thread_name_prefix="helper")
        self.in_flight = 0
        self._tracked: list[RequestProgress] = []
        self._answered = asyncio.Event()
        self._trimmer = Trimmer()
        self._next_trim: asyncio.TimerHandle | None = None
        self._between_answers_s = 0.0
        self._last_answer = -math.inf

    @property
    def is_loaded(self) -> bool:
        """Whether every configured network is loaded and warm."""
        return len(self.networks) == len(self.settings.models)

    def load(self) -> None:
        """Loads and warms every configured network; blocks.

        Raises:
            NetworkError: a network cannot be loaded; the message says what to do.
            ValueError: `CAM_DEVICE` names a device that is not there.
        """
        specs = find_networks(self.settings.models, self.settings.config)
        devices = choose_devices(self.settings.device)
        set_precision(self.settings.precision)
        for device in devices:
            if str(device) not in self.workers:
                self.workers[str(device)] = DeviceWorker(device, self.meters)
        for number, spec in enumerate(specs):
            if self.is_draining:
                return
            device = devices[number % len(devices)]
            self.networks[spec.name] = serve_network(spec, self.workers[str(device)], self.settings)
        # Loading takes more memory than the loaded networks.
        trim()
        self._trimmer.set_baseline()

    def network(self, name: str | None) -> Backend:
        """The network that a request names, by default the first configured.

        Raises:
            UnknownModel: not configured.
            NotReady: still loading.
        """
        name = name or self.settings.models[0]
        if name in self.networks:
            return self.networks[name]
        if name in self.settings.models:
            message = f"the network '{name}' is still loading"
            raise NotReady(message, headers={"Retry-After": "1"}, field="model", value=name)
        loaded = ", ".join(self.settings.models)
        raise UnknownModel(f"there is no network '{name}' here", field="model", expected=f"one of {loaded}", value=name)

    async def check_ready(self) -> None:
        """Checks that requests can be answered now: all networks are loaded, and the devices work.

        Raises:
            Draining: the service is stopping.
            NotReady: with the reason.
        """
        if self.is_draining:
            raise Draining("the service is stopping")
        if not self.is_loaded:
            loading = [name for name in self.settings.models if name not in self.networks]
            raise NotReady("networks are still loading", headers={"Retry-After": "1"}, loading=loading)
        async for name, reason in self._devices_that_fail():
            raise NotReady(f"the device {name} {reason}", headers={"Retry-After": "5"}, device=name)

    def refuse_overload(self) -> None:
        """Refuses a request before its body is read, where it could not be taken anyway.

        Raises:
            Draining: the service is stopping.
            QueueFull: `CAM_QUEUE_SIZE` requests are in flight.
        """
        if self.is_draining:
            raise Draining("the service is stopping", headers={"Connection": "close"})
        if self.in_flight >= self.settings.queue_size:
            seconds = math.ceil(self.in_flight * self._between_answers_s)
            raise QueueFull(
                f"{self.in_flight} requests are waiting already",
                headers={"Retry-After": str(min(max(1, seconds), _LONGEST_RETRY_S))},
                expected=f"at most {self.settings.queue_size}",
            )

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds a place in the queue for one request, until its reply is sent.

        Raises:
            Draining: the service is stopping.
            QueueFull: `CAM_QUEUE_SIZE` requests are in flight.
        """
        self.refuse_overload()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._answered.set()
                self._trim_soon()

    def _trim_soon(self) -> None:
        """Has what requests left behind returned, whether others follow or not; called while there are none."""
        loop = asyncio.get_running_loop()
        if self._next_trim is None:
            self._next_trim = loop.call_later(CHECK_EVERY_S, self._trim)
        elif self._next_trim.when() <= loop.time():  # there were requests then
            self._trim()

    def _trim(self) -> None:
        if self.in_flight:
            return
        self._next_trim = None
        if self._trimmer.has_grown():
            self._helpers.submit(self._trimmer.run)

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Limits the time until a request has its answer.

        Raises:
            Timeout: the body of the context took longer than `CAM_TIMEOUT_S`.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                yield
        except TimeoutError:
            limit = self.settings.timeout_s
            raise Timeout(f"no answer within {limit:g} s", limit_s=limit) from None
        self._note_answer(started)

    @contextmanager
    def tracking_progress(self, request_id: str) -> Iterator[RequestProgress]:
        """Lets `progress_of` find a request until the context ends."""
        progress = RequestProgress(request_id)
        self._tracked.append(progress)
        try:
            yield progress
        finally:
            self._tracked.remove(progress)

    def progress_of(self, request_id: str) -> RequestProgress | None:
        """The progress of a request; of several with this id the last, None where there is none."""
        return next((kept for kept in reversed(self._tracked) if kept.request_id == request_id), None)

    async def drain(self) -> None:
        """Takes no more requests, and returns when all that were accepted are answered."""
        self.is_draining = True
        while self.in_flight:
            self._answered.clear()
            await self._answered.wait()

    async def offload(self, work: Callable[[], Result]) -> Result:
        """Runs work that keeps the processor busy (encoding) in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)

    def close(self) -> None:
        """Ends all threads."""
        if self._next_trim is not None:
            self._next_trim.cancel()
        for worker in self.workers.values():
            worker.close()
        self._helpers.shutdown(wait=True, cancel_futures=True)

    async def _devices_that_fail(self) -> AsyncIterator[tuple[str, str]]:
        """The names of the devices that fail, each with the reason."""
        for name, worker in self.workers.items():
            on_it = (backend for backend in self.networks.values() if isinstance(backend, ServedNetwork))
            served = next((served for served in on_it if served.worker is worker), None)
            probe = served.probe if served else None
            if reason := await why_not_ready(worker, probe, self.settings.timeout_s):
                yield name, reason

    def _note_answer(self, started: float) -> None:
        """Updates the mean time between answers; time in which nobody waited does not count."""
        now = time.monotonic()
        latest = now - max(started, self._last_answer)
        self._between_answers_s += _SHARE_OF_LATEST * (latest - self._between_answers_s)
        self._last_answer = now
