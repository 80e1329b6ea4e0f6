"""Networks that run in replicas, as the ingress calls them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from app.cluster.replica import Description, Refusal
from app.errors import WorkerFailed
from app.runtime.backend import Backend, ExplainRequest, NetworkOutput, OnStart, Pixels, ignore_start
from app.runtime.jobs import JobResult
from app.runtime.runtime import Runtime
from app.settings import Settings
from service_models import LabelIndex

_ATTEMPTS = 2
_POLL_S = 1.0
# A probe of the device takes 3 s at most, and some time to travel.
_PROBE_S = 5.0


class RemoteNetwork(Backend):
    """A network in replicas.

    A request whose replica dies is sent once more to another: it has the same answer however often it is asked.
    """

    def __init__(self, description: Description, handle: DeploymentHandle) -> None:
        self.network = description.network
        self.module_paths = description.module_paths
        self.labels = LabelIndex(description.network.labels)
        self._handle = handle

    async def classify(self, pixels: Pixels) -> JobResult[NetworkOutput]:
        """See `Backend`."""
        return await self._call("classify", pixels)

    async def explain(
        self, pixels: Pixels, request: ExplainRequest, on_start: OnStart = ignore_start
    ) -> JobResult[NetworkOutput]:
        """See `Backend`; it counts as started when a replica has it, and only the replica knows an estimate."""
        on_start(None)
        return await self._call("explain", pixels, request)

    def admit(self, request: ExplainRequest) -> ExplainRequest:
        """See `Backend`; the replica that explains an image admits it, so that only several are asked about here."""
        if any(question.image_index for question in request.questions):
            with suppress(RayActorError, DeploymentUnavailableError, TimeoutError):  # each image is then judged alone
                verdict = self._handle.admit.remote(request).result(timeout_s=_PROBE_S)
                if isinstance(verdict, Refusal):
                    raise verdict.error
        return request

    async def why_not_ready(self, longest_s: float) -> str | None:
        """See `Backend`; of the replica that is asked."""
        try:
            async with asyncio.timeout(_PROBE_S):
                reason: str | None = await self._handle.why_not_ready.remote(longest_s)
        except TimeoutError:
            return f"did not answer within {_PROBE_S:g} s"
        except (RayActorError, DeploymentUnavailableError):
            return "has lost the replica that was asked"
        return reason

    async def _call(self, method: str, *arguments: object) -> JobResult[NetworkOutput]:
        for _ in range(_ATTEMPTS):
            response: Any = getattr(self._handle, method).remote(*arguments)
            try:
                answer: JobResult[NetworkOutput] | Refusal = await response
            except (RayActorError, DeploymentUnavailableError):
                continue
            except asyncio.CancelledError:
                response.cancel()
                raise
            if isinstance(answer, Refusal):
                raise answer.error
            return answer
        raise WorkerFailed("two replicas of the network died with this request", headers={"Retry-After": "1"})


class RemoteRuntime(Runtime):
    """The state that lives as long as an ingress: all but the networks."""

    def __init__(self, settings: Settings, handles: Mapping[str, DeploymentHandle]) -> None:
        super().__init__(settings)
        self._handles = handles

    def load(self) -> None:
        """Waits until a replica of every network has said what it holds; blocks."""
        for name, handle in self._handles.items():
            asked = handle.describe.remote()
            while name not in self.networks and not self.is_draining:
                with suppress(TimeoutError):
                    self.networks[name] = RemoteNetwork(asked.result(timeout_s=_POLL_S), handle)

    async def _devices_that_fail(self) -> AsyncIterator[tuple[str, str]]:
        """Of each network the one that is asked."""
        for backend in list(self.networks.values()):
            if reason := await backend.why_not_ready(self.settings.timeout_s):
                yield f"{backend.network.device} of {backend.network.name}", reason
