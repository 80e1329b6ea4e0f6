"""All networks of the service, their loading, and the admission of work."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from app.errors import NotReady, QueueFull, Timeout, UnknownModel
from app.runtime.served import ServedNetwork
from app.runtime.worker import DeviceWorker, choose_devices
from app.settings import Settings
from service_models import NetworkSpec, load_network, read_config, resolve

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


class Runtime:
    """What lives as long as the service does.

    Attributes:
        settings: as given.
        networks: the loaded ones by name, in the configured order.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.networks: dict[str, ServedNetwork] = {}
        self._workers: dict[str, DeviceWorker] = {}
        self._helpers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="helper")
        self._in_flight = 0

    @property
    def ready(self) -> bool:
        """Whether every configured network is loaded and warm."""
        return len(self.networks) == len(self.settings.models)

    def load(self) -> None:
        """Loads and warms every configured network; blocks.

        Raises:
            NetworkError: a network cannot be loaded; the message says what to do.
            ValueError: `CAM_DEVICE` names a device that is not there.
        """
        config: Mapping[str, NetworkSpec] = {}
        if self.settings.config is not None:
            config = read_config(self.settings.config)
        specs = [resolve(name, config) for name in self.settings.models]
        devices = choose_devices(self.settings.device)
        for device in devices:
            self._workers.setdefault(str(device), DeviceWorker(device))
        for number, spec in enumerate(specs):
            device = devices[number % len(devices)]
            _LOG.info("loading %s on %s", spec.name, device)
            started = time.perf_counter()
            network = load_network(spec, device, self.settings.weights_dir)
            served = ServedNetwork(network, self._workers[str(device)])
            served.warm()
            self.networks[spec.name] = served
            seconds = time.perf_counter() - started
            _LOG.info(
                "%s is ready: weights %s, %d classes, %.1f s",
                spec.name, network.weights, len(network.labels), seconds,
            )  # fmt: skip

    def network(self, name: str | None) -> ServedNetwork:
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
        raise UnknownModel(f"there is no network '{name}' here", field="model", takes=f"one of {loaded}", value=name)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Holds a place in the queue, and the deadline, for one request.

        Raises:
            QueueFull: `CAM_QUEUE_SIZE` requests are in flight.
            Timeout: the body of the context took longer than `CAM_TIMEOUT_S`.
        """
        if self._in_flight >= self.settings.queue_size:
            message = f"{self._in_flight} requests are waiting already"
            raise QueueFull(message, headers={"Retry-After": "1"}, takes=f"at most {self.settings.queue_size}")
        self._in_flight += 1
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                yield
        except TimeoutError:
            limit = self.settings.timeout_s
            raise Timeout(f"no answer within {limit:g} s", limit_s=limit) from None
        finally:
            self._in_flight -= 1

    async def offload(self, work: Callable[[], Result]) -> Result:
        """Runs work for the processor (decoding, encoding) off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)

    def close(self) -> None:
        """Ends all threads."""
        for worker in self._workers.values():
            worker.close()
        self._helpers.shutdown(wait=True, cancel_futures=True)
