"""A network in a process of its own on some machine of the cluster."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from app.cam.errors import CamError
from app.cam.questions import Question
from app.cam.views import Smooth
from app.errors import ServiceError
from app.logs import set_up_logs
from app.runtime.backend import Pixels, Seen
from app.runtime.devices import choose_devices, set_precision
from app.runtime.jobs import Done
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
    """An answer that is an error; as an exception Ray would wrap it into one of its own.

    Attributes:
        error: to be raised for the caller.
    """

    error: CamError | ServiceError


class NetworkReplica:
    """Holds a network on its device, and gathers what comes from all ingresses into batches."""

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

    async def describe(self) -> Description:
        """What the network is."""
        served = self._served
        return Description(replace(served.network, model=nn.Identity()), served.module_paths)

    async def classify(self, pixels: Pixels) -> Done[Seen] | Refusal:
        """See `Backend.classify`."""
        # Ray's arrays are read-only, and PyTorch takes none that are.
        return await self._answer(self._served.classify(pixels.copy()))

    async def explain(
        self, pixels: Pixels, paths: tuple[str, ...], questions: Sequence[Question], smooth: Smooth, limit_s: float
    ) -> Done[Seen] | Refusal:
        """See `Backend.explain`."""
        return await self._answer(self._served.explain(pixels.copy(), paths, questions, smooth, limit_s))

    async def refuse_beyond(
        self, limit_s: float, paths: Sequence[str], questions: Sequence[Question], smooth: Smooth
    ) -> Refusal | None:
        """See `Backend.refuse_beyond`."""
        try:
            await asyncio.to_thread(self._served.refuse_beyond, limit_s, paths, questions, smooth)
        except ServiceError as error:
            return Refusal(error)
        return None

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

    async def _answer(self, asked: Any) -> Done[Seen] | Refusal:  # noqa: ANN401 - an awaitable of Done[Seen]
        try:
            done: Done[Seen] = await asked
        except (CamError, ServiceError) as error:
            return Refusal(error)
        return await asyncio.to_thread(_on_cpu, done)


def _on_cpu(value: Any) -> Any:  # noqa: ANN401 - whatever an answer is made of
    """The same with tensors that hold nothing but their own values, in the memory of the processor."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, tuple):
        return tuple(_on_cpu(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type | Question):
        return replace(value, **{field.name: _on_cpu(getattr(value, field.name)) for field in fields(value)})
    return value
