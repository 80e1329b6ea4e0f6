"""Requests of every kind at once, each reply held against the one that the same request got alone.

`python -m benchmarks.mixed [REQUESTS] [LONG]` starts the service and prints what it found.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from testing.load import call_all
from testing.serving import serving


def main(count: int = 5000, long: int = 20) -> None:
    """Starts the service, calls it and prints."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), timeout_s=600) as service:
        started = time.perf_counter()
        report = asyncio.run(call_all(service, count, long))
        seconds = time.perf_counter() - started
    print(f"{sum(report.statuses.values())} replies in {seconds:.0f} s: {dict(report.statuses)}")
    print(f"resident MiB after each hundred: {', '.join(f'{mib:.0f}' for mib in report.resident_mib)}")
    print(f"{len(report.faults)} faults", *report.faults[:20], sep="\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
