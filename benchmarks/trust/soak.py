"""A soak for an hour; see `testing.soak`.

`python -m benchmarks.trust.soak --minutes 60 --load 0.7` starts the service, prints a line a minute, and at the end
what `benchmarks/RESULTS.md` takes.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from testing.serving import serving
from testing.soak import soak
from testing.soak_report import MOST_DRIFT, head


def main() -> int:
    """Starts the service, soaks it and prints."""
    parser = argparse.ArgumentParser(description="Mixed requests at a steady pace.")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--load", type=float, default=0.7, help="share of what sixteen callers get")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
        print(head())
        report = asyncio.run(soak(service, chosen.minutes, chosen.load, seed=chosen.seed, say=say))
        log = service.log.read_text()
    print(f"\n{report.summary(chosen.load)}\ntracebacks in the log of the service: {log.count('Traceback')}")
    return 0 if not report.faults and report.drift()[0] <= MOST_DRIFT else 1


if __name__ == "__main__":
    sys.exit(main())
