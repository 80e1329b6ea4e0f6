"""What a running service takes up, and what it has said of its decoders."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.api.serving import Service

_PAGE_MIB = 4096 / 2**20


def resident_mib(pid: int) -> float:
    """Memory of a process; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


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
    return log.count("broke its decoder") + log.count("a decoder was killed")


def tracebacks(service: Service) -> int:
    """How many errors nobody foresaw."""
    return service.log.read_text(encoding="utf-8", errors="replace").count("Traceback")
