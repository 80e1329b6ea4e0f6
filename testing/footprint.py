"""What a running process takes up, read from /proc."""

from dataclasses import dataclass
from pathlib import Path

_PAGE_MIB = 4096 / 2**20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of the service at one moment.

    Attributes:
        resident_mib: memory of its own process.
        children_mib: memory of all its children together.
        descriptors: open files and sockets of its own process.
        threads: of its own process.
        children: how many it has.
    """

    resident_mib: float
    children_mib: float
    descriptors: int
    threads: int
    children: int


def footprint(pid: int) -> Footprint:
    """Looks at a process and its children."""
    children = children_of(pid)
    return Footprint(
        resident_mib(pid),
        sum(map(resident_mib, children)),
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        len(list(Path(f"/proc/{pid}/task").iterdir())),
        len(children),
    )


def children_of(pid: int) -> list[int]:
    """The processes that it has started."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children += map(int, (task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue
    return children


def resident_mib(pid: int) -> float:
    """Memory of one process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    except OSError:
        return 0.0


def stolen_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The share of all processors' time that the host took for others between two looks at `processor_ticks`."""
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def processor_ticks() -> tuple[int, int]:
    """Ticks of all processors that the host took for others, and ticks in all."""
    ticks = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)
