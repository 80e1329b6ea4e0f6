"""What a running service takes up, and what it has said of its decoders."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from testing.footprint import children_of, resident_mib
from testing.serving import Service


@dataclass(slots=True)
class Memory:
    """Memory of the service over a run.

    Attributes:
        requests: how many had been answered at each sample.
        service_mib: of the service's own process.
        children_mib: of all its decoders.
    """

    requests: list[int] = field(default_factory=list)
    service_mib: list[float] = field(default_factory=list)
    children_mib: list[float] = field(default_factory=list)

    def sample(self, service: Service, requests: int) -> None:
        """Adds a sample."""
        pid = service.process.pid
        self.requests.append(requests)
        self.service_mib.append(resident_mib(pid))
        self.children_mib.append(sum(map(resident_mib, children_of(pid))))

    def slope_mib(self) -> float:
        """Growth of the service's own process in MiB for a thousand requests, over the second half of the run."""
        half = len(self.requests) // 2
        if len(self.requests) - half < 4:
            return 0.0
        return float(1000 * np.polyfit(self.requests[half:], self.service_mib[half:], 1)[0])


def broken_decoders(service: Service) -> int:
    """How many pictures have ended the process that read them."""
    log = service.log.read_text(encoding="utf-8", errors="replace")
    return log.count("crashed its decoder") + log.count("a decoder was killed")


def tracebacks(service: Service) -> int:
    """How many errors nobody foresaw."""
    return service.log.read_text(encoding="utf-8", errors="replace").count("Traceback")


def held_bytes(service: Service) -> float:
    """What the service says that posted and drawn pictures take up."""
    metrics = httpx.get(f"{service.url}/metrics", timeout=60).text
    (line,) = (line for line in metrics.splitlines() if line.startswith('cam_held_bytes{kind="pictures"}'))
    return float(line.split()[-1])


def shared_bytes(service: Service) -> int:
    """Memory without a name that the service holds."""
    total = 0
    for file in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with suppress(OSError):
            if "memfd:" in str(file.readlink()):
                total += file.stat().st_blocks * 512
    return total
