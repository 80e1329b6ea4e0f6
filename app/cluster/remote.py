"""Networks that run in replicas elsewhere, as the ingress sees them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from app.cam.questions import Question
from app.cam.views import Smooth
from app.cluster.replica import Description, Refusal
from app.errors import WorkerFailed
from app.runtime.backend import Backend, Begun, Pixels, Seen, nobody_asks
from app.runtime.jobs import Done
from app.runtime.runtime import Runtime
from app.settings import Settings

_ATTEMPTS = 2
_LOOK_EVERY_S = 1.0
# A probe of the device takes 3 s at most, and has a way to go.
_PROBE_S = 5.0


class RemoteNetwork(Backend):
    """A network whose replicas answer.

    A replica that dies has its requests asked again once: they are the same however often they are asked.
    """

    def __init__(self, description: Description, handle: DeploymentHandle) -> None:
        self.network = description.network
        self.module_paths = description.module_paths
        self._handle = handle

    async def classify(self, pixels: Pixels) -> Done[Seen]:
        """See `Backend`."""
        return await self._ask("classify", pixels)

    async def explain(
        self,
        pixels: Pixels,
        paths: tuple[str, ...],
        questions: Sequence[Question],
        smooth: Smooth,
        limit_s: float,
        begun: Begun = nobody_asks,
    ) -> Done[Seen]:
        """See `Backend`; it has begun when a replica is asked, and only that one could estimate it."""
        begun(None)
        return await self._ask("explain", pixels, paths, questions, smooth, limit_s)

    def refuse_beyond(
        self, limit_s: float, paths: Sequence[str], questions: Sequence[Question], smooth: Smooth
    ) -> None:
        """See `Backend`; what is asked of one image is judged when it is asked, by the replica that knows its costs."""
        if not any(question.image for question in questions):
            return
        with suppress(RayActorError, DeploymentUnavailableError, TimeoutError):  # then each image is judged alone
            response = self._handle.refuse_beyond.remote(limit_s, paths, questions, smooth)
            if (refusal := response.result(timeout_s=_PROBE_S)) is not None:
                raise refusal.error

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

    async def _ask(self, method: str, *arguments: object) -> Done[Seen]:
        for _ in range(_ATTEMPTS):
            response: Any = getattr(self._handle, method).remote(*arguments)
            try:
                answer: Done[Seen] | Refusal = await response
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
    """What lives as long as an ingress does: all but the networks."""

    def __init__(self, settings: Settings, handles: Mapping[str, DeploymentHandle]) -> None:
        super().__init__(settings)
        self._handles = handles

    def load(self) -> None:
        """Waits until a replica of every network has said what it holds; blocks."""
        for name, handle in self._handles.items():
            asked = handle.describe.remote()
            while name not in self.networks and not self.is_draining:
                with suppress(TimeoutError):
                    self.networks[name] = RemoteNetwork(asked.result(timeout_s=_LOOK_EVERY_S), handle)

    async def _devices_that_fail(self) -> AsyncIterator[tuple[str, str]]:
        """Of each network the one that is asked."""
        for backend in list(self.networks.values()):
            if reason := await backend.why_not_ready(self.settings.timeout_s):
                yield f"{backend.network.device} of {backend.network.name}", reason
