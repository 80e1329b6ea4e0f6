"""What a soak found: a line a minute, and what the results take."""

import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from testing.footprint import Footprint

# p99 of the last ten minutes over that of the first ten.
MOST_DRIFT = 1.2
_WINDOW = 10
_SHOWN_FAULTS = 20
_COLUMNS = (
    "minute", "p50 ms", "p99 ms", "machine ms", "stolen %", "callers %", "late ms", "RSS MiB", "children MiB",
    "descriptors", "threads", "statuses", "wrong",
)  # fmt: skip


@dataclass(slots=True)
class Minute:
    """What the requests saw that were due in one minute, and how the service stood at its end.

    Attributes:
        latencies_ms: of all answers, from when the request was due.
        statuses: how often each came.
        faults: replies that were lost or wrong.
        late_ms: how late the generator itself sent the latest request.
        machine_ms: processor time of a fixed computation outside the service, median.
        stolen: share of the processors that the host took for others.
        generator: share of one processor that the generator took.
        service: what the service took up.
    """

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    late_ms: float = 0.0
    machine_ms: list[float] = field(default_factory=list)
    stolen: float = 0.0
    generator: float = 0.0
    service: Footprint | None = None

    def line(self, number: int) -> str:
        """Its row."""
        p50, p99 = (np.quantile(self.latencies_ms or [0.0], q) for q in (0.5, 0.99))
        service = self.service
        assert service is not None
        return _row(
            number,
            f"{p50:.0f}",
            f"{p99:.0f}",
            f"{np.median(self.machine_ms or [0.0]):.2f}",
            f"{100 * self.stolen:.1f}",
            f"{100 * self.generator:.0f}",
            f"{self.late_ms:.0f}",
            f"{service.resident_mib:.0f}",
            f"{service.children_mib:.0f}",
            service.descriptors,
            service.threads,
            _counted(self.statuses),
            len(self.faults),
        )


@dataclass(slots=True)
class Report:
    """A whole soak.

    Attributes:
        capacity: answers a second that `CALLERS` callers got.
        rate: requests a second that were sent.
        minutes: one after the other.
        before: what the service took up before the first minute, after it had been busy.
        after: the same at the end, with nobody connected.
    """

    capacity: float
    rate: float
    minutes: list[Minute]
    before: Footprint
    after: Footprint

    @property
    def faults(self) -> list[str]:
        """All replies that were lost or wrong."""
        return [fault for minute in self.minutes for fault in minute.faults]

    @property
    def statuses(self) -> Counter[str]:
        """How often each came."""
        return sum((minute.statuses for minute in self.minutes), Counter())

    def drift(self) -> tuple[float, float]:
        """p99 of the last ten minutes over the first ten, and the same of the machine's own computation."""
        window = min(_WINDOW, max(1, len(self.minutes) // 3))
        first, last = self.minutes[:window], self.minutes[-window:]
        latency = [np.quantile(list(itertools.chain(*(minute.latencies_ms for minute in part))), 0.99)
                   for part in (last, first)]  # fmt: skip
        machine = [np.median(list(itertools.chain(*(minute.machine_ms for minute in part)))) for part in (last, first)]
        return float(latency[0] / latency[1]), float(machine[0] / machine[1])

    def slope_mib(self) -> float:
        """Memory of the service and its children over the second half, MiB an hour for minutes of 60 s."""
        known = [minute.service for minute in self.minutes[len(self.minutes) // 2 :] if minute.service is not None]
        if len(known) < 2:
            return 0.0
        memory = [service.resident_mib + service.children_mib for service in known]
        return 60 * float(np.polyfit(range(len(memory)), memory, 1)[0])

    def summary(self, load: float) -> str:
        """A table, and the first of the faults."""
        latency, machine = self.drift()
        latencies = list(itertools.chain(*(minute.latencies_ms for minute in self.minutes)))
        p50, p99 = np.quantile(latencies, 0.5), np.quantile(latencies, 0.99)
        memory = [minute.service.resident_mib for minute in self.minutes if minute.service is not None]
        generator = np.mean([minute.generator for minute in self.minutes])
        lines = [
            "| soak | |",
            "|---|---|",
            _row("minutes, load", f"{len(self.minutes)}, {load:g} of {self.capacity:.1f} answers a second"),
            _row("replies, all of them checked", f"{sum(self.statuses.values()):,}"),
            _row("statuses", _counted(self.statuses)),
            _row("lost or wrong", len(self.faults)),
            _row("p50, p99, largest, ms", f"{p50:.0f}, {p99:.0f}, {max(latencies):.0f}"),
            _row(f"p99, last minutes over first (at most {MOST_DRIFT:g})", f"{latency:.2f}"),
            _row("the machine's own computation, last over first", f"{machine:.2f}"),
            _row("RSS MiB: first minute, largest, last", f"{memory[0]:.0f}, {max(memory):.0f}, {memory[-1]:.0f}"),
            _row("slope over the second half, with children, MiB an hour", f"{self.slope_mib():+.0f}"),
            _row("descriptors, before and after", f"{self.before.descriptors}, {self.after.descriptors}"),
            _row("threads, before and after", f"{self.before.threads}, {self.after.threads}"),
            _row("processor that the callers took, share of one", f"{generator:.2f}"),
        ]
        return "\n".join([*lines, *self.faults[:_SHOWN_FAULTS]])


def head() -> str:
    """What stands above the minutes."""
    return f"{_row(*_COLUMNS)}\n|{'---|' * len(_COLUMNS)}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _counted(statuses: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
