"""A network in its own process on a machine of the cluster."""

import asyncio
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from app.cam.errors import CamError
from app.cam.questions import Question
from app.errors import ServiceError
from app.logs import set_up_logs
from app.runtime.backend import ExplainRequest, NetworkOutput, Pixels
from app.runtime.devices import choose_devices, set_precision
from app.runtime.jobs import JobResult
from app.runtime.memory import settle
from app.runtime.served import serve_network
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import Network, find_networks


@dataclass(frozen=True, slots=True)
class Description:
    """What the ingress must know of a network.

    Attributes:
        network: without its model.
        module_paths: what a caller may name as a layer.
    """

    network: Network
    module_paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as a result: Ray would wrap a raised exception into one of its own.

    Attributes:
        error: to be raised for the caller.
    """

    error: CamError | ServiceError


class NetworkReplica:
    """Holds a network on its device, and gathers the requests of all ingresses into batches."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Loads the network; blocks.

        Raises:
            NetworkError: it cannot be loaded.
        """
        set_up_logs(settings.log_format)
        (spec,) = find_networks([name], settings.config)
        set_precision(settings.precision)
        self._settings = settings
        self._worker = DeviceWorker(choose_devices(settings.device)[0])
        self._served = serve_network(spec, self._worker, settings)
        settle()

    async def describe(self) -> Description:
        """What the network is."""
        served = self._served
        return Description(replace(served.network, model=nn.Identity()), served.module_paths)

    async def classify(self, pixels: Pixels) -> JobResult[NetworkOutput] | Refusal:
        """See `Backend.classify`."""
        # Ray's arrays are read-only, and PyTorch takes none that are.
        return await self._answer(self._served.classify(pixels.copy()))

    async def explain(self, pixels: Pixels, request: ExplainRequest) -> JobResult[NetworkOutput] | Refusal:
        """See `Backend.explain`."""
        return await self._answer(self._served.explain(pixels.copy(), request))

    async def admit(self, request: ExplainRequest) -> ExplainRequest | Refusal:
        """See `Backend.admit`."""
        try:
            return await asyncio.to_thread(self._served.admit, request)
        except ServiceError as error:
            return Refusal(error)

    async def why_not_ready(self, longest_s: float) -> str | None:
        """See `Backend.why_not_ready`."""
        return await self._served.why_not_ready(longest_s)

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces a replica that fails to answer.

        Raises:
            RuntimeError: the device does not work.
        """
        if reason := await self._served.why_not_ready(self._settings.timeout_s):
            raise RuntimeError(f"the device {reason}")

    async def _answer(self, asked: Any) -> JobResult[NetworkOutput] | Refusal:  # noqa: ANN401 - an awaitable of JobResult[NetworkOutput]
        try:
            done: JobResult[NetworkOutput] = await asked
        except (CamError, ServiceError) as error:
            return Refusal(error)
        return await asyncio.to_thread(_on_cpu, done)


def _on_cpu(value: Any) -> Any:  # noqa: ANN401 - whatever an answer is made of
    """A copy whose tensors are on the CPU and hold only their own values."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, tuple):
        return tuple(_on_cpu(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type | Question):
        return replace(value, **{field.name: _on_cpu(getattr(value, field.name)) for field in fields(value)})
    return value
