"""The event loop's longest stall for the largest requests of every kind: `python -m benchmarks.stalls`.

A process of its own asks `/livez` on one connection every two milliseconds, while another sends the request. The time
of its slowest answer is the longest stall, with whatever the machine itself adds; how much that is, is told by the same
calls while nobody sends anything.
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.largest import bodies, headers
from benchmarks.measure import row, table
from testing.serving import serving

_ASKING = Path(__file__).with_name("asking_livez.py")
_REPEATS = 3
_CALM_S = 5.0
_EVERY_S = 0.002
_TIMEOUT_S = 120.0
# What is still done when the answer is there.
_SETTLE_S = 0.5


@dataclass(slots=True)
class Probe:
    """What somebody saw who asked all the time.

    Attributes:
        latencies_ms: of each answer.
    """

    latencies_ms: list[float] = field(default_factory=list)


@contextmanager
def probing(url: str) -> Iterator[Probe]:
    """Asks `/livez` from another process; what it saw is there when the context ends."""
    probe = Probe()
    command = [sys.executable, str(_ASKING), url, str(_EVERY_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # it asks
        yield probe
        process.stdin.close()
        probe.latencies_ms += json.loads(process.stdout.read())


def send(url: str, wire: bytes) -> str:
    """Sends a request from this process and waits for the end of its answer; returns the status."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), _TIMEOUT_S) as connection:
        with suppress(OSError):
            connection.sendall(wire)
        with suppress(OSError):
            answer = connection.recv(65536)
            while connection.recv(2**20):
                pass
            return answer.split(b" ", 2)[1].decode() if answer else "closed"
    return "reset"


def longest_ms(url: str, wire: bytes) -> tuple[float, str]:
    """The slowest answer to others while a request is sent and answered; and its status."""
    with probing(url) as seen:
        status = send(url, wire) if wire else ""
        time.sleep(_SETTLE_S if wire else _CALM_S)
    return max(seen.latencies_ms), status


def main() -> None:
    """Prints the table."""
    page = [
        "## The event loop's longest stall",
        "",
        f"The slowest answer of `/livez`, in ms, asked every {1e3 * _EVERY_S:g} ms by another process while the "
        f"largest request of a kind is sent and answered: median of {_REPEATS} times (smallest to largest). "
        "The aim is 100 ms.",
        "",
        *table("request", "answer", "bytes", "ms"),
    ]
    print(*page, sep="\n")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
        send(service.url, next(bodies()).wire())
        stalls = [longest_ms(service.url, b"")[0] for _ in range(_REPEATS)]
        row(f"none, for {_CALM_S:g} s", "", "", _shown(stalls))
        for largest in (*bodies(), *headers()):
            wire = largest.wire()
            times = [longest_ms(service.url, wire) for _ in range(_REPEATS)]
            row(largest.name, times[-1][1], f"{len(wire):,}", _shown([stall for stall, _ in times]))


def _shown(stalls: list[float]) -> str:
    return f"{statistics.median(stalls):.0f} ({min(stalls):.0f} to {max(stalls):.0f})"


if __name__ == "__main__":
    main()
