"""One thread a device: whatever touches the device runs there, one job after another."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Done(Generic[Result]):
    """A job's result, and how long it waited and ran, in milliseconds."""

    __slots__ = ("compute_ms", "queue_ms", "result")

    def __init__(self, result: Result, queue_ms: float, compute_ms: float) -> None:
        self.result, self.queue_ms, self.compute_ms = result, queue_ms, compute_ms


class DeviceWorker:
    """Owns a device, so that no request ever holds a lock around a network."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"device-{device}")

    async def run(self, job: Callable[[], Result]) -> Done[Result]:
        """Queues a job; one that is cancelled before its turn never runs."""
        queued = time.perf_counter()

        def timed() -> Done[Result]:
            started = time.perf_counter()
            result = job()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            ended = time.perf_counter()
            return Done(result, 1e3 * (started - queued), 1e3 * (ended - started))

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def start(self, job: Callable[[], object]) -> None:
        """Queues a job whose result nobody waits for."""
        self._thread.submit(job)

    def close(self) -> None:
        """Lets the running job end and drops the others."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def choose_devices(names: tuple[str, ...]) -> tuple[torch.device, ...]:
    """Turns `auto`, `cpu`, `cuda`, `cuda:1` into devices.

    Raises:
        ValueError: the machine has no such device.
    """
    devices = []
    for name in names:
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"CAM_DEVICE: '{name}' is no device; it takes auto, cpu, cuda or cuda:N") from None
        if device.type == "cuda":
            count = torch.cuda.device_count()
            if (device.index or 0) >= count:
                raise ValueError(f"CAM_DEVICE: '{name}' is not here; this machine has {count} CUDA devices")
        elif device.type != "cpu":
            raise ValueError(f"CAM_DEVICE: '{name}' is not supported; it takes auto, cpu, cuda or cuda:N")
        devices.append(device)
    return tuple(devices)
